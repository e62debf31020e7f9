"""The probe server over real sockets."""

import http.client
import logging
import socket
from collections.abc import Iterable, Iterator
from threading import Event

import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from stream import probes
from stream.errors import ConfigError
from stream.probes import ProbeServer

HOST = "127.0.0.1"


def always() -> str | None:
    return None


def get(server: ProbeServer, path: str, method: str = "GET", host: str = HOST, **headers: str) -> tuple[int, str, str]:
    connection = http.client.HTTPConnection(host, server.port, timeout=10)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.headers["Content-Type"], answer.read().decode()
    finally:
        connection.close()


@pytest.fixture
def registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    Counter("shelfwise_test_things", "Things seen", registry=registry).inc(3)
    return registry


@pytest.fixture
def server(registry: CollectorRegistry) -> Iterator[ProbeServer]:
    with ProbeServer(HOST, 0, registry, always) as running:
        yield running


def test_a_running_process_is_alive_and_ready(server: ProbeServer) -> None:
    assert get(server, "/livez") == (200, "text/plain; charset=utf-8", "alive\n")
    assert get(server, "/readyz") == (200, "text/plain; charset=utf-8", "ready\n")


def test_readiness_follows_the_process_and_names_the_reason(registry: CollectorRegistry) -> None:
    reasons: list[str | None] = ["no partitions are assigned yet", None, "the database is unreachable"]
    with ProbeServer(HOST, 0, registry, lambda: reasons.pop(0)) as server:
        assert get(server, "/readyz")[::2] == (503, "no partitions are assigned yet\n")
        assert get(server, "/readyz")[0] == 200
        assert get(server, "/readyz")[::2] == (503, "the database is unreachable\n")
        assert get(server, "/livez")[0] == 200


def test_a_readiness_check_that_raises_is_not_ready(
    registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> str | None:
        raise RuntimeError("no such attribute")

    with ProbeServer(HOST, 0, registry, broken) as server:
        status, _, text = get(server, "/readyz")
        assert (status, "no such attribute" in text) == (503, True)
        assert get(server, "/livez")[0] == 200
    assert "the readiness check failed" in caplog.text


def test_metrics_are_in_prometheus_format(server: ProbeServer) -> None:
    status, content_type, text = get(server, "/metrics?name=x")
    values = {s.name: s.value for family in text_string_to_metric_families(text) for s in family.samples}
    assert (status, values["shelfwise_test_things_total"]) == (200, 3.0)
    assert content_type.startswith("text/plain; version=")
    assert get(server, "/metrics", Accept="application/openmetrics-text; version=1.0.0")[1].startswith(
        "application/openmetrics-text; version=1.0.0"
    )


def test_a_collector_that_raises_is_an_error_of_the_scrape(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Collector):
        def collect(self) -> Iterable[Metric]:
            raise RuntimeError("torn state")

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Broken())
    with ProbeServer(HOST, 0, registry, always) as server:
        assert get(server, "/metrics")[0] == 500
    assert "torn state" in caplog.text


@pytest.mark.parametrize("path", ["/", "/anything", "/livez/", "/livezz", "/metrics/x", "/readyz%20"])
def test_other_paths_are_not_found(server: ProbeServer, path: str) -> None:
    assert get(server, path)[0] == 404


def test_head_answers_without_a_body_and_other_methods_are_refused(server: ProbeServer) -> None:
    assert get(server, "/livez", "HEAD") == (200, "text/plain; charset=utf-8", "")
    assert get(server, "/livez", "POST")[0] == 501


def test_requests_are_not_logged(
    server: ProbeServer, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    for path in ("/livez", "/metrics", "/nothing"):
        get(server, path)
    assert (caplog.text, capfd.readouterr()) == ("", ("", ""))


def test_a_silent_client_is_disconnected_and_delays_nobody(
    registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes, "_SOCKET_TIMEOUT_S", 0.05)
    with (
        ProbeServer(HOST, 0, registry, always) as server,
        socket.create_connection((HOST, server.port), timeout=10) as silent,
    ):
        silent.sendall(b"GET /livez HT")
        assert get(server, "/livez")[0] == 200
        assert silent.recv(1) == b""


def test_a_broken_connection_is_no_error(
    registry: CollectorRegistry, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    asked, gone = Event(), Event()

    def slow() -> str | None:
        asked.set()
        gone.wait(10)
        return None

    with ProbeServer(HOST, 0, registry, slow) as server:
        connection = socket.create_connection((HOST, server.port), timeout=10)
        connection.sendall(b"GET /readyz HTTP/1.0\r\n\r\n")
        assert asked.wait(10)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        connection.close()
        gone.set()
        assert get(server, "/livez")[0] == 200
    assert (caplog.text, capfd.readouterr()) == ("", ("", ""))


@pytest.mark.parametrize("port", [-1, 65_536])
def test_a_number_that_is_no_port_is_a_configuration_error(registry: CollectorRegistry, port: int) -> None:
    with pytest.raises(ConfigError, match=rf"rollout\.metrics_port = {port}: .*0-65535"):
        ProbeServer(HOST, port, registry, always, section="rollout").start()


def test_a_taken_port_is_a_configuration_error(registry: CollectorRegistry) -> None:
    with ProbeServer(HOST, 0, registry, always) as server:
        named = rf"trainer\.metrics_port = {server.port}: .*set trainer\.metrics_port to a free port, or to 0"
        with pytest.raises(ConfigError, match=named):
            ProbeServer(HOST, server.port, registry, always, section="trainer").start()


def test_close_frees_the_port_and_may_be_repeated(registry: CollectorRegistry) -> None:
    server = ProbeServer(HOST, 0, registry, always)
    server.start()
    port = server.port
    server.close()
    server.close()
    with ProbeServer(HOST, port, registry, always) as again:
        assert (again.port, get(again, "/livez")[0]) == (port, 200)


def test_ipv6_addresses_are_served(registry: CollectorRegistry) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"this machine has no IPv6: {error}")
    with ProbeServer("::1", 0, registry, always) as server:
        assert get(server, "/livez", host="::1")[0] == 200
