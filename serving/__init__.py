"""The ranking service: candidates become a ranked list within a deadline, and every list becomes an impression."""
