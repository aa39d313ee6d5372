"""The fee rules in an OP Stack block's extraData, held against those of the payload attributes.

    Holocene   00  denominator (u32 BE)  elasticity (u32 BE)                           9 bytes
    Jovian     01  denominator (u32 BE)  elasticity (u32 BE)  minimum base fee (u64)  17 bytes

They rule the next block's base fee, and the execution client checks no more than their form: it calls a block VALID
that names others than the attributes do. But verifiers derive the block from these, and would get another one.
Attributes of zeros stand for the chain's own constants, which are not known here: then the numbers cannot be compared.
Nor can a form that is not one of these two; whether the fork has that one is for the execution client to say.
Source: OP specs, Holocene and Jovian, execution engine; op-node, AttributesMatchBlock.
"""

import re
from dataclasses import dataclass
from typing import Final

import msgspec

_PARAMS: Final = re.compile(rb'"0x([0-9a-fA-F]{8})([0-9a-fA-F]{8})"')
_QUANTITY: Final = re.compile(rb'"(0x[0-9a-fA-F]{1,16})"|([0-9]{1,20})')  # op-node writes a number, others a quantity
_ZERO: Final = b"00000000"
_FORMS: Final = {2 + 2 * 9: "0x00", 2 + 2 * 17: "0x01"}  # characters -> how it begins


@dataclass(frozen=True, slots=True)
class FeeRules:
    """What the attributes ask for: ``params`` 16 lower-case hex digits, ``min_base_fee`` in wei; None: nothing."""

    params: str | None = None
    min_base_fee: int | None = None

    def objection(self, extra_data: str | None) -> str | None:
        """How a block's extraData differs; None when it does not, or cannot be compared."""
        if extra_data is None or _FORMS.get(len(extra_data)) != extra_data[:4].lower():
            return None
        if self.params is not None and extra_data[4:20].lower() != self.params:
            return f"eip1559Params 0x{extra_data[4:20]}, asked for 0x{self.params}"
        minimum = extra_data[20:].lower()  # nothing before Jovian
        if self.min_base_fee is None or minimum in {"", f"{self.min_base_fee:016x}"}:
            return None
        return f"minBaseFee 0x{minimum}, asked for {self.min_base_fee}"


def fee_rules(eip1559_params: msgspec.Raw, min_base_fee: msgspec.Raw) -> FeeRules:
    """The rules of the attributes' two members as they came; what cannot be read is not compared."""
    params = _PARAMS.fullmatch(eip1559_params)
    # A zero in either place is no rule that a block could have: it would divide by it.
    is_set = params is not None and _ZERO not in params.groups()
    digits = (params[1] + params[2]).decode().lower() if params is not None and is_set else None
    minimum = _QUANTITY.fullmatch(min_base_fee)
    return FeeRules(digits, int(minimum[1] or minimum[2], 16 if minimum[1] else 10) if minimum else None)
