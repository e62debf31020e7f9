"""The rows of a tier with the changes of the current micro-batch, which are read back and written once per key.

A row is deleted only after the broker has stored the progress row of the micro-batch that made it superfluous: a
restart before that needs the row again.

Source: docs/stream.md.
"""

from collections import deque
from collections.abc import Iterator, MutableMapping
from heapq import heappop, heappush

from stream.join import rows


class BatchNumbers:
    """Numbers of micro-batches.

    Attributes:
        current: Number of the current micro-batch.
        confirmed: Newest micro-batch whose progress row is stored. A restart begins after it, or later.
        confirmed_ts: Time before which every event had its outcome by the end of that micro-batch.
        ended_ts: The same by the end of the newest micro-batch.
    """

    def __init__(self) -> None:
        self.current = 0
        self.confirmed = -1
        self.confirmed_ts = 0
        self.ended_ts = 0
        self._unconfirmed: deque[tuple[int, int]] = deque()

    def restore(self, current: int, confirmed_ts: int) -> None:
        """Continue from a progress row, which is stored."""
        self.current = current
        self.confirmed = current - 1
        self.confirmed_ts = self.ended_ts = confirmed_ts

    def advance(self, outcomes_ts: int) -> None:
        """End the current micro-batch, with the time before which every event has its outcome."""
        self._unconfirmed.append((self.current, outcomes_ts))
        self.ended_ts = outcomes_ts
        self.current += 1

    def confirm(self, number: int) -> None:
        """Note that the progress row of a micro-batch is stored."""
        self.confirmed = max(self.confirmed, number)
        while self._unconfirmed and self._unconfirmed[0][0] <= self.confirmed:
            self.confirmed_ts = self._unconfirmed.popleft()[1]


class HotTier:
    """Rows in memory: lists and labels of open queries, and waiting events."""

    def __init__(self, stored: MutableMapping[bytes, bytes], batches: BatchNumbers) -> None:
        self._stored = stored
        self._batches = batches
        self._changed: dict[bytes, bytes | None] = {}
        self._to_delete: deque[tuple[int, bytes]] = deque()
        self._superfluous_since: dict[bytes, int] = {}
        self.size_bytes = sum(len(key) + len(value) for key, value in stored.items())

    def get(self, key: bytes) -> bytes | None:
        """Return the current row."""
        if key in self._changed:
            return self._changed[key]
        return self._stored.get(key)

    def put(self, key: bytes, value: bytes) -> None:
        """Write a row; a deletion that was scheduled before does not take place."""
        self._changed[key] = value
        self._superfluous_since.pop(key, None)

    def delete(self, key: bytes) -> None:
        """Delete a row that no restart needs."""
        self._changed[key] = None

    def schedule_deletion(self, key: bytes) -> None:
        """Delete a row after the current micro-batch is confirmed."""
        self._superfluous_since[key] = self._batches.current
        self._to_delete.append((self._batches.current, key))

    def stored_rows(self) -> dict[bytes, bytes]:
        """Return the stored rows, without the changes of the current micro-batch."""
        return dict(self._stored.items())

    def delete_confirmed(self) -> None:
        """Delete the scheduled rows of confirmed micro-batches, except those that were written since."""
        while self._to_delete and self._to_delete[0][0] <= self._batches.confirmed:
            batch_number, key = self._to_delete.popleft()
            if self._superfluous_since.get(key) == batch_number:
                del self._superfluous_since[key]
                self._changed[key] = None

    def flush(self) -> dict[bytes, bytes | None]:
        """Apply the changes of the micro-batch and return them."""
        changed, self._changed = self._changed, {}
        stored = self._stored
        for key, value in changed.items():
            before = stored.get(key)
            if before is not None:
                self.size_bytes -= len(key) + len(before)
            if value is not None:
                self.size_bytes += len(key) + len(value)
                stored[key] = value
            elif before is not None:
                del stored[key]
        return changed


class WarmTier:
    """Rows on disk that begin with their expiry; sizes and expiries stay in memory, so that no write reads its row.

    Confirmations decide the time of a deletion. So no event sees a row that has expired, deleted or not: neither an
    event whose own time is past the expiry, nor a late event after the caller has expired the row. The caller expires
    rows after every event within the lateness that may see them has its outcome.

    Attributes:
        size_bytes: Size of all rows.
        expired_ts: Rows that expire up to this time have expired.
    """

    def __init__(self, stored: MutableMapping[bytes, bytes], batches: BatchNumbers) -> None:
        self._stored = stored
        self._batches = batches
        self._changed: dict[bytes, bytes | None] = {}
        self._to_delete: deque[tuple[int, bytes, int]] = deque()
        self._sizes: dict[bytes, int] = {}
        self._by_expiry: list[tuple[int, bytes]] = []
        self.size_bytes = 0
        self.expired_ts = 0
        for key, value in stored.items():
            self._sizes[key] = len(key) + len(value)
            self.size_bytes += self._sizes[key]
            heappush(self._by_expiry, (rows.expiry_of(value), key))

    def restore(self, expired_ts: int) -> None:
        """Continue from the expiry time of a progress row."""
        self.expired_ts = expired_ts

    def get(self, key: bytes) -> bytes | None:
        """Return the current row unless it has expired; a row that does not exist is not looked up on disk."""
        value = self._row(key)
        return value if value is not None and rows.expiry_of(value) > self.expired_ts else None

    def _row(self, key: bytes) -> bytes | None:
        if key in self._changed:
            return self._changed[key]
        return self._stored.get(key) if key in self._sizes else None

    def put(self, key: bytes, value: bytes) -> None:
        """Write a row."""
        self._changed[key] = value

    def delete(self, key: bytes) -> None:
        """Delete a row that no restart needs."""
        self._changed[key] = None
        # Without its size, a row of this key that the micro-batch still writes is a new one, with an expiry of its own.
        self.size_bytes -= self._sizes.pop(key, 0)

    def stored_rows(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield the stored rows, without the changes of the current micro-batch."""
        yield from self._stored.items()

    def expire(self, expiry_ts: int) -> Iterator[bytes]:
        """Yield the keys of rows that expire up to a time, and schedule their deletion; an extended row stays."""
        self.expired_ts = expiry_ts
        while self._by_expiry and self._by_expiry[0][0] <= expiry_ts:
            _, key = heappop(self._by_expiry)
            value = self._row(key)
            if value is None:
                continue
            row_expiry_ts = rows.expiry_of(value)
            if row_expiry_ts > expiry_ts:
                heappush(self._by_expiry, (row_expiry_ts, key))
            else:
                self._to_delete.append((self._batches.current, key, row_expiry_ts))
                yield key

    def delete_confirmed(self) -> Iterator[bytes]:
        """Delete the expired rows of confirmed micro-batches and yield their keys; an extended row stays."""
        while self._to_delete and self._to_delete[0][0] <= self._batches.confirmed:
            _, key, expiry_ts = self._to_delete.popleft()
            value = self._row(key)
            if value is not None:
                extended_ts = rows.expiry_of(value)
                if extended_ts != expiry_ts:
                    heappush(self._by_expiry, (extended_ts, key))
                    continue
                self._changed[key] = None
            yield key

    def evict(self, excess_bytes: int) -> Iterator[tuple[bytes, bytes]]:
        """Delete and yield rows, the soonest to expire first, until `excess_bytes` are free; query digests stay."""
        kept: list[tuple[int, bytes]] = []
        while self._by_expiry and excess_bytes > 0:
            expiry_ts, key = heappop(self._by_expiry)
            size = self._sizes.get(key)
            if size is None:
                continue
            if key[:1] in {b"c", b"e"}:
                kept.append((expiry_ts, key))
                continue
            excess_bytes -= size
            value = self._stored[key]
            self._changed[key] = None
            # A row of this key that the micro-batch still writes is a new one, with an expiry of its own.
            self.size_bytes -= self._sizes.pop(key)
            yield key, value
        for entry in kept:
            heappush(self._by_expiry, entry)

    def flush(self) -> dict[bytes, bytes | None]:
        """Apply the changes of the micro-batch, all puts in one `update`, and return them."""
        changed, self._changed = self._changed, {}
        puts: dict[bytes, bytes] = {}
        sizes = self._sizes
        for key, value in changed.items():
            old_bytes = sizes.pop(key, 0)
            self.size_bytes -= old_bytes
            if value is None:
                self._stored.pop(key, None)
                continue
            if not old_bytes:
                heappush(self._by_expiry, (rows.expiry_of(value), key))
            puts[key] = value
            sizes[key] = len(key) + len(value)
            self.size_bytes += len(key) + len(value)
        if puts:
            self._stored.update(puts)
        return changed
