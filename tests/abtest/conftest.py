"""Fixtures of the experiments' tests."""

from tests.harness.stores import store_engine

__all__ = ["store_engine"]
