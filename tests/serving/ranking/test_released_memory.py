import ctypes

import pytest

from serving.ranking import released_memory


def test_freed_memory_is_given_back_where_the_c_library_can(monkeypatch: pytest.MonkeyPatch) -> None:
    class Glibc:
        def __init__(self) -> None:
            self.trimmed: list[int] = []

        def malloc_trim(self, pad: int) -> None:
            self.trimmed.append(pad)

    library = Glibc()
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: library)
    released_memory.release()
    assert library.trimmed == [0]


def test_another_c_library_goes_on_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: object())
    released_memory.release()
