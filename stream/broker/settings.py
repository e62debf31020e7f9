"""Settings of the connection to Kafka, and the address of a broker with its credentials."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from stream.errors import ConfigError
from stream.schemas import topics
from stream.setting_fields import secret

if TYPE_CHECKING:
    from ssl import SSLContext

MEMORY_API_VERSION = (2, 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaSettings:
    """Address and credentials of the broker, and the partition count of the topics.

    Attributes:
        broker: `HOST:PORT[,HOST:PORT]`, `local` (started by `shelfwise kafka up`), `memory@HOST:PORT` (hosted by
            `shelfwise kafka memory`), `memory` (for the demo alone), or `auto`: `local`, but the demo without Java 17
            or newer takes `memory`.
        partitions: Partition count of all topics with client keys. It is never changed in place.
        allow_plaintext: Allow unencrypted connections to a broker on another machine.
        security_protocol: Protocol for a broker that is given by address.
        sasl_mechanism: SASL mechanism.
        username: SASL user name.
        password: SASL password.
        ca_file: PEM file with the certificates to trust instead of the system's.
    """

    broker: str = "auto"
    partitions: int = topics.DEFAULT_PARTITIONS
    allow_plaintext: bool = False
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = ""
    username: str = ""
    password: str = secret()
    ca_file: str = ""

    def __post_init__(self) -> None:
        if not 1 <= self.partitions <= 1_000:
            raise ValueError(f"partitions = {self.partitions}: expected 1 to 1000")
        if self.security_protocol.startswith("SASL") and not (self.sasl_mechanism and self.username):
            raise ValueError(f"security_protocol = {self.security_protocol}: needs sasl_mechanism and username")

    def security(self) -> "Security":
        """Return the encryption and the credentials of connections.

        Raises:
            ConfigError: If the file with the certificates cannot be read.
        """
        security = Security(
            protocol=self.security_protocol,
            mechanism=self.sasl_mechanism,
            username=self.username,
            password=self.password,
            ca_file=self.ca_file,
        )
        security.check()
        return security


@dataclass(frozen=True, slots=True, kw_only=True)
class Security:
    """Encryption and credentials of connections to a broker; the default, plain text, is right on loopback only."""

    protocol: str = "PLAINTEXT"
    mechanism: str = ""
    username: str = ""
    password: str = field(default="", repr=False)
    ca_file: str = ""

    def check(self) -> None:
        """Raise ConfigError if the file with the certificates cannot be read."""
        self.tls()

    def tls(self) -> "SSLContext | None":
        """Return the context of encrypted connections, None for plain text.

        Raises:
            ConfigError: If the file with the certificates cannot be read.
        """
        from ssl import create_default_context

        if "SSL" not in self.protocol.split("_"):
            return None
        if self.ca_file and not Path(self.ca_file).is_file():
            raise ConfigError(f"kafka.ca_file = '{self.ca_file}': the file does not exist")
        try:
            return create_default_context(cafile=self.ca_file or None)
        except OSError as error:
            raise ConfigError(
                f"kafka.ca_file = '{self.ca_file}': expected certificates in PEM form: {error}"
            ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Broker:
    """A broker by its address.

    Attributes:
        bootstrap: `HOST:PORT[,HOST:PORT]`.
        memory: Whether it is the mock cluster of confluent-kafka, which loses everything on exit.
        security: Encryption and credentials.
    """

    bootstrap: str
    memory: bool = False
    security: Security = Security()

    def client_config(self) -> dict[str, object]:
        """Return the arguments that every kafka-python client of this broker needs."""
        config: dict[str, object] = {
            "bootstrap_servers": self.bootstrap.split(","),
            # With the default of 30 s, a refused client notices only after that time that the broker is back.
            "reconnect_backoff_max_ms": 1_000,
        }
        if self.memory:
            config["api_version"] = MEMORY_API_VERSION
        if self.security.protocol != "PLAINTEXT":
            config["security_protocol"] = self.security.protocol
        if self.security.mechanism:
            config["sasl_mechanism"] = self.security.mechanism
            config["sasl_plain_username"] = self.security.username
            config["sasl_plain_password"] = self.security.password
        if self.security.ca_file:
            config["ssl_cafile"] = self.security.ca_file
        return config
