"""Which broker a command talks to: an address, the local Kafka, or the memory broker."""

import sys
from ipaddress import ip_address
from pathlib import Path

from deploy.kafka import jars
from deploy.kafka.jars import Report
from deploy.kafka.local import LocalKafka
from deploy.kafka.memory import MemoryBroker
from stream.broker.bus import Broker, KafkaSettings
from stream.errors import BusError, ConfigError

_hosted: list[MemoryBroker] = []


def resolve(settings: KafkaSettings, home: Path, report: Report | None = None) -> Broker:
    """Return the configured broker, starting the local one where that is asked for.

    A memory broker lives as long as the process that resolves it; others reach it as `memory@HOST:PORT`.

    Raises:
        ConfigError: If the address cannot be read, or would send plain text over a network.
        BusError: If the local broker cannot be started.
    """
    say = report or _to_stderr
    choice = settings.broker
    if choice == "memory":
        return _host(settings, say, "kafka.broker = memory")
    if choice.startswith("memory@"):
        return Broker(bootstrap=_checked(choice.removeprefix("memory@"), settings), memory=True)
    if choice == "local":
        return local(settings, home, say).start()
    if choice != "auto":
        return Broker(bootstrap=_checked(choice, settings), security=settings.security())
    if jars.java() is None:
        return _host(settings, say, f"no Java {jars.MIN_JAVA} or newer was found")
    if not jars.obtainable(jar_folder(settings, home)):
        return _host(settings, say, "the Kafka jars are not there and Maven (mvn) was not found")
    try:
        jars.ensure(jar_folder(settings, home), say)
    except BusError as error:
        return _host(settings, say, str(error))
    return local(settings, home, say).start()


def local(settings: KafkaSettings, home: Path, report: Report | None = None) -> LocalKafka:
    """Return the local broker of `home`; nothing is started."""
    return LocalKafka(
        home / "kafka",
        port=settings.port,
        heap_mb=settings.heap_mb,
        jar_folder=jar_folder(settings, home),
        report=report or _to_stderr,
    )


def jar_folder(settings: KafkaSettings, home: Path) -> Path:
    """Return where the jars are kept: the setting `kafka.jars`, else `<home>/kafka/jars`."""
    return Path(settings.jars) if settings.jars else home / "kafka" / "jars"


def _host(settings: KafkaSettings, say: Report, reason: str) -> Broker:
    hosted = MemoryBroker(settings.partitions)
    _hosted.append(hosted)
    say(f"{reason}: using the memory broker at memory@{hosted.broker.bootstrap}")
    say("WARNING: nothing is durable; every record is lost when this process ends, and old ones before (5 MiB each)")
    return hosted.broker


def _checked(addresses: str, settings: KafkaSettings) -> str:
    for address in addresses.split(","):
        host, separator, port = address.strip().rpartition(":")
        if not separator or not host or not port.isdigit():
            raise ConfigError(
                f"kafka.broker = '{settings.broker}': expected HOST:PORT[,HOST:PORT], local, memory, "
                "memory@HOST:PORT or auto"
            )
        if settings.security_protocol == "PLAINTEXT" and not settings.allow_plaintext and not _is_loopback(host):
            raise ConfigError(
                f"kafka.broker = '{settings.broker}' is not on this machine and kafka.security_protocol is PLAINTEXT: "
                "set SSL or SASL_SSL, or kafka.allow_plaintext = true on a network that you trust"
            )
    return addresses


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _to_stderr(line: str) -> None:
    sys.stderr.write(f"[kafka] {line}\n")
