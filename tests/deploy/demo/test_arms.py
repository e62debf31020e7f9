import pytest

from deploy.demo.arms import all_arms, learned
from stream.errors import ConfigError


def test_the_default_is_a_fifth_shuffled_and_half_learned() -> None:
    arms = all_arms(["armmt"])
    assert [(arm.name, arm.weight, arm.policy, arm.lineage) for arm in arms] == [
        ("shuffle", 0.2, "shuffle", None),
        ("incoming_order", 0.3, "incoming_order", None),
        ("armmt", 0.5, None, "armmt"),
    ]
    assert [arm.stored().is_control for arm in arms] == [True, False, False]


def test_lineages_share_the_learned_half() -> None:
    arms = all_arms(["prm", "armmt"])
    assert [arm.weight for arm in arms[2:]] == [0.25, 0.25]
    assert sum(arm.weight for arm in arms) == pytest.approx(1)


@pytest.mark.parametrize(
    ("lineages", "message"),
    [
        ([], "names no model"),
        (["gpt"], r"--lineages gpt: expected armmt, prm"),
        (["prm", "prm"], "names prm twice"),
    ],
)
def test_lineages_that_cannot_be_meant_are_refused(lineages: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        learned(lineages)
