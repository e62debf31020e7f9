"""The wall clock: the one module that reads the time of day. Everything else takes the time as an argument."""

import time


def epoch_ms() -> int:
    """Return the time now, in milliseconds since 1970-01-01 UTC."""
    return time.time_ns() // 1_000_000
