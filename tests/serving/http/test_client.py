import json
from pathlib import Path

import pytest

from serving.http.client import RankClient, UnavailableError, UnreachableError, rank
from serving.settings import ServingSettings
from stream.errors import ConfigError, SchemaError
from tests.serving.live import live
from tests.serving.world import World, body


def test_the_client_ranks_and_names_what_is_refused(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.go_live("base", 1)
    with live(world.service(ServingSettings(default_lineage="base", deadline_ms=5_000.0))) as address:
        answer = rank(address, json.dumps(body()).encode())
        assert (answer.lineage, answer.version, len(answer.items)) == ("base", "1", 30)
        with pytest.raises(SchemaError, match="currency"):
            rank(address, json.dumps(body(currency="x")).encode())
    with pytest.raises(UnreachableError):
        rank(address, b"{}")


def test_an_address_without_a_scheme_is_refused() -> None:
    with pytest.raises(UnreachableError, match="http://"):
        rank("127.0.0.1:1", b"{}")


def test_one_connection_serves_many_requests_and_survives_a_restart(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.go_live("base", 1)
    service = world.service(ServingSettings(default_lineage="base", deadline_ms=5_000.0))
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
