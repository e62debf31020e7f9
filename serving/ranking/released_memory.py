"""Release of freed memory to the kernel.

glibc keeps what a thread has freed for its next allocations. A load frees about as much as a version takes, and the
next one is minutes away.

Source: malloc_trim(3) of the Linux manual.
"""

import ctypes


def release() -> None:
    """Give freed memory back; another C library than glibc goes on as before."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
