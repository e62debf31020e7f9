from collections.abc import Mapping

from deploy import configuration
from deploy.demo.environment import PARTITIONS, SHOP, child_environment, partitions, variable
from stream import settings
from stream.settings import Settings


def resolved(environment: Mapping[str, str], flags: Mapping[str, object]) -> Settings:
    return settings.load(
        configuration.sections(),
        toml="[marketplace]\nkv = 2.0\nitems = 900\n",
        toml_name="shelfwise.toml",
        environment=environment,
        aliases=configuration.ALIASES,
        flags=flags,
    )


def test_the_demos_shop_holds_where_nothing_else_is_said() -> None:
    inherited = {"PATH": "/bin", "SHELFWISE_MARKETPLACE__CLIENTS": "900"}
    flags = {"learning.batch": 16, "model.modalities": "text", "kafka.broker": "memory"}
    found = child_environment(resolved(inherited, flags), inherited, {"marketplace.seed": 5})
    assert found["PATH"] == "/bin"
    assert found["SHELFWISE_MARKETPLACE__CATEGORIES"] == "2"
    assert found["SHELFWISE_MARKETPLACE__CLIENTS"] == "900", "of the environment"
    assert found["SHELFWISE_LEARNING__BATCH"] == "16", "of a flag"
    assert found["SHELFWISE_MARKETPLACE__SEED"] == "5"
    assert "SHELFWISE_MARKETPLACE__ITEMS" not in found, "the file, which the processes read too, says it"
    assert "SHELFWISE_KAFKA__BROKER" not in found, "the demo chooses the broker"


def test_the_processes_understand_it() -> None:
    flags = {"model.modalities": "text,image"}
    environment = child_environment(resolved({}, flags), {}, {})
    again = resolved({name: value for name, value in environment.items() if name.startswith("SHELFWISE_")}, {})
    values = {f"{one.section}.{one.key}": one.value for one in again.resolved}
    assert {key: values[key] for key in SHOP if key != "marketplace.items"} == {
        key: value for key, value in SHOP.items() if key != "marketplace.items"
    }
    assert values["model.modalities"] == ("text", "image")


def test_topics_have_few_partitions_unless_the_caller_says_how_many() -> None:
    assert partitions(resolved({}, {})) == PARTITIONS
    assert partitions(resolved({"SHELFWISE_KAFKA__PARTITIONS": "12"}, {})) == 12, "the default of everything else"
    assert partitions(resolved({}, {"kafka.partitions": 6})) == 6


def test_a_nested_key_has_a_variable() -> None:
    assert variable("model.vocabulary.item") == "SHELFWISE_MODEL__VOCABULARY__ITEM"
