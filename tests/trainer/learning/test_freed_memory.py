"""The settings of the allocator."""

import ctypes
from types import SimpleNamespace

import pytest

from trainer.learning.freed_memory import keep_freed_memory


def test_both_thresholds_are_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int]] = []
    library = SimpleNamespace(mallopt=lambda parameter, value: calls.append((parameter, value)))
    monkeypatch.setattr(ctypes, "CDLL", lambda _: library)
    keep_freed_memory()
    # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h; glibc takes at most 32 MB for the latter.
    assert calls == [(-1, 256 * 1024**2), (-3, 32 * 1024**2)]


def test_another_c_library_goes_on_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace())
    keep_freed_memory()
