"""The HTTP edge and a client for it."""
