"""Freed memory that stays in the process.

A step takes and frees the same arrays as the one before. By default glibc gives the larger ones back to the kernel at
once, which clears each page again when the next step takes it: several percent of the time of a step.

Source: mallopt(3) of the Linux manual.
"""

import ctypes
from typing import Final

_TRIM_THRESHOLD: Final = (-1, 1 << 28)
_MMAP_THRESHOLD: Final = (-3, 1 << 25)
"""Parameters of glibc with their values in bytes: up to 256 MB stay, and arrays from 32 MB on are given back."""


def keep_freed_memory() -> None:
    """Let the process keep the memory of freed arrays; another C library than glibc goes on as before."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in (_TRIM_THRESHOLD, _MMAP_THRESHOLD):
            mallopt(parameter, value)
