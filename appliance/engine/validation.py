"""The local execution client's judgement of a block that the flashblocks add up to."""

from appliance.domain.assembled import AssembledPayload
from appliance.domain.errors import RemoteError, UnavailableError
from appliance.domain.payloads import PayloadStatus
from appliance.engine.upstream import Upstream
from appliance.wire.engine_answers import decode_verdict
from appliance.wire.engine_bodies import new_payload_request_of_assembled


class BlockValidator:
    """newPayload on the EL, for the flashblock plane, which may not publish what the EL does not call VALID."""

    def __init__(self, el: Upstream) -> None:
        self._el = el

    async def validate(self, payload: AssembledPayload) -> PayloadStatus:
        """The EL's verdict; raises UnavailableError when it gave none."""
        response = await self._el.post(new_payload_request_of_assembled(payload))
        if response.status != 200:
            raise UnavailableError(f"{self._el.origin}: HTTP {response.status}")
        try:
            return decode_verdict(response.body).status
        except RemoteError as error:
            raise UnavailableError(f"{self._el.origin}: {error}") from error


class NoValidator:
    """Where there is no execution client: flashblocks are judged by their structure alone, so nobody asks."""

    async def validate(self, payload: AssembledPayload) -> PayloadStatus:
        """Raises UnavailableError."""
        raise UnavailableError(f"no execution client judges payload {payload.payload_id}")
