"""Tests of the sockets that kafka-python leaves behind."""

import gc
import socket
import warnings

import pytest
from kafka import KafkaProducer
from kafka.net.inet import KafkaNetSocket


@pytest.mark.slow
def test_a_refused_connection_leaves_no_open_socket() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    gc.collect()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        producer = KafkaProducer(bootstrap_servers=f"127.0.0.1:{port}", api_version=(3, 0), max_block_ms=300)
        producer.close(timeout=1)
        del producer
        gc.collect()
    assert [str(warning.message) for warning in caught if warning.category is ResourceWarning] == []


def test_a_connected_socket_that_is_dropped_in_a_cycle_is_closed_without_a_warning() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dropped = KafkaNetSocket().socket(socket.AF_INET)
        dropped.connect(server.getsockname())
        accepted, _ = server.accept()
        cycle: list[object] = [dropped]
        cycle.append(cycle)
        del dropped, cycle
        gc.collect()
        with accepted:
            accepted.settimeout(5)
            assert accepted.recv(1) == b""
    assert [str(warning.message) for warning in caught if warning.category is ResourceWarning] == []
