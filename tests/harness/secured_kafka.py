"""A local Kafka with an authorizer and a second listener that speaks SASL_SSL with SCRAM-SHA-512.

The plain-text listener is that of the administrator. On the second one, `OWNER` may do everything, and `GUEST` only
what a test grants.
"""

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from kafka.admin import (
    ACL,
    ACLOperation,
    ACLPermissionType,
    KafkaAdminClient,
    ResourcePattern,
    ResourceType,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from deploy.kafka.local import LocalKafka
from stream.broker.admin import create_topics
from stream.broker.settings import Broker, Security
from tests.harness.kafka import JARS, PARTITIONS

OWNER, GUEST = "owner", "guest"


@dataclass(frozen=True, kw_only=True)
class SecuredKafka:
    """The two listeners, and the certificates of two authorities.

    Attributes:
        admin: The plain-text listener.
        owner: The secured listener, for `OWNER`.
        ca_file: Certificate of the authority that signed the broker's certificate.
        other_ca_file: Certificate of another authority.
    """

    admin: Broker
    owner: Broker
    ca_file: Path
    other_ca_file: Path

    def broker(self, *, user: str = OWNER, password: str | None = None, ca_file: Path | None = None) -> Broker:
        """Return the secured listener for a user."""
        security = replace(
            self.owner.security,
            username=user,
            password=password or password_of(user),
            ca_file=str(ca_file or self.ca_file),
        )
        return replace(self.owner, security=security)

    def environment(self, broker: Broker) -> dict[str, str]:
        """Return the settings that make a command use `broker`."""
        return {
            "SHELFWISE_BROKER": broker.bootstrap,
            "SHELFWISE_KAFKA__PARTITIONS": str(PARTITIONS),
            "SHELFWISE_KAFKA__SECURITY_PROTOCOL": broker.security.protocol,
            "SHELFWISE_KAFKA__SASL_MECHANISM": broker.security.mechanism,
            "SHELFWISE_KAFKA__USERNAME": broker.security.username,
            "SHELFWISE_KAFKA__PASSWORD": broker.security.password,
            "SHELFWISE_KAFKA__CA_FILE": broker.security.ca_file,
        }

    @contextmanager
    def granted(self, *grants: tuple[ResourceType, str, ACLOperation]) -> Iterator[None]:
        """Allow `GUEST` operations on resources, "*" for all of a type, until the block ends."""
        acls = [
            ACL(
                principal=f"User:{GUEST}",
                host="*",
                operation=operation,
                permission_type=ACLPermissionType.ALLOW,
                resource_pattern=ResourcePattern(kind, name),
            )
            for kind, name, operation in grants
        ]
        admin = KafkaAdminClient(**self.admin.client_config())
        try:
            admin.create_acls(acls)
            yield
        finally:
            admin.delete_acls(acls)
            admin.close()


def password_of(user: str) -> str:
    """Return the password of a user."""
    return f"secret of {user}"


@pytest.fixture(scope="session")
def secured_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredKafka]:
    """A Kafka of this test session with a secured listener and all topics."""
    folder = tmp_path_factory.mktemp("secured")
    keys = _authority(folder, "ca"), _authority(folder, "other")
    kafka = _LocalKafka(folder / "kafka", _server_keys(folder))
    admin = kafka.start()
    try:
        _create_users(admin)
        create_topics(admin, PARTITIONS)
        security = Security(
            protocol="SASL_SSL",
            mechanism="SCRAM-SHA-512",
            username=OWNER,
            password=password_of(OWNER),
            ca_file=str(keys[0]),
        )
        yield SecuredKafka(
            admin=admin,
            owner=Broker(bootstrap=f"127.0.0.1:{kafka.secured_port}", security=security),
            ca_file=keys[0],
            other_ca_file=keys[1],
        )
    finally:
        kafka.stop()


class _LocalKafka(LocalKafka):
    def __init__(self, folder: Path, server_keys: Path) -> None:
        super().__init__(folder, port=0, heap_mb=384, jar_folder=JARS, report=lambda _line: None)
        self._server_keys = server_keys
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.secured_port = int(probe.getsockname()[1])

    def _write_config(self, port: int, controller: int) -> None:
        super()._write_config(port, controller)
        listeners = (
            f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller},SECURED://127.0.0.1:{self.secured_port}"
        )
        further = {
            "listeners": listeners,
            "advertised.listeners": listeners,
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SECURED:SASL_SSL",
            "sasl.enabled.mechanisms": "SCRAM-SHA-512",
            "listener.name.secured.scram-sha-512.sasl.jaas.config": (
                "org.apache.kafka.common.security.scram.ScramLoginModule required;"
            ),
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(self._server_keys),
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": f"User:ANONYMOUS;User:{OWNER}",
        }
        # The last line of a key wins in a properties file.
        with self._config.open("a") as config:
            config.writelines(f"{key}={value}\n" for key, value in further.items())


def _create_users(admin: Broker) -> None:
    client = KafkaAdminClient(**admin.client_config())
    try:
        client.alter_user_scram_credentials(
            [
                UserScramCredentialUpsertion(user, ScramMechanism.SCRAM_SHA_512, password_of(user))
                for user in (OWNER, GUEST)
            ]
        )
    finally:
        client.close()


def _authority(folder: Path, name: str) -> Path:
    certificate = folder / f"{name}.pem"
    subject = ["-subj", f"/CN={name} of the tests", "-keyout", str(folder / f"{name}.key"), "-out", str(certificate)]
    _openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", *subject)
    return certificate


def _server_keys(folder: Path) -> Path:
    """Return a PEM file with a private key and a certificate for 127.0.0.1, signed by the first authority."""
    key, request, certificate = folder / "server.key", folder / "server.csr", folder / "server.crt"
    names = folder / "names"
    names.write_text("subjectAltName=IP:127.0.0.1")
    _openssl(
        "req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=127.0.0.1", "-keyout", str(key), "-out", str(request)
    )
    authority = ["-CA", str(folder / "ca.pem"), "-CAkey", str(folder / "ca.key"), "-CAcreateserial"]
    output = ["-extfile", str(names), "-out", str(certificate)]
    _openssl("x509", "-req", "-in", str(request), "-days", "30", *authority, *output)
    both = folder / "server.pem"
    both.write_text(key.read_text() + certificate.read_text())
    return both


def _openssl(*arguments: str) -> None:
    subprocess.run(["/usr/bin/openssl", *arguments], check=True, capture_output=True)
