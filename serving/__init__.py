"""Candidates become a ranked list inside a deadline, and every list becomes an impression."""
