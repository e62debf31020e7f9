"""Experiments: allocation of clients to arms, facts of their sessions, and reports with p-values."""
