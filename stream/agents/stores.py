"""State stores of the warm tier, in RocksDB; those of the other tiers are dictionaries.

A store belongs to one partition and is rebuilt from its changelog when the partition is assigned, so that no store has
to survive its process.

Source: docs/stream.md.
"""

import shutil
from collections.abc import ItemsView, Iterator, Mapping, MutableMapping
from pathlib import Path

from rocksdict import (
    BlockBasedOptions,
    Cache,
    DBCompressionType,
    Options,
    Rdict,
    WriteBatch,
    WriteBufferManager,
)

from stream.files import remove_abandoned, unique_folder

_PREFIX = "warm-"
# For blocks and memtables of all partitions together.
_CACHE_BYTES = 128 << 20
_MEMTABLES_BYTES = 64 << 20
_MEMTABLE_BYTES = 16 << 20


class WarmStore(MutableMapping[bytes, bytes]):
    """Rows of one partition in RocksDB; an iteration is ordered by key and sees a snapshot."""

    def __init__(self, folder: Path, cache: Cache, memtables: WriteBufferManager) -> None:
        table = BlockBasedOptions()
        table.set_block_cache(cache)
        options = Options(raw_mode=True)
        options.create_if_missing(True)  # noqa: FBT003 - its only parameter
        options.set_block_based_table_factory(table)
        options.set_write_buffer_manager(memtables)
        options.set_write_buffer_size(_MEMTABLE_BYTES)
        options.set_max_write_buffer_number(2)
        # By the block and in RocksDB's own threads, this costs a tenth of a compression per row in the join.
        options.set_compression_type(DBCompressionType.lz4())
        self._rows = Rdict(str(folder), options=options)
        self._folder = folder

    def __getitem__(self, key: bytes) -> bytes:
        value = self._rows.get(key)
        if value is None:
            raise KeyError(key)
        assert isinstance(value, bytes)
        return value

    def __setitem__(self, key: bytes, value: bytes) -> None:
        self._rows[key] = value

    def __delitem__(self, key: bytes) -> None:
        if self._rows.get(key) is None:
            raise KeyError(key)
        del self._rows[key]

    def __iter__(self) -> Iterator[bytes]:
        for key in self._rows.keys():  # noqa: SIM118 - Rdict has no __iter__
            assert isinstance(key, bytes)
            yield key

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, bytes) and self._rows.get(key) is not None

    def items(self) -> ItemsView[bytes, bytes]:
        """Return a view that reads each key with its value."""
        return _Items(self)

    def pairs(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield the key and value of every row."""
        for key, value in self._rows.items():
            assert isinstance(key, bytes)
            assert isinstance(value, bytes)
            yield key, value

    def update(self, changes: Mapping[bytes, bytes]) -> None:  # type: ignore[override]  # only what the join calls
        """Write many rows at once."""
        self.apply(changes)

    def apply(self, changes: Mapping[bytes, bytes | None]) -> None:
        """Write many rows at once; a value of None deletes the row."""
        batch = WriteBatch(raw_mode=True)
        for key, value in changes.items():
            if value is None:
                batch.delete(key)
            else:
                batch.put(key, value)
        self._rows.write(batch)

    def close(self) -> None:
        """Close the store and delete its files."""
        self._rows.close()
        shutil.rmtree(self._folder, ignore_errors=True)


class _Items(ItemsView[bytes, bytes]):
    def __init__(self, rows: WarmStore) -> None:
        super().__init__(rows)
        self._pairs = rows.pairs

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        return self._pairs()


class StoreFactory:
    """Factory of the warm stores of one process, under a folder that no other process uses.

    Guarantees: several processes may share the parent folder, also from containers in which each has the process id 1.
    A folder is deleted when its owner closes it, or by the next process if the owner was killed.
    """

    def __init__(self, folder: Path) -> None:
        """Claim a new folder `<folder>/warm-*`, and delete those whose owners were killed."""
        remove_abandoned(folder, _PREFIX)
        self._claim = unique_folder(folder, _PREFIX)
        self._cache = Cache(_CACHE_BYTES)
        self._memtables = WriteBufferManager.new_write_buffer_manager_with_cache(
            _MEMTABLES_BYTES,
            False,  # noqa: FBT003 - never make the join wait: a full memtable is flushed
            self._cache,
        )
        self._num_opened = 0

    def open_warm(self, partition: int) -> WarmStore:
        """Return an empty store for `partition`."""
        self._num_opened += 1
        return WarmStore(self._claim.folder / f"{partition}-{self._num_opened}", self._cache, self._memtables)

    def close(self) -> None:
        """Delete the folder of this process; the stores must be closed before."""
        shutil.rmtree(self._claim.folder, ignore_errors=True)
        self._claim.release()
