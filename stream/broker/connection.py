"""Connections to the broker, and messages that name the cause of a refusal.

kafka-python retries a refused password or certificate until its bootstrap time is over and then reports only that it
was unable to bootstrap. `check` therefore opens one connection itself before a client is made.

Source: kafka-python 3.0.12, `kafka/net/manager.py` (`_do_bootstrap`); error codes: https://kafka.apache.org/protocol.
"""

import gc
import re
import socket
import ssl
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.errors import KafkaConnectionError, KafkaError, KafkaTimeoutError, MetadataEmptyBrokerList
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector

from stream.broker import lenient_headers, transport
from stream.broker.settings import Broker
from stream.errors import AccessError, BusError

Partition = tuple[str, int]
"""Topic name and partition number."""

CHECK_S = 5.0
_TOPIC_REFUSED = 29
_RESOURCES = {_TOPIC_REFUSED: "topic", 30: "consumer group", 31: "cluster", 53: "transactional id"}
"""Error code of the protocol to the resource that an ACL protects."""
_AUTHENTICATION = frozenset({33, 34, 58})
# aiokafka raises these without an error code.
_AUTHENTICATION_NAMES = frozenset({"AuthenticationFailedError", "AuthenticationMethodNotSupported"})
Client = TypeVar("Client")

lenient_headers.install()
transport.install()


def check(broker: Broker, timeout_s: float = CHECK_S) -> None:
    """Connect to one bootstrap server, authenticate, ask for the list of brokers, and close the connection.

    Args:
        broker: Address and credentials.
        timeout_s: Longest time for each bootstrap server.

    Raises:
        ConfigError: If the file with the certificates cannot be read.
        AccessError: If the broker refused the credentials, or its certificate is not trusted.
        BusError: If no bootstrap server is reachable.
    """
    broker.security.check()
    failures = _connect(broker, timeout_s)
    if failures is None:
        return
    _collect_sockets()
    for failure in failures:
        if isinstance(failure, AccessError):
            raise failure
    raise BusError("; ".join(map(str, failures)) or f"broker {broker.bootstrap}: no address was found")


def _connect(broker: Broker, timeout_s: float) -> list[BusError] | None:
    """Return the failure of each bootstrap server, or None if one of them answered."""
    failures: list[BusError] = []
    selector = NetworkSelector()
    manager = KafkaConnectionManager(selector, **broker.client_config())

    async def connect(node_id: str) -> None:
        await manager.get_connection(
            node_id, timeout_ms=int(timeout_s * 1_000), pop_on_close=False, refresh_metadata_on_err=False
        )
        await manager.cluster.refresh_metadata(node_id)
        if not manager.cluster.brokers():
            raise MetadataEmptyBrokerList

    try:
        for node in manager.cluster.bootstrap_brokers():
            try:
                selector.run(connect, node.node_id)
            except (KafkaError, OSError) as error:
                failures.append(explain(error, replace(broker, bootstrap=f"{node.host}:{node.port}"), "connection"))
            else:
                return None
    finally:
        manager.close()
        selector.close()
    return failures


def is_reachable(broker: Broker, timeout_s: float = 2.0) -> bool:
    """Return whether a bootstrap server answers; a broker that is still starting does not.

    Raises:
        AccessError: If the broker refused the credentials, or its certificate is not trusted.
    """
    # A refused connection costs little here and logs nothing, in contrast to one of kafka-python.
    if not any(_accepts(address) for address in broker.bootstrap.split(",")):
        return False
    try:
        check(broker, timeout_s)
    except AccessError:
        raise
    except BusError:
        return False
    return True


def explain(error: BaseException, broker: Broker, action: str) -> BusError:
    """Return the error of Shelfwise for an error of kafka-python or aiokafka, with its cause named.

    Args:
        error: The error of the client library; the errors that it was raised from are searched too.
        broker: The broker that the client talks to.
        action: The operation that failed, for the message.
    """
    where, user = f"broker {broker.bootstrap}: {action}", broker.security.username or "anonymous"
    for cause in _chain(error):
        code = _code(cause)
        if isinstance(cause, ssl.SSLCertVerificationError):
            trusted = broker.security.ca_file or "the certificates of the system"
            return AccessError(
                f"{where}: the broker's certificate is not trusted by kafka.ca_file ({trusted}): {cause.verify_message}"
            )
        if code in _AUTHENTICATION or type(cause).__name__ in _AUTHENTICATION_NAMES:
            return AccessError(
                f"{where}: the broker refused kafka.username '{user}' with its kafka.password "
                f"({broker.security.mechanism or 'no SASL'}): {_text(cause)}"
            )
        if code in _RESOURCES:
            return AccessError(f"{where}: no ACL allows user '{user}' to do this on the {_RESOURCES[code]}: {cause!r}")
    if isinstance(error, KafkaConnectionError) and "disconnected" in str(error):
        protocol = " ".join(filter(None, (broker.security.protocol, broker.security.mechanism)))
        return BusError(f"{where}: the broker closed the connection; does this listener speak {protocol}? {error!r}")
    return BusError(f"{where}: {error!r}")


def connected(make: Callable[..., Client], broker: Broker, **config: object) -> Client:
    """Return a client of kafka-python.

    Args:
        make: The class of the client.
        broker: Address and credentials.
        config: Further arguments of the class; they win over those of the broker.

    Raises:
        ConfigError: If the file with the certificates cannot be read.
        AccessError: If the broker refused the credentials, or its certificate is not trusted.
        BusError: If the broker is unreachable.
    """
    if broker.security.protocol != "PLAINTEXT":
        _refuse_early(broker)
    try:
        return make(**{**broker.client_config(), **config})
    except KafkaTimeoutError as error:
        failure = explain(error, broker, "connection")
        timed_out = True
    except KafkaError as error:
        failure = explain(error, broker, "connection")
        timed_out = False
    # Not above, where the exception still refers to the sockets.
    _collect_sockets()
    if timed_out:
        check(broker)
    raise failure


def consumer(broker: Broker, **config: object) -> KafkaConsumer:
    """Return a consumer of committed records without a group, which never commits.

    Records of open and aborted transactions are not read, and end offsets are last stable offsets.

    Raises:
        BusError: If the broker is unreachable or refused.
    """
    return connected(
        KafkaConsumer,
        broker,
        **{
            "enable_auto_commit": False,
            "auto_offset_reset": "none",
            "group_id": None,
            "fetch_max_wait_ms": 100,
            "isolation_level": "read_committed",
            **config,
        },
    )


def partitions_of(opened: KafkaConsumer, broker: Broker, names: Sequence[str]) -> list[TopicPartition]:
    """Return all partitions of the named topics.

    Raises:
        AccessError: If no ACL allows the user to see a topic.
        BusError: If a topic does not exist.
    """
    partitions: list[TopicPartition] = []
    for name in names:
        known = opened.partitions_for_topic(name)
        if not known:
            raise _missing(broker, name)
        partitions += [TopicPartition(name, number) for number in sorted(known)]
    return partitions


def by_pair(found: Mapping[TopicPartition, int]) -> dict[Partition, int]:
    """Return kafka-python's offsets with plain tuples as keys."""
    return {(tp.topic, tp.partition): offset for tp, offset in found.items()}


def refuse_hidden(described: Sequence[Mapping[str, object]], broker: Broker) -> None:
    """Raise AccessError if the broker hides one of the described topics from the user."""
    hidden = [str(topic["name"]) for topic in described if topic["error_code"] == _TOPIC_REFUSED]
    if hidden:
        raise AccessError(
            f"broker {broker.bootstrap}: no ACL allows user '{broker.security.username or 'anonymous'}' "
            f"to see topic {', '.join(hidden)}"
        )


def _refuse_early(broker: Broker) -> None:
    try:
        check(broker)
    except AccessError:
        raise
    except BusError:
        # Perhaps a broker that restarts: the client itself keeps trying for its bootstrap time.
        return


def _collect_sockets() -> None:
    # kafka-python leaves the sockets of failed connections open; the garbage collector would warn about them.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def _missing(broker: Broker, name: str) -> BusError:
    """Return the error of a topic that the broker does not list: absent, or hidden by an ACL."""
    if not broker.memory:
        admin = connected(KafkaAdminClient, broker)
        try:
            refuse_hidden(admin.describe_topics([name]), broker)
        except AccessError as error:
            return error
        except KafkaError as error:
            return explain(error, broker, f"topic {name}")
        finally:
            admin.close()
    return BusError(f"topic {name} does not exist on {broker.bootstrap}; run `shelfwise kafka topics`")


def _accepts(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=1).close()
    except OSError:
        return False
    return True


def _chain(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    seen: set[int] = set()
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def _code(error: BaseException) -> int | None:
    """Return the protocol's code of an error, which kafka-python sometimes gives only in the text of another error."""
    code = getattr(error, "errno", None)
    if isinstance(code, int) and not isinstance(error, OSError):
        return code
    found = re.search(r"\[Error (\d+)\]", str(error))
    return int(found[1]) if found else None


def _text(error: BaseException) -> str:
    return str(error.args[0]) if error.args else type(error).__name__
