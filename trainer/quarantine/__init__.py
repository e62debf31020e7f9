"""The quarantine: ranges of the log that breakers kept from being learned, until a user decides."""
