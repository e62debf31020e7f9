"""Where the rows of the join's tables lie: dictionaries, and rocksdict for the warm tier.

Every store belongs to one partition and is rebuilt from its changelog when the partition is assigned, so nothing in
it has to survive the process.
"""

import os
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

# For blocks and memtables of all partitions together.
_CACHE_BYTES = 128 << 20
_MEMTABLES_BYTES = 64 << 20
_MEMTABLE_BYTES = 16 << 20


class WarmRows(MutableMapping[bytes, bytes]):
    """One partition's rows in rocksdict; iteration is by key and sees a snapshot."""

    def __init__(self, folder: Path, cache: Cache, memtables: WriteBufferManager) -> None:
        table = BlockBasedOptions()
        table.set_block_cache(cache)
        options = Options(raw_mode=True)
        options.create_if_missing(True)  # noqa: FBT003 - its only parameter
        options.set_block_based_table_factory(table)
        options.set_write_buffer_manager(memtables)
        options.set_write_buffer_size(_MEMTABLE_BYTES)
        options.set_max_write_buffer_number(2)
        # By the block and in RocksDB's own threads, this costs a tenth of what the join would pay per row.
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
        """Return a view that reads keys and values together."""
        return _Items(self)

    def pairs(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield key and value of every row."""
        for key, value in self._rows.items():
            assert isinstance(key, bytes)
            assert isinstance(value, bytes)
            yield key, value

    def update(self, changes: Mapping[bytes, bytes]) -> None:  # type: ignore[override]  # only what the join calls
        """Write many rows at once."""
        self.apply(changes)

    def apply(self, changes: Mapping[bytes, bytes | None]) -> None:
        """Write many rows at once; None deletes."""
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
    def __init__(self, rows: WarmRows) -> None:
        super().__init__(rows)
        self._pairs = rows.pairs

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        return self._pairs()


class Shelves:
    """Creates the warm stores of one process under a folder of its own."""

    def __init__(self, folder: Path) -> None:
        """Take `<folder>/warm-<process id>`, and remove what dead processes left beside it."""
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("warm-*"):
            if not _is_alive(old.name.removeprefix("warm-")):
                shutil.rmtree(old, ignore_errors=True)
        self._folder = folder / f"warm-{os.getpid()}"
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir()
        self._cache = Cache(_CACHE_BYTES)
        self._memtables = WriteBufferManager.new_write_buffer_manager_with_cache(
            _MEMTABLES_BYTES,
            False,  # noqa: FBT003 - never make the join wait: a full memtable is flushed
            self._cache,
        )
        self._num_opened = 0

    def warm(self, partition: int) -> WarmRows:
        """Return an empty store for `partition`."""
        self._num_opened += 1
        return WarmRows(self._folder / f"{partition}-{self._num_opened}", self._cache, self._memtables)

    def close(self) -> None:
        """Delete this process's folder; the stores must be closed before."""
        shutil.rmtree(self._folder, ignore_errors=True)


def _is_alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True
