import json
from pathlib import Path

import pytest

from serving.http.client import UnreachableError, rank
from serving.settings import ServingSettings
from stream.errors import SchemaError
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
