"""What passes a filter, in the simplest way: the words of websocket-proxy's rule, over the text of the message."""

import json
from collections.abc import Iterable
from typing import Any

from appliance.fanout.filters import Filter


def passes(body: bytes, wanted: Filter | None) -> bool:
    """Whether a flashblock's JSON text is for a subscriber with this filter."""
    if wanted is None:
        return True
    message = json.loads(body)
    metadata = message.get("metadata") or {}
    logs = list(_logs(metadata.get("receipts") or {}))
    accounts = [*(metadata.get("new_account_balances") or {}), *(log["address"] for log in logs)]
    transactions = [bytes.fromhex(text[2:]) for text in (message.get("diff") or {}).get("transactions") or ()]
    topics = [topic for log in logs for topic in log["topics"]]
    address = any(_same(account, each) for account in accounts for each in wanted.addresses)
    address = address or any(each in transaction for transaction in transactions for each in wanted.addresses)
    topic = any(_same(found, each) for found in topics for each in wanted.topics)
    return (address and topic) if wanted.match_all else (address or topic)


def _same(text: str, value: bytes) -> bool:
    return text.lower() == "0x" + value.hex()


def _logs(receipts: dict[str, Any]) -> Iterable[dict[str, Any]]:
    for receipt in receipts.values():
        yield from receipt.get("logs", ())
        for inner in receipt.values():
            if isinstance(inner, dict):
                yield from inner.get("logs", ())
