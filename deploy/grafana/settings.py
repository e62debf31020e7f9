"""Settings of the connection to Grafana."""

from dataclasses import dataclass

from stream.errors import ConfigError
from stream.setting_fields import secret


@dataclass(frozen=True, slots=True, kw_only=True)
class GrafanaSettings:
    """Address of Grafana and the token to sign in with.

    Attributes:
        url: Base URL such as `https://grafana.example.org/grafana`; plain http is accepted on loopback only.
        token: Token of a service account with the role Editor.
        timeout_s: Longest duration of one request, in seconds.
        attempts: Tries per request; only unreachable and busy servers are asked again.
        prometheus_url: Base URL of the Prometheus behind the dashboards, which `shelfwise doctor` checks.
    """

    url: str = "http://127.0.0.1:3000"
    token: str = secret()
    timeout_s: float = 10.0
    attempts: int = 5
    prometheus_url: str = ""

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
