"""Settings of the ranking service."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingSettings:
    """How requests are answered.

    Attributes:
        host: Address the service listens on.
        port: Port of the ranking API, `/livez`, `/readyz` and `/metrics`.
    """

    host: str = "127.0.0.1"
    port: int = 8080
