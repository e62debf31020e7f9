"""Ports that a process can listen on."""

import socket

from deploy.free_ports import free_ports, is_free, refusal


def test_a_port_is_free_until_a_process_listens() -> None:
    port, _ = free_ports()
    assert is_free(port)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        assert not is_free(port)
        assert refusal("127.0.0.1", port) == "Address already in use"


def test_free_ports_differ() -> None:
    first, second = free_ports()
    assert first != second
