import re
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest

from abtest.settings import AbtestSettings
from serving.settings import ServingSettings
from trainer.rollout.policy import Policy
from trainer.rollout.settings import RolloutSettings
from trainer.settings import TrainerSettings

FOLDER = Path(__file__).parents[2] / "deploy" / "prometheus"
SCENARIOS = Path(__file__).with_name("prometheus_rules_test.yml")
OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"


class StaticConfig(msgspec.Struct):
    targets: list[str]


class ScrapeConfig(msgspec.Struct):
    job_name: str
    static_configs: list[StaticConfig]


class PrometheusConfig(msgspec.Struct):
    rule_files: list[str]
    scrape_configs: list[ScrapeConfig]


class Rule(msgspec.Struct):
    alert: str
    expr: str
    labels: dict[str, str]
    annotations: dict[str, str]


class Group(msgspec.Struct):
    name: str
    rules: list[Rule]


class Rules(msgspec.Struct):
    groups: list[Group]


def promtool(*arguments: str) -> str:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed; on Debian: apt-get install prometheus")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rules() -> dict[str, Rule]:
    parsed = msgspec.yaml.decode((FOLDER / "rules.yml").read_bytes(), type=Rules)
    return {rule.alert: rule for group in parsed.groups for rule in group.rules}


def test_promtool_accepts_configuration_and_rules() -> None:
    assert "SUCCESS" in promtool("check", "config", str(FOLDER / "prometheus.yml"))


@pytest.mark.slow
def test_alerts_fire_on_faults_only(tmp_path: Path) -> None:
    scenarios = tmp_path / "rules_test.yml"
    scenarios.write_text(SCENARIOS.read_text().replace("[RULES]", f"[{FOLDER / 'rules.yml'}]"))
    assert "SUCCESS" in promtool("test", "rules", str(scenarios))


def test_every_alert_has_a_scenario_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    text = SCENARIOS.read_text()
    for name in rules():
        assert re.search(rf"alertname: {name}\n\s+exp_alerts:", text), f"{name} fires in no scenario"
        assert re.search(rf"eval_time: \d+m, alertname: {name}}}", text), f"{name} is silent in no scenario"


def test_every_alert_says_what_and_how_bad() -> None:
    for rule in rules().values():
        assert rule.labels["severity"] in {"warning", "critical"}
        assert rule.annotations["summary"]


def test_every_alert_has_its_row_in_operations() -> None:
    rows = re.findall(r"^\| (Shelfwise\w+) \|", OPERATIONS.read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(rules())


def test_thresholds_follow_the_settings() -> None:
    assert rules()["ShelfwiseCanaryWaits"].expr.endswith(f"> {3 * Policy().canary_s}")
    assert f"[{3 * TrainerSettings().publish_s // 60}m]" in rules()["ShelfwiseTrainerStale"].expr


def test_the_documented_ports_are_scraped_on_loopback() -> None:
    config = msgspec.yaml.decode((FOLDER / "prometheus.yml").read_bytes(), type=PrometheusConfig)
    targets = {
        job.job_name: [t for group in job.static_configs for t in group.targets] for job in config.scrape_configs
    }
    assert all(target.startswith("127.0.0.1:") for group in targets.values() for target in group)
    assert config.rule_files == ["rules.yml"]
    assert f"127.0.0.1:{AbtestSettings().metrics_port}" in targets["shelfwise-sink"]
    assert f"127.0.0.1:{TrainerSettings().metrics_port}" in targets["shelfwise-trainer"]
    assert f"127.0.0.1:{ServingSettings().port}" in targets["shelfwise-serving"]
    assert f"127.0.0.1:{RolloutSettings().metrics_port}" in targets["shelfwise-controller"]
    assert "127.0.0.1:9101" in targets["shelfwise-joiner"]
    every = [target for group in targets.values() for target in group]
    assert len(every) == len(set(every))
