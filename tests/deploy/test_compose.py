"""What can be said about the compose files without a Docker engine."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import pytest
import typer.main
from typer.core import TyperGroup

from deploy.cli import app
from deploy.configuration import load
from deploy.kafka import choice
from stream import db
from stream.errors import ConfigError

FOLDER = Path(__file__).parents[2] / "deploy" / "compose"
ROOT = FOLDER.parents[1]
PASSWORDS = {"SHELFWISE_DB_PASSWORD": "p4ssword", "SHELFWISE_GRAFANA_PASSWORD": "gr4fana"}


class Service(msgspec.Struct):
    image: str
    command: list[str] = []
    network_mode: str = ""
    read_only: bool = False
    user: str = ""
    cap_drop: list[str] = []
    security_opt: list[str] = []
    ports: list[str] = []
    volumes: list[str] = []
    environment: dict[str, str | int] = {}
    depends_on: dict[str, dict[str, str]] = {}


class Compose(msgspec.Struct):
    services: dict[str, Service]
    volumes: dict[str, dict[str, str]]


COMPOSE = msgspec.yaml.decode((FOLDER / "compose.yaml").read_bytes(), type=Compose)
OURS = {name: service for name, service in COMPOSE.services.items() if service.image.startswith("shelfwise:")}


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
        name: re.sub(r"\$\{(\w+):\?[^}]*\}", lambda match: PASSWORDS[match[1]], str(value))
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
    }
    assert {"kafka", "postgres", "prometheus", "grafana"} <= set(COMPOSE.services)


def test_what_is_published_is_published_on_loopback() -> None:
    published = [port for service in COMPOSE.services.values() for port in service.ports]
    assert sorted(published) == ["127.0.0.1:3000:3000", "127.0.0.1:8080:8080", "127.0.0.1:9090:9090"]


def test_metrics_ports_are_those_that_prometheus_scrapes() -> None:
    scraped = set(re.findall(r"127\.0\.0\.1:(\d+)\"", (ROOT / "deploy/prometheus/prometheus.yml").read_text()))
    exposed = [
        service.command[index + 1]
        for service in OURS.values()
        for index, word in enumerate(service.command)
        if word in {"--metrics-port", "--port"}
    ]
    assert sorted(exposed) == sorted(scraped)
    assert {service.network_mode for service in (*OURS.values(), COMPOSE.services["prometheus"])} == {"service:pod"}


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
            if "PASSWORD" in variable or variable == "SHELFWISE_DATABASE":
                assert re.search(r"\$\{SHELFWISE_\w+_PASSWORD:\?", str(value)), variable


def test_mounted_files_and_volumes_exist() -> None:
    for service in COMPOSE.services.values():
        for volume in service.volumes:
            source = volume.split(":")[0]
            assert (FOLDER / source).is_dir() if source.startswith(".") else source in COMPOSE.volumes


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
