"""The one tree of errors; every package subclasses from here.

ShelfwiseError
+- ConfigError     a setting is missing, wrong, unknown or without effect
+- SchemaError     a record does not match its schema; carries a reason code
+- BusError        the broker is unreachable or refused
|  +- AccessError  the broker refused the credentials or the operation, or its certificate is not trusted
+- StoreError      the database is unreachable or refused
|  +- FencedError  a stale writer was refused
+- ArtifactError   a version is incomplete, damaged or foreign
"""


class ShelfwiseError(Exception):
    """Any failure that Shelfwise itself reports; the message names what was expected, what came, and where."""


class ConfigError(ShelfwiseError):
    """A setting is missing, wrong, unknown or without effect: the process does not start."""


class SchemaError(ShelfwiseError):
    """A record does not match its schema: it goes to `dead_letters`, or becomes a 4xx at the HTTP edge.

    Attributes:
        reason: A reason code of `stream/schemas/outcomes.py`, such as `missing_field`.
        detail: What was expected and what came, naming the field.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class BusError(ShelfwiseError):
    """The broker is unreachable or refused: back off and retry."""


class AccessError(BusError):
    """The broker refused the credentials or the operation, or its certificate is not trusted.

    A retry succeeds only after somebody has changed a setting, a password, a certificate or an ACL.
    """


class StoreError(ShelfwiseError):
    """The database is unreachable or refused: back off and retry."""


class FencedError(StoreError):
    """The store refused a stale writer: stop, never retry."""


class ArtifactError(ShelfwiseError):
    """A version is incomplete, damaged or foreign: it stays invisible."""
