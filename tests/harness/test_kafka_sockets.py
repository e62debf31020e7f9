"""Tests of the sockets that kafka-python leaves behind."""

import gc
import socket
import warnings

import pytest
from kafka import KafkaProducer


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
