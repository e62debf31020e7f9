import pytest

from stream.loopback import is_loopback


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.9.1", "::1", "[::1]"])
def test_addresses_of_this_machine(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["", "kafka", "localhost.example.org", "0.0.0.0", "::", "10.0.0.1", "128.0.0.1"])
def test_other_addresses(host: str) -> None:
    assert not is_loopback(host)
