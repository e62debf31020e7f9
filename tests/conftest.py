"""Fixtures of all tests."""

from tests.harness.postgres import postgres_url

__all__ = ["postgres_url"]
