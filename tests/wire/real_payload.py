"""A call of engine_newPayloadV4 as it was captured (tests/data/ORIGIN.md), and its parts."""

import json
import pathlib
from typing import Any

DATA = pathlib.Path(__file__).parents[1] / "data" / "engine"
REAL_NEW_PAYLOAD: dict[str, Any] = json.loads((DATA / "unichain-sepolia-35535698-newPayloadV4.json").read_text())
REAL_PAYLOAD, _, REAL_ROOT, REAL_REQUESTS = REAL_NEW_PAYLOAD["params"]
