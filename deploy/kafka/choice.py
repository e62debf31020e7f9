"""Choice of the broker of a command: an address, the local Kafka, or the memory broker."""

import sys
from pathlib import Path

from deploy.configuration import Context
from deploy.kafka import jars
from deploy.kafka.jars import Report
from deploy.kafka.local import LocalKafka
from deploy.kafka.memory import MemoryBroker
from deploy.kafka.settings import LocalKafkaSettings
from stream.broker.settings import Broker, KafkaSettings
from stream.errors import BusError, ConfigError
from stream.loopback import is_loopback

_hosted: list[MemoryBroker] = []


def configured(context: Context) -> Broker:
    """Return the broker of a command's settings; see `find`."""
    return find(
        context.settings.get("kafka", KafkaSettings),
        context.settings.get("local_kafka", LocalKafkaSettings),
        context.home,
    )


def whereabouts(context: Context, broker: Broker) -> str:
    """Return the broker and the home folder of a command, for messages about missing records or topics."""
    return f"broker {broker.bootstrap}, home {context.home.absolute()}"


def fault(context: Context) -> str | None:
    """Return the reason why the local Kafka of a command cannot work; None if none is known or another is chosen."""
    if context.settings.get("kafka", KafkaSettings).broker not in {"auto", "local"}:
        return None
    return local(context.settings.get("local_kafka", LocalKafkaSettings), context.home).fault()


def find(settings: KafkaSettings, local_settings: LocalKafkaSettings, home: Path) -> Broker:
    """Return the broker that the settings choose. Nothing is started, downloaded or written.

    Args:
        settings: Choice, address and credentials of the broker.
        local_settings: Settings of the local Kafka.
        home: Home folder, which holds the local Kafka.

    Raises:
        ConfigError: If the address cannot be read, or would send plain text over a network.
        BusError: If the local Kafka is chosen and does not run, or a memory broker that no process hosts.
    """
    choice = settings.broker
    if choice == "memory":
        raise BusError(
            "kafka.broker = memory: only `shelfwise demo run` hosts a memory broker of its own; "
            "run `shelfwise kafka memory` and set kafka.broker = memory@HOST:PORT as it prints"
        )
    if (addressed := _addressed(settings)) is not None:
        return addressed
    found = local(local_settings, home)
    if found.pid is not None:
        return found.broker
    where = f"kafka.broker = {choice}: no local Kafka runs in {found.folder.parent}"
    if jars.java() is None:
        raise BusError(
            f"{where}, and no Java {jars.MIN_JAVA} or newer was found; install one and run `shelfwise kafka up`, "
            "set kafka.broker = HOST:PORT, or run `shelfwise kafka memory` and set kafka.broker = memory@HOST:PORT"
        )
    raise BusError(
        f"{where}; start it with `shelfwise kafka up`, set kafka.broker = HOST:PORT, "
        "or set SHELFWISE_HOME to the home of a Kafka that runs"
    )


def start(
    settings: KafkaSettings, local_settings: LocalKafkaSettings, home: Path, report: Report | None = None
) -> Broker:
    """Return the broker that the settings choose; start the local Kafka or host a memory broker if they choose one.

    A memory broker lives as long as the process that starts it; others reach it as `memory@HOST:PORT`.

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
    if (addressed := _addressed(settings)) is not None:
        return addressed
    if choice == "local":
        return local(local_settings, home, report).start()
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


def _addressed(settings: KafkaSettings) -> Broker | None:
    if settings.broker.startswith("memory@"):
        return Broker(bootstrap=_checked(settings.broker.removeprefix("memory@"), settings), memory=True)
    if settings.broker in {"auto", "local"}:
        return None
    return Broker(bootstrap=_checked(settings.broker, settings), security=settings.security())


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
