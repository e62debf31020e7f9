"""Schemas of all topics: events, sessions, outcomes and dead letters, with their strict decoding."""
