"""Alembic migrations of all tables: one head, never edited after a release."""
