"""The rows of a tier with the changes of the slice in hand, which are read back and written out once per key.

Source: STREAM.md 5.
"""

from collections.abc import Iterator, MutableMapping
from heapq import heappop, heappush

from stream.join import rows


class Tier:
    """Rows in memory; `flush` applies a slice's changes and returns them for the changelog."""

    def __init__(self, stored: MutableMapping[bytes, bytes]) -> None:
        self._stored = stored
        self._touched: dict[bytes, bytes | None] = {}
        self.size_bytes = sum(len(key) + len(value) for key, value in stored.items())

    def get(self, key: bytes) -> bytes | None:
        """Return the row as of now."""
        if key in self._touched:
            return self._touched[key]
        return self._stored.get(key)

    def put(self, key: bytes, value: bytes) -> None:
        """Write a row."""
        self._touched[key] = value

    def delete(self, key: bytes) -> None:
        """Delete a row."""
        self._touched[key] = None

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield the stored rows; only before the first change."""
        yield from self._stored.items()

    def flush(self) -> dict[bytes, bytes | None]:
        """Apply the changes of the slice and return them."""
        touched, self._touched = self._touched, {}
        stored = self._stored
        for key, value in touched.items():
            before = stored.get(key)
            if before is not None:
                self.size_bytes -= len(key) + len(before)
            if value is not None:
                self.size_bytes += len(key) + len(value)
                stored[key] = value
            elif before is not None:
                del stored[key]
        return touched


class WarmTier(Tier):
    """Rows that begin with their expiry; sizes and expiries are kept in memory, so that no write reads its row."""

    def __init__(self, stored: MutableMapping[bytes, bytes]) -> None:
        self._stored = stored
        self._touched = {}
        self._sizes: dict[bytes, int] = {}
        self._heap: list[tuple[int, bytes]] = []
        self.size_bytes = 0
        for key, value in stored.items():
            self._sizes[key] = len(key) + len(value)
            self.size_bytes += self._sizes[key]
            heappush(self._heap, (rows.expiry_of(value), key))

    def get(self, key: bytes) -> bytes | None:
        """Return the row as of now; storage is not asked for a row it does not have."""
        if key in self._touched:
            return self._touched[key]
        return self._stored.get(key) if key in self._sizes else None

    def expired(self, clock_ts: int) -> Iterator[tuple[bytes, int]]:
        """Yield key and expiry of rows whose time is over; a row that was extended meanwhile stays."""
        while self._heap and self._heap[0][0] <= clock_ts:
            _, key = heappop(self._heap)
            value = self.get(key)
            if value is None:
                continue
            expiry_ts = rows.expiry_of(value)
            if expiry_ts > clock_ts:
                heappush(self._heap, (expiry_ts, key))
            else:
                yield key, expiry_ts

    def delete_expired(self, key: bytes, expiry_ts: int) -> bool:
        """Delete a row that `expired` named with this expiry; one extended since waits for its new expiry."""
        value = self.get(key)
        if value is None:
            return True
        extended_ts = rows.expiry_of(value)
        if extended_ts != expiry_ts:
            heappush(self._heap, (extended_ts, key))
            return False
        self.delete(key)
        return True

    def oldest(self, excess_bytes: int) -> Iterator[bytes]:
        """Delete and yield keys, the soonest to expire first, until `excess_bytes` are free."""
        kept: list[tuple[int, bytes]] = []
        while self._heap and excess_bytes > 0:
            expiry_ts, key = heappop(self._heap)
            size = self._sizes.get(key)
            if size is None:
                continue
            if key[:1] in {b"c", b"e"}:
                kept.append((expiry_ts, key))
                continue
            excess_bytes -= size
            self.delete(key)
            yield key
        for entry in kept:
            heappush(self._heap, entry)

    def flush(self) -> dict[bytes, bytes | None]:
        """Apply the changes of the slice, all puts in one `update`, and return them."""
        touched, self._touched = self._touched, {}
        puts: dict[bytes, bytes] = {}
        sizes = self._sizes
        for key, value in touched.items():
            old_bytes = sizes.pop(key, 0)
            self.size_bytes -= old_bytes
            if value is None:
                self._stored.pop(key, None)
                continue
            if not old_bytes:
                heappush(self._heap, (rows.expiry_of(value), key))
            puts[key] = value
            sizes[key] = len(key) + len(value)
            self.size_bytes += len(key) + len(value)
        if puts:
            self._stored.update(puts)
        return touched
