import socket

import pytest

from serving.http.listening import listen, reserve
from stream.errors import ConfigError


def test_a_taken_address_is_a_configuration_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        with pytest.raises(ConfigError, match=str(port)):
            listen("127.0.0.1", port)


def test_a_shared_port_is_for_those_that_share_it_and_a_reservation_takes_no_connection() -> None:
    with reserve("127.0.0.1", 0) as held:
        port = held.getsockname()[1]
        with listen("127.0.0.1", port, is_shared=True) as one, listen("127.0.0.1", port, is_shared=True) as other:
            one.listen()
            other.listen()
            with pytest.raises(ConfigError, match=str(port)):
                listen("127.0.0.1", port)
            with pytest.raises(ConfigError, match=str(port)):
                reserve("127.0.0.1", port)
            other.close()
            for _ in range(8):
                with socket.create_connection(("127.0.0.1", port), timeout=5.0), one.accept()[0]:
                    pass
