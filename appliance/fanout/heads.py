"""The sessions at the head, in groups that get the same bytes. Pure."""

from collections.abc import Iterator

from appliance.fanout.filters import Filter
from appliance.fanout.frames import Variant
from appliance.fanout.session import Session

Group = dict[Session, None]
"""A dict, because it keeps the order of arrival and removes in constant time."""


class Heads:
    """Those who want everything by variant; the others by variant and filter, so that equal ones are judged once."""

    def __init__(self) -> None:
        self._everything: dict[Variant, Group] = {variant: {} for variant in Variant}
        # Thousands stay from one broadcast to the next: to list them anew is to touch each of them twice.
        self._listed: dict[Variant, list[Session]] = {}
        self.filtered: dict[tuple[Variant, Filter], Group] = {}

    def __iter__(self) -> Iterator[Session]:
        for group in (*self._everything.values(), *self.filtered.values()):
            yield from group

    def add(self, session: Session) -> None:
        """Take a session in."""
        if session.filter is None:
            self._listed.pop(session.variant, None)
            self._everything[session.variant][session] = None
        else:
            self.filtered.setdefault((session.variant, session.filter), {})[session] = None

    def remove(self, session: Session) -> None:
        """Let a session go; it must be here."""
        if session.filter is None:
            self._listed.pop(session.variant, None)
            del self._everything[session.variant][session]
            return
        key = session.variant, session.filter
        group = self.filtered[key]
        del group[session]
        if not group:
            del self.filtered[key]

    def everything(self) -> dict[Variant, list[Session]]:
        """Who wants everything now, by variant. A list is never changed: who comes or goes is in another one."""
        for variant, group in self._everything.items():
            if group and variant not in self._listed:
                self._listed[variant] = list(group)
        return dict(self._listed)

    def counts(self) -> dict[str, int]:
        """How many there are of each variant."""
        counts = {variant.value: len(group) for variant, group in self._everything.items()}
        for (variant, _), group in self.filtered.items():
            counts[variant.value] += len(group)
        return counts
