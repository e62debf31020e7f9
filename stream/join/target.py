"""The target of a label: an open query and a closed session take clicks and order lines in the same way."""

from abc import ABC, abstractmethod

from stream.join import labels as labelling
from stream.join import sessions
from stream.join.labels import Label, Labels, MergeResult, OrderLineLabel
from stream.join.sessions import ListView
from stream.schemas import money


class Target(ABC):
    """A list that takes labels.

    Attributes:
        is_open: Whether its click window is open.
        query_id: Its query.
        client_id: Its client.
        event_ts: Time of its impression.
        last_ts: Time of the last event that it takes.
        labels: Its labels, to read only.
    """

    __slots__ = ("_shown", "client_id", "event_ts", "labels", "last_ts", "query_id")
    is_open: bool

    def __init__(self, query_id: str, client_id: str, event_ts: int, last_ts: int, labels: Labels) -> None:
        self.query_id = query_id
        self.client_id = client_id
        self.event_ts = event_ts
        self.last_ts = last_ts
        self.labels = labels
        self._shown: ListView | None = None

    @property
    def shown(self) -> ListView:
        """Return its items; the list is decoded at the first call."""
        if self._shown is None:
            self._shown = sessions.list_view(self.list_payload())
        return self._shown

    def is_foreign(self, line: OrderLineLabel) -> bool:
        """Return whether an order line names another currency than its session has with it."""
        currency = labelling.currency([*self.labels.order_lines.values(), line], self.shown.list_currency)
        return line.currency not in {currency, money.NO_CURRENCY}

    @abstractmethod
    def list_payload(self) -> bytes:
        """Return the list payload."""

    @abstractmethod
    def merge(self, label: Label, reason: str) -> MergeResult:
        """Merge a label; the reason is that of the session's next revision."""
