"""In-memory replicas of compacted topics."""
