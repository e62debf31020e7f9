"""Experiments: who sees what, what was seen, and what it is worth, with p-values."""
