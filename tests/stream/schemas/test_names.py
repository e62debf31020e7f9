"""One rule for names, held by the trainer's registry, its command and the store of experiments."""

import pytest
from sqlalchemy import Engine
from typer.testing import CliRunner

from abtest.experiment import Arm
from abtest.store import ExperimentStore
from deploy.cli import app
from stream import db
from stream.errors import ConfigError
from stream.schemas.names import check_reason, is_name
from trainer.versions.registry import Registry

GOOD = ("prm", "prm.v2", "PRM-2", "7", "a_b", "a" * 64)
BAD = ("", "_prm", ".prm", "-prm", "größe", "a b", "a/b", "..", "../a", "a\n", "a" * 65, "\u017f", "\u212a")


@pytest.fixture
def engine() -> Engine:
    engine = db.create("sqlite://")
    db.metadata.create_all(engine)
    return engine


@pytest.mark.parametrize("name", GOOD)
def test_good_names_are_accepted_everywhere(name: str, engine: Engine) -> None:
    assert is_name(name)
    assert Registry(engine).ensure_lineage(name, "prm", "tiny", "h" * 64).name == name
    arms = (Arm(name="control", lineage=name, is_control=True), Arm(name="treatment", policy="shuffle"))
    assert ExperimentStore(engine).create(key="first", arms=arms, now_ts=1).arms == arms


@pytest.mark.parametrize("name", BAD)
def test_bad_names_are_refused_everywhere(name: str, engine: Engine) -> None:
    assert not is_name(name)
    with pytest.raises(ConfigError, match="beginning with A-Z, a-z or 0-9"):
        Registry(engine).ensure_lineage(name, "prm", "tiny", "h" * 64)
    arms = (Arm(name="control", lineage=name, is_control=True), Arm(name="treatment", policy="shuffle"))
    with pytest.raises(ConfigError, match="beginning with A-Z, a-z or 0-9"):
        ExperimentStore(engine).create(key="first", arms=arms, now_ts=1)
    refused = CliRunner().invoke(app, ["trainer", "run", "--", name])
    assert isinstance(refused.exception, ConfigError)


@pytest.mark.parametrize("text", ["", " \n", "a\nb", "a\x1b[2Jb", "a\u202eb", "a\u2028b", "a\udc80"])
def test_a_reason_has_words_and_changes_nothing_else_on_a_screen(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^why = ") as refused:
        check_reason("why", text)
    assert "\x1b" not in str(refused.value)


def test_a_reason_may_be_in_any_language() -> None:
    check_reason("why", "注文が\u3000減った: -3 %, größer ☃")
