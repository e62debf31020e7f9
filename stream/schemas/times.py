"""Units of time."""

DAY_MS = 86_400_000
