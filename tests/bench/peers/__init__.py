"""Programs that the worker is compared with, each run by its own interpreter."""
