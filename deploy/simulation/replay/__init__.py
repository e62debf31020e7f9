"""Loaders of recorded logs that map them to our events (`trivago`), for `stream.operations.replay`."""
