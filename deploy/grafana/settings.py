"""Settings of the Grafana connection."""

from dataclasses import dataclass

from stream.errors import ConfigError
from stream.settings import secret


@dataclass(frozen=True, slots=True, kw_only=True)
class GrafanaSettings:
    """Address of Grafana and how to sign in.

    Attributes:
        url: Base URL such as `https://grafana.example.org/grafana`; plain http is accepted on loopback only.
        token: Token of a service account with the role Editor.
        timeout_s: Seconds that one request may take.
        attempts: Tries per request before giving up; only unreachable and busy servers are asked again.
    """

    url: str = "http://127.0.0.1:3000"
    token: str = secret()
    timeout_s: float = 10.0
    attempts: int = 5

    def __post_init__(self) -> None:
        if self.timeout_s <= 0:
            raise ValueError(f"timeout_s: expected more than 0, got {self.timeout_s}")
        if self.attempts < 1:
            raise ValueError(f"attempts: expected 1 or more, got {self.attempts}")

    def required_token(self) -> str:
        """Return the token.

        Raises:
            ConfigError: If none is set.
        """
        if not self.token:
            raise ConfigError("grafana.token: set SHELFWISE_GRAFANA__TOKEN, or grafana.token_file to a file with it")
        return self.token
