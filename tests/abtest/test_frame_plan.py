"""Plans of files, as they are read and as programs build them."""

import math
from pathlib import Path

import msgspec
import pytest

from abtest.frame_plan import FramePlan, MetricPlan, check, read_plan
from stream.errors import ConfigError

METRIC = """
[[metric]]
name = "cvr"
numerator = "orders"
denominator = "sessions"
"""
TOML = 'client = "who"\ncontrol = "a"\n' + METRIC


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TOML.replace("control", "controll"), "unknown field `controll`"),
        (TOML.replace("numerator", "numerater"), "unknown field `numerater`"),
        (TOML + 'before = "x"\n', "metric 'cvr': a ratio with `before` needs `before_denominator`"),
        (TOML + METRIC, "metric 'cvr' is there twice"),
        (TOML + 'before = "orders"\nbefore_denominator = "y"\n', "metric 'cvr': `before` is the column of the num"),
        (TOML + 'is_share = "yes"\n', r"Expected `bool`, got `str` - at `\$.metric\[0\].is_share`"),
        (TOML.replace('"orders"', '"arm"'), "metric 'cvr': column 'arm' is that of the arms"),
        (TOML.replace('"who"', '""'), r"at `\$.client`"),
        ('control = "a"\nalpha = 0.7\n' + METRIC, r"`float` < 0.5 - at `\$.alpha`"),
        ('control = "a"\nalpha = 0\n' + METRIC, r"`float` > 0.0 - at `\$.alpha`"),
        ('control = "a"\nalpha = nan\n' + METRIC, "alpha"),
        ('control = "a"\nstratum = "arm"\n' + METRIC, "stratum = 'arm': expected a column of its own"),
        ('control = "a"\ntightest_clients = 0\n' + METRIC, r"`int` >= 1 - at `\$.tightest_clients`"),
        ('control = "a"\nadjustment = "bonferroni"\n' + METRIC, r"'bonferroni' - at `\$.adjustment`"),
        ('control = "a"\nweights = { a = 1, b = 0 }\n' + METRIC, r"at `\$.weights"),
        ('control = "a"\nweights = { a = 1, b = inf }\n' + METRIC, r"weights\.b = inf: expected a finite number"),
        ('control = "a"\nweights = { a = 1, b = nan }\n' + METRIC, "weights"),
        (
            'control = "a"\nweights = { b = 1, c = 1 }\n' + METRIC,
            "weights of b, c: expected the control 'a'",
        ),
        ('control = "a"\nweights = { a = 1 }\n' + METRIC, "weights of a: expected the control 'a' and another arm"),
        ('control = "a"\nmetric = []\n', r"length >= 1 - at `\$.metric`"),
        ('control = "a"\n', "missing required field `metric`"),
        ("control = 1", r"at `\$.control`"),
        ("[", "Invalid initial character"),
        ("x = " + "[" * 100_000, ""),
    ],
)
def test_a_plan_that_is_wrong_is_refused_with_its_file(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"plan\.toml: .*{message}"):
        read_plan(path)


def test_a_plan_that_is_no_text_or_not_there_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_bytes(TOML.replace("who", "größe").encode("latin-1"))
    with pytest.raises(ConfigError, match=r"plan\.toml: .*codec can't decode"):
        read_plan(path)
    with pytest.raises(ConfigError, match=r"none\.toml: No such file"):
        read_plan(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="Is a directory"):
        read_plan(tmp_path)


def test_a_byte_order_mark_is_no_part_of_a_plan(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_bytes(b"\xef\xbb\xbf" + TOML.encode())
    assert read_plan(path) == msgspec.toml.decode(TOML, type=FramePlan)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpha": 5.0}, "alpha"),
        ({"alpha": math.nan}, "alpha"),
        ({"alpha": "0.05"}, "alpha"),
        ({"weights": {"a": 1.0, "b": math.inf}}, r"weights\.b = inf"),
        ({"weights": {"a": 1.0, "b": -1.0}}, "weights"),
        ({"control": 1}, "control"),
        ({"metrics": ()}, "metric"),
        ({"metrics": (1,)}, "metric"),
        ({"metrics": (object(),)}, "plan: "),
    ],
)
def test_a_plan_that_a_program_builds_is_refused_alike(change: dict[str, object], message: str) -> None:
    fields: dict[str, object] = {"control": "a", "metrics": (MetricPlan(name="x", numerator="x"),)} | change
    with pytest.raises(ConfigError, match=message):
        check(FramePlan(**fields))  # type: ignore[arg-type]
