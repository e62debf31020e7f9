import json
from pathlib import Path

import httpx
import pytest

from serving.http.client import RankClient, UnavailableError, UnreachableError, rank
from serving.settings import ServingSettings
from serving.tokens import sha256_of
from stream.errors import ConfigError, SchemaError
from tests.serving.live import live
from tests.serving.world import World, body


def test_the_client_ranks_and_names_what_is_refused(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.go_live("base", 1)
    with live(world.service(ServingSettings(default_lineage="base", deadline_ms=60_000.0))) as address:
        answer = rank(address, json.dumps(body()).encode())
        assert (answer.lineage, answer.version, len(answer.items)) == ("base", "1", 30)
        with pytest.raises(SchemaError, match="currency"):
            rank(address, json.dumps(body(currency="x")).encode())
    with pytest.raises(UnreachableError):
        rank(address, b"{}")


def test_the_token_is_sent_with_every_request(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.go_live("base", 1)
    known = ServingSettings(
        default_lineage="base", deadline_ms=60_000.0, tokens=f"score:{sha256_of(b'right').hex()},read:{'5' * 64}"
    )
    with live(world.service(known)) as address:
        client = RankClient(address, token="right")
        answers = [client.rank(json.dumps(body()).encode()) for _ in range(2)]
        client.close()
        with pytest.raises(SchemaError, match=r"unknown or has expired \(status 401\)") as caught:
            rank(address, json.dumps(body()).encode(), token="wrong")
        huge = httpx.post(f"{address}/v1/rank", json=body(), headers={"Authorization": "Bearer " + "a" * 70_000})
        assert httpx.get(f"{address}/livez").status_code == 200
    assert [answer.version for answer in answers] == ["1", "1"]
    assert "wrong" not in str(caught.value)
    # It depends on the pieces in which the header arrives whether it is refused before it is complete.
    assert huge.status_code in {401, 431}


def test_an_address_without_a_scheme_is_refused() -> None:
    with pytest.raises(UnreachableError, match="http://"):
        rank("127.0.0.1:1", b"{}")


def test_one_connection_serves_many_requests_and_survives_a_restart(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.go_live("base", 1)
    service = world.service(ServingSettings(default_lineage="base", deadline_ms=60_000.0))
    with live(service) as address:
        client = RankClient(address)
        orders = [[item.item_id for item in client.rank(json.dumps(body()).encode()).items] for _ in range(3)]
        with pytest.raises(SchemaError, match="currency"):
            client.rank(json.dumps(body(currency="x")).encode())
    assert orders[0] == orders[1] == orders[2]
    with pytest.raises(UnavailableError):
        client.rank(b"{}")
    client.close()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ftp://127.0.0.1", "http://", "http://127.0.0.1:x"])
def test_a_client_refuses_what_is_no_address(address: str) -> None:
    with pytest.raises(ConfigError):
        RankClient(address)
