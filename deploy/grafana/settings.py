"""Settings of the Grafana connection."""

from dataclasses import dataclass, field
from pathlib import Path

from stream.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class GrafanaSettings:
    """Where Grafana is and how to sign in.

    Attributes:
        url: Base URL such as `https://grafana.example.org/grafana`; plain http is accepted on loopback only.
        token: Token of a service account with the role Editor.
        token_file: File that holds the token; read when `token` is empty.
        timeout_s: Seconds that one request may take.
        attempts: Tries per request before giving up; only unreachable and busy servers are asked again.
    """

    url: str = "http://127.0.0.1:3000"
    token: str = field(default="", repr=False)
    token_file: str = ""
    timeout_s: float = 10.0
    attempts: int = 5

    def __post_init__(self) -> None:
        if self.timeout_s <= 0:
            raise ValueError(f"timeout_s: expected more than 0, got {self.timeout_s}")
        if self.attempts < 1:
            raise ValueError(f"attempts: expected 1 or more, got {self.attempts}")

    def secret(self) -> str:
        """Return the token.

        Raises:
            ConfigError: If none is set, or the file cannot be read.
        """
        if self.token:
            return self.token
        if not self.token_file:
            raise ConfigError("grafana.token: set SHELFWISE_GRAFANA__TOKEN, or grafana.token_file to a file with it")
        try:
            token = Path(self.token_file).read_text().strip()
        except OSError as error:
            raise ConfigError(f"grafana.token_file: {error}") from error
        if not token:
            raise ConfigError(f"grafana.token_file: '{self.token_file}' is empty")
        return token
