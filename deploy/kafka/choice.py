"""Choice of the broker of a command: an address, the local Kafka, or the memory broker."""

import sys
from pathlib import Path

from deploy.configuration import Context
from deploy.kafka import jars
from deploy.kafka.jars import Report
from deploy.kafka.local import LocalKafka
from deploy.kafka.memory import MemoryBroker
from deploy.kafka.settings import LocalKafkaSettings
from deploy.loopback import is_loopback
from stream.broker.settings import Broker, KafkaSettings
from stream.errors import BusError, ConfigError

_hosted: list[MemoryBroker] = []


def configured(context: Context, report: Report | None = None) -> Broker:
    """Return the broker of a command's settings; see `resolve`."""
    return resolve(
        context.settings.get("kafka", KafkaSettings),
        context.settings.get("local_kafka", LocalKafkaSettings),
        context.home,
        report,
    )


def resolve(
    settings: KafkaSettings, local_settings: LocalKafkaSettings, home: Path, report: Report | None = None
) -> Broker:
    """Return the broker that the settings choose, and start the local one if they choose it.

    A memory broker lives as long as the process that resolves it; others reach it as `memory@HOST:PORT`.

    Args:
        settings: Choice, address and credentials of the broker.
        local_settings: Settings of the local Kafka.
        home: Home folder, which holds the local Kafka.
        report: Receives one line per step; standard error if it is None.

    Raises:
        ConfigError: If the address cannot be read, or would send plain text over a network.
        BusError: If the local broker cannot be started.
    """
    report = report or _to_stderr
    choice = settings.broker
    if choice == "memory":
        return _host(settings, report, "kafka.broker = memory")
    if choice.startswith("memory@"):
        return Broker(bootstrap=_checked(choice.removeprefix("memory@"), settings), memory=True)
    if choice == "local":
        return local(local_settings, home, report).start()
    if choice != "auto":
        return Broker(bootstrap=_checked(choice, settings), security=settings.security())
    if jars.java() is None:
        return _host(settings, report, f"no Java {jars.MIN_JAVA} or newer was found")
    folder = jar_folder(local_settings, home)
    if not jars.obtainable(folder):
        return _host(settings, report, "the Kafka jars are not there and Maven (mvn) was not found")
    try:
        jars.ensure(folder, report)
    except BusError as error:
        return _host(settings, report, str(error))
    return local(local_settings, home, report).start()


def local(settings: LocalKafkaSettings, home: Path, report: Report | None = None) -> LocalKafka:
    """Return the local broker of `home`; nothing is started."""
    return LocalKafka(
        home / "kafka",
        port=settings.port,
        heap_mb=settings.heap_mb,
        jar_folder=jar_folder(settings, home),
        report=report or _to_stderr,
    )


def jar_folder(settings: LocalKafkaSettings, home: Path) -> Path:
    """Return the folder of the jars: the setting `local_kafka.jars`, else `<home>/kafka/jars`."""
    return Path(settings.jars) if settings.jars else home / "kafka" / "jars"


def _host(settings: KafkaSettings, report: Report, reason: str) -> Broker:
    hosted = MemoryBroker(settings.partitions)
    _hosted.append(hosted)
    report(f"{reason}: using the memory broker at memory@{hosted.broker.bootstrap}")
    report("WARNING: nothing is durable; every record is lost when this process ends, and old ones before (5 MiB each)")
    return hosted.broker


def _checked(addresses: str, settings: KafkaSettings) -> str:
    for address in addresses.split(","):
        host, separator, port = address.strip().rpartition(":")
        if not separator or not host or not port.isdigit():
            raise ConfigError(
                f"kafka.broker = '{settings.broker}': expected HOST:PORT[,HOST:PORT], local, memory, "
                "memory@HOST:PORT or auto"
            )
        if settings.security_protocol == "PLAINTEXT" and not settings.allow_plaintext and not is_loopback(host):
            raise ConfigError(
                f"kafka.broker = '{settings.broker}' is not on this machine and kafka.security_protocol is PLAINTEXT: "
                "set SSL or SASL_SSL, or kafka.allow_plaintext = true on a network that you trust"
            )
    return addresses


def _to_stderr(line: str) -> None:
    sys.stderr.write(f"[kafka] {line}\n")
