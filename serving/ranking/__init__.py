"""Ranking: one request from assignment to answer."""
