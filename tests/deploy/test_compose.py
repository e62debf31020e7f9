"""The compose files, as far as they can be checked without a Docker engine."""

import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import pytest
import typer.main
from prometheus_client import CollectorRegistry
from typer.core import TyperGroup

from abtest.settings import AbtestSettings
from deploy.cli import app
from deploy.configuration import load
from deploy.kafka import choice
from serving import exposure
from serving.settings import ServingSettings
from serving.tokens import parse as parse_tokens
from serving.tokens import sha256_of
from stream import db
from stream.agents.settings import WorkerSettings
from stream.errors import ConfigError
from stream.probes import ProbeServer
from trainer.settings import TrainerSettings
from trainer.versions.signature import SigningSettings, VersionKeys

FOLDER = Path(__file__).parents[2] / "deploy" / "compose"
ROOT = FOLDER.parents[1]
SECRETS = {
    "SHELFWISE_DB_PASSWORD": "p4ssword",
    "SHELFWISE_GRAFANA_PASSWORD": "gr4fana",
    "SHELFWISE_SIGNING_KEY": "5" * 64,
    "SHELFWISE_SERVING_TOKENS": f"score:{'5' * 64}",
}


class Health(msgspec.Struct, frozen=True):
    test: tuple[str, ...] = ()


class Service(msgspec.Struct):
    image: str
    command: list[str] = []
    read_only: bool = False
    user: str = ""
    cap_drop: list[str] = []
    security_opt: list[str] = []
    ports: list[str] = []
    volumes: list[str] = []
    environment: dict[str, str | int] = {}
    depends_on: dict[str, dict[str, str]] = {}
    healthcheck: Health = Health()
    mem_limit: str = ""


class Compose(msgspec.Struct):
    services: dict[str, Service]
    volumes: dict[str, dict[str, str]]


COMPOSE = msgspec.yaml.decode((FOLDER / "compose.yaml").read_bytes(), type=Compose)
OURS = {name: service for name, service in COMPOSE.services.items() if service.image.startswith("shelfwise:")}
RUNNING = {name: service for name, service in OURS.items() if service.healthcheck.test}


class Job(msgspec.Struct):
    job_name: str
    static_configs: list[dict[str, list[str]]]


class Scraping(msgspec.Struct):
    rule_files: list[str]
    scrape_configs: list[Job]
    scraping: dict[str, str] = msgspec.field(name="global")

    @property
    def scrape_interval(self) -> str:
        return self.scraping["scrape_interval"]

    def targets(self) -> set[str]:
        return {target for job in self.scrape_configs for group in job.static_configs for target in group["targets"]}


def listening(service: Service) -> str:
    """Return the port of a service's probes and metrics, from its command line."""
    words = service.command
    [port] = [words[index + 1] for index, word in enumerate(words) if word in {"--metrics-port", "--port"}]
    return port


def parse(words: list[str]) -> Mapping[str, object]:
    """Return the parameters of the command line, parsed and converted as `shelfwise` does."""
    command, context, left = typer.main.get_command(app), None, list(words)
    while True:
        context = command.make_context(command.name, left, parent=context)
        if not isinstance(command, TyperGroup):
            return context.params
        left = [*context._protected_args, *context.args]
        _, found, left = command.resolve_command(context, left)
        assert found is not None
        command = found


def environment(service: Service) -> dict[str, str]:
    """Return the environment of a service after Compose has put in the values of `.env`."""
    return {
        name: re.sub(r"\$\{(\w+):\?[^}]*\}", lambda match: SECRETS[match[1]], str(value))
        for name, value in service.environment.items()
    }


def readme_commands() -> Iterator[list[str]]:
    for match in re.finditer(r"docker compose run --rm \w+ (.+)", (FOLDER / "README.md").read_text()):
        yield match[1].split()


@pytest.mark.parametrize("words", [*(service.command for service in OURS.values()), *readme_commands()])
def test_command_lines_parse(words: list[str]) -> None:
    parse(words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["stream", "wroker"], "No such command"),
        (["stream", "worker", "--metrics-prot", "1"], "No such option"),
        (["stream", "worker", "--metrics-port", "x"], "valid integer"),
    ],
)
def test_a_wrong_command_line_is_seen(words: list[str], message: str) -> None:
    with pytest.raises(Exception, match=message):
        parse(words)


@pytest.mark.parametrize("name", OURS)
def test_every_service_resolves_its_own_settings(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("deploy.configuration.environment", lambda: environment(OURS[name]))
    monkeypatch.chdir(tmp_path)
    context = load()
    broker = choice.configured(context)
    assert broker.bootstrap == "kafka:9092"
    engine = db.create(context.database_url())
    assert (engine.dialect.name, engine.url.host, engine.url.password) == ("postgresql", "postgres", "p4ssword")
    engine.dispose()


def test_plain_text_is_allowed_only_where_the_file_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without = environment(OURS["joiner"])
    del without["SHELFWISE_KAFKA__ALLOW_PLAINTEXT"]
    monkeypatch.setattr("deploy.configuration.environment", lambda: without)
    monkeypatch.chdir(tmp_path)
    context = load()
    with pytest.raises(ConfigError, match="PLAINTEXT"):
        choice.configured(context)


def test_all_parts_of_the_loop_are_there() -> None:
    assert {tuple(service.command[:2]) for service in OURS.values()} >= {
        ("stream", "worker"),
        ("abtest", "sink"),
        ("trainer", "run"),
        ("serving", "run"),
        ("kafka", "topics"),
        ("db", "upgrade"),
    }
    assert set(OURS) - set(RUNNING) == {"schema", "setup"}
    assert {"kafka", "postgres", "prometheus", "grafana"} <= set(COMPOSE.services)


def test_what_is_published_is_published_on_loopback() -> None:
    published = [port for service in COMPOSE.services.values() for port in service.ports]
    assert sorted(published) == ["127.0.0.1:3000:3000", "127.0.0.1:8080:8080", "127.0.0.1:9090:9090"]


def test_prometheus_scrapes_every_process_by_the_name_of_its_service() -> None:
    ours, default = (
        msgspec.yaml.decode(path.read_bytes(), type=Scraping)
        for path in (FOLDER / "prometheus.yml", ROOT / "deploy/prometheus/prometheus.yml")
    )
    assert ours.targets() == {f"{name}:{listening(service)}" for name, service in RUNNING.items()}
    assert [job.job_name for job in ours.scrape_configs] == [job.job_name for job in default.scrape_configs]
    assert (ours.scrape_interval, ours.rule_files) == (default.scrape_interval, default.rule_files)


@pytest.mark.parametrize("name", RUNNING)
def test_every_process_listens_for_the_others_and_is_healthy_when_ready(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("deploy.configuration.environment", lambda: environment(RUNNING[name]))
    monkeypatch.chdir(tmp_path)
    settings = load().settings
    hosts = (
        settings.get("worker", WorkerSettings).metrics_host,
        settings.get("trainer", TrainerSettings).metrics_host,
        settings.get("abtest", AbtestSettings).metrics_host,
        settings.get("serving", ServingSettings).host,
    )
    assert set(hosts) == {"0.0.0.0"}
    program, option, code = RUNNING[name].healthcheck.test[1:]
    assert (program, option) == ("python", "-c")
    compile(code, name, "exec")
    assert f"'http://127.0.0.1:{listening(RUNNING[name])}/readyz'" in code


def test_the_health_check_fails_unless_the_process_is_ready() -> None:
    reasons = ["the partitions are not assigned yet", None]
    code = RUNNING["joiner"].healthcheck.test[3]
    with ProbeServer("127.0.0.1", 0, CollectorRegistry(), lambda: reasons.pop(0)) as server:
        command = [sys.executable, "-c", code.replace(":9101/", f":{server.port}/")]
        assert [subprocess.run(command, capture_output=True, check=False).returncode for _ in range(2)] == [1, 0]


def test_kafkas_health_check_starts_no_java_and_sees_an_open_port() -> None:
    program, *arguments = COMPOSE.services["kafka"].healthcheck.test[1:]
    assert program == "bash"
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        command = [program, *(word.replace("9092", str(port)) for word in arguments)]
        assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0


def test_every_service_has_a_memory_limit() -> None:
    assert all(re.fullmatch(r"\d+[mg]", service.mem_limit) for service in COMPOSE.services.values())


def test_images_are_pinned() -> None:
    dockerfile = (FOLDER / "Dockerfile").read_text()
    bases = re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE)
    for image in (*bases, *(service.image for service in COMPOSE.services.values())):
        assert re.fullmatch(r"[a-z/]+:v?\d+(\.\d+)+(-[a-z-]+)?", image), image
    kafka = re.findall(r"<version>(4\.[\d.]+)</version>", (ROOT / "deploy/kafka/pom.xml").read_text())
    assert COMPOSE.services["kafka"].image == f"apache/kafka:{kafka[0]}"
    assert COMPOSE.services["grafana"].image.startswith("grafana/grafana:13.")


def test_our_processes_have_few_rights() -> None:
    for name, service in OURS.items():
        assert service.read_only, name
        assert service.cap_drop == ["ALL"], name
        assert service.security_opt == ["no-new-privileges:true"], name
    assert re.search(r"^USER [1-9]\d*$", (FOLDER / "Dockerfile").read_text(), re.MULTILINE)


def test_no_password_stands_in_the_file() -> None:
    for service in COMPOSE.services.values():
        for variable, value in service.environment.items():
            if "PASSWORD" in variable or variable in {"SHELFWISE_DATABASE", "SHELFWISE_SIGNING__KEY"}:
                assert re.search(r"\$\{SHELFWISE_\w+_(PASSWORD|KEY):\?", str(value)), variable


def test_serving_may_listen_for_other_hosts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("deploy.configuration.environment", lambda: environment(OURS["serving"]))
    monkeypatch.chdir(tmp_path)
    found = load().settings
    exposure.check(found.get("serving", ServingSettings), VersionKeys.of(found.get("signing", SigningSettings)))


def test_the_script_makes_every_secret_that_the_file_asks_for(tmp_path: Path) -> None:
    shutil.copy(FOLDER / "make-secrets", tmp_path)
    script = [str(tmp_path / "make-secrets")]
    subprocess.run(script, check=True, capture_output=True)
    made = dict(line.split("=") for line in (tmp_path / ".env").read_text().splitlines())
    asked = set(re.findall(r"\$\{(\w+):\?", (FOLDER / "compose.yaml").read_text()))
    assert made.keys() == asked == SECRETS.keys()
    SigningSettings(key=made["SHELFWISE_SIGNING_KEY"])
    known = parse_tokens(ServingSettings(tokens=made["SHELFWISE_SERVING_TOKENS"]).tokens)
    written = {path.name: sha256_of(path.read_bytes()) for path in (tmp_path / "secrets").iterdir()}
    assert {token.role.value: token.sha256 for token in known} == written
    assert len(set(made.values())) == len(made)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / ".env", tmp_path / "secrets")}
    assert modes == {".env": 0o600, "secrets": 0o700}
    again = subprocess.run(script, check=False, capture_output=True)
    assert again.returncode == 1
    assert dict(line.split("=") for line in (tmp_path / ".env").read_text().splitlines()) == made


def test_mounted_files_and_volumes_exist() -> None:
    made = {"./secrets/read"}
    for service in COMPOSE.services.values():
        for volume in service.volumes:
            source = volume.split(":")[0]
            if source in made:
                continue
            assert (FOLDER / source).exists() if source.startswith(".") else source in COMPOSE.volumes


def test_grafana_gets_every_value_that_its_provisioning_asks_for() -> None:
    text = (ROOT / "deploy/grafana/provisioning/datasources/shelfwise.yaml").read_text()
    asked = set(re.findall(r"\$(SHELFWISE_\w+)", text))
    assert asked
    assert asked <= set(COMPOSE.services["grafana"].environment)
    provider = (ROOT / "deploy/grafana/provisioning/dashboards/shelfwise.yaml").read_text()
    mounted = [volume.split(":")[1] for volume in COMPOSE.services["grafana"].volumes if "dashboards" in volume]
    assert f"path: {mounted[0]}" in provider


def test_the_image_holds_all_packages_and_their_lock() -> None:
    dockerfile = (FOLDER / "Dockerfile").read_text()
    for package in ("stream", "abtest", "trainer", "serving", "deploy"):
        assert f"COPY {package} {package}" in dockerfile
        assert f"!{package}" in (FOLDER / "Dockerfile.dockerignore").read_text().splitlines()
    assert dockerfile.count("--require-hashes") == 2


def test_the_readme_says_what_is_unproven() -> None:
    assert "Not run here" in (FOLDER / "README.md").read_text()
