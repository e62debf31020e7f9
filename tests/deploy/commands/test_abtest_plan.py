"""`shelfwise abtest create` and `power`."""

import json
from pathlib import Path

import pytest

from stream.errors import ConfigError
from tests.deploy.commands.test_abtest import CREATE, call, fill_home, home

__all__ = ["home"]


def test_fixed_policy_arm(home: Path) -> None:
    code, out = call(
        "abtest",
        "create",
        "first",
        "--arm",
        "as_is=policy:incoming_order",
        "--arm",
        "a=prm-1",
        "--control",
        "as_is",
        "--json",
    )
    assert code == 0
    assert json.loads(out)["arms"][0] == {
        "name": "as_is",
        "lineage": None,
        "policy": "incoming_order",
        "is_control": True,
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--arm", "control"), "--arm control: expected"),
        (("--arm", "control=a"), "two or more"),
        (("--arm", "a=x", "--arm", "b=y"), "exactly one control"),
        (("--arm", "control=a", "--arm", "b=y", "--primary", "revenue"), "= 'revenue': expected one of"),
        (("--arm", "control=a", "--arm", "b=y", "--layer", "price"), "--layer price: the facts name"),
        (("--arm", "control=a", "--arm", "b=y", "--cuped", "0.5"), "cuped_days = 0.5: expected more"),
        (("--arm", "control=a", "--arm", "b=y", "--looks", "7"), "several looks need a planned number"),
    ],
)
def test_refused_values_are_named(home: Path, arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call("abtest", "create", "first", *arguments)


def test_money_after_refunds_can_be_the_primary(home: Path) -> None:
    assert call(*CREATE, "--primary", "net_gmv", "--looks", "7", "--days", "14")[0] == 0
    out = call("abtest", "list", "--json")[1]
    plan = json.loads(out)[0]["plan"]
    assert (plan["goals"], plan["days"], plan["min_buyers"]) == (["ctr", "cvr", "gmv", "net_gmv"], 14.0, 100)
    assert (plan["attribution_s"], plan["refund_s"]) == (86_400, 604_800)


@pytest.mark.slow
def test_a_plan_from_history(home: Path) -> None:
    fill_home(home)
    code, out = call("abtest", "power", "--mde", "0.5", "--days", "1", "--json")
    found = json.loads(out)
    assert (code, found["history"]["clients"]) == (0, 200)
    (plan,) = found["plans"]
    assert plan["days"] == pytest.approx(plan["clients"] / 200)
    assert call("abtest", "stop", "first")[0] == 0
    arms = ("--arm", "control=prm-1", "--arm", "treatment=armmt-1")
    code, out = call("abtest", "create", "second", *arms, "--mde", "0.5", "--from-history", "1", "--json")
    assert (code, json.loads(out)["clients"]) == (0, plan["clients"])
    with pytest.raises(ConfigError, match="expected --mde, and neither"):
        call("abtest", "create", "third", *arms, "--from-history", "1")
