"""The session feed: ordered records, batches and items."""
