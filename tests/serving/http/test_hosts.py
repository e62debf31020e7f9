import pytest

from serving.http.hosts import Hosts

HOSTS = Hosts(["shop.example", " Serving ", ""])


@pytest.mark.parametrize(
    "value",
    [
        "localhost",
        "LOCALHOST:8080",
        "a.localhost",
        "127.0.0.1",
        "10.1.2.3:80",
        "[::1]:8080",
        "serving:8080",
        "shop.example.",
    ],
)
def test_listed_names_and_addresses_are_served(value: str) -> None:
    assert HOSTS.refusal([value.encode()]) is None


@pytest.mark.parametrize(
    "value",
    [
        "evil.example",
        "localhost.evil.example",
        "xshop.example",
        "shop.example.evil",
        "127.0.0.1.evil.example",
        "0x7f.1",
    ],
)
def test_other_names_are_misdirected(value: str) -> None:
    assert HOSTS.refusal([value.encode()]) == 421


@pytest.mark.parametrize(
    "values",
    [
        [],
        [b""],
        [b"localhost", b"localhost"],
        [b"localhost, evil.example"],
        [b"user@localhost"],
        [b"localhost:port"],
        [b"localhost:123456"],
        [b"localhost/path"],
        [b"localhost\x00"],
        [b"l\xf6calhost"],
        [b" localhost"],
        [b"a" * 300],
    ],
)
def test_no_single_valid_host_is_a_bad_request(values: list[bytes]) -> None:
    assert HOSTS.refusal(values) == 400
