"""Tokens and keys are read again while the service runs: whole changes come into use, faulty ones do not."""

import logging
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from serving.credentials import Credentials, CredentialWatch
from serving.settings import ServingSettings
from serving.tokens import Role, Token, make, parse
from stream.errors import ConfigError
from tests.serving.live import live, wait_until
from tests.serving.world import World, body
from trainer.versions.signature import VersionKeys

TOKENS = [make(Role.SCORE, lambda num, fill=fill: bytes([fill] * num)) for fill in range(3)]  # type: ignore[misc] # a lambda with a default
OLD, NEW = VersionKeys((b"o" * 32,)), VersionKeys((b"n" * 32,))


class Files:
    """A file of tokens, and what is read from it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "tokens"
        self.keys = OLD
        self.num_reads = 0

    def write(self, *tokens: Token) -> None:
        """Replace the file as a whole."""
        new = self.path.with_suffix(".new")
        new.write_text("\n".join(map(str, tokens)))
        new.rename(self.path)

    def read(self) -> Credentials:
        """Return the credentials in the file."""
        self.num_reads += 1
        try:
            return Credentials(tokens=parse(self.path.read_text()), keys=self.keys, files=(self.path,))
        except ValueError as error:
            raise ConfigError(str(error)) from error

    def watch(self) -> CredentialWatch:
        """Return a watch of the file as it is."""
        return CredentialWatch(self.read(), self.read)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    made = Files(tmp_path)
    made.write(TOKENS[0][1])
    return made


def test_only_another_content_is_read_again(files: Files) -> None:
    watch = files.watch()
    for _ in range(3):
        assert not watch.look()
    assert files.num_reads == 2
    files.write(TOKENS[0][1])
    assert not watch.look()
    files.write(TOKENS[1][1])
    assert watch.look()
    assert watch.present.tokens == (TOKENS[1][1],)
    assert files.num_reads == 3


def test_a_change_between_the_start_and_the_first_look_is_seen(files: Files) -> None:
    watch = files.watch()
    files.write(TOKENS[1][1])
    assert watch.look()
    assert watch.present.tokens == (TOKENS[1][1],)


@pytest.mark.parametrize("spoil", [lambda path: path.write_text("score:half"), Path.unlink])
def test_a_faulty_change_leaves_what_is_in_use_until_it_is_repaired(
    files: Files, spoil: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    watch = files.watch()
    watch.look()
    spoil(files.path)
    with caplog.at_level(logging.ERROR):
        assert not any(watch.look() for _ in range(3))
    assert watch.present.tokens == (TOKENS[0][1],)
    assert watch.reason is not None
    assert len(caplog.records) == 1
    files.write(TOKENS[2][1])
    assert watch.look()
    assert watch.present.tokens == (TOKENS[2][1],)
    assert not watch.reason


def test_a_file_that_is_named_later_is_watched_too(tmp_path: Path) -> None:
    config, later = tmp_path / "config", tmp_path / "later"
    config.write_text("")
    later.write_text(str(TOKENS[1][1]))

    def read() -> Credentials:
        if not config.read_text():
            return Credentials(files=(config,))
        return Credentials(tokens=parse(later.read_text()), files=(config, later))

    watch = CredentialWatch(read(), read)
    assert not watch.look()
    config.write_text("later")
    assert watch.look()
    assert not watch.look()
    later.write_text(str(TOKENS[2][1]))
    assert watch.look()
    assert watch.present.tokens == (TOKENS[2][1],)


def test_without_a_reader_the_credentials_stay() -> None:
    watch = CredentialWatch(Credentials(keys=OLD))
    assert not watch.look()
    assert watch.present.keys == OLD


def test_a_version_of_the_new_key_is_loaded_in_the_poll_that_reads_the_key(files: Files) -> None:
    world = World(files.path.parent)
    service = world.service(ServingSettings(default_lineage="base"), credentials=files.watch())
    world.go_live("base", 1, keys=OLD)
    service.poll()
    world.go_live("base", 2, keys=NEW)
    service.poll()
    assert service.versions.numbers() == {"base": "1"}
    assert "of another key" in service.health().refused["base"]
    files.keys = VersionKeys((*NEW.keys, *OLD.keys))
    # The key itself is in another file than the one that the test watches.
    files.write(TOKENS[0][1], TOKENS[1][1])
    service.poll()
    assert service.versions.numbers() == {"base": "2"}
    assert service.health().refused == {}


def test_refused_credentials_are_a_metric(files: Files) -> None:
    service = World(files.path.parent).service(credentials=files.watch())
    for text, expected in (("score:half", 1), (str(TOKENS[0][1]), 0)):
        files.path.write_text(text)
        service.poll()
        assert service.metrics.registry.get_sample_value("shelfwise_serving_credentials_refused") == expected


def test_tokens_change_under_load_without_a_lost_request(files: Files) -> None:
    """A caller with a token that stays is answered throughout, on one connection; the removed one is refused."""
    files.write(TOKENS[0][1], TOKENS[1][1])
    settings = ServingSettings(default_lineage="base", deadline_ms=60_000.0, poll_s=0.02)
    service = World(files.path.parent).service(settings, credentials=files.watch())
    statuses: list[int] = []
    with live(service) as address, httpx.Client(base_url=address) as client:

        def ask(number: int) -> int:
            answer = client.post("/v1/rank", json=body(), headers={"Authorization": f"Bearer {TOKENS[number][0]}"})
            return answer.status_code

        def is_refused() -> bool:
            statuses.append(ask(1))
            return ask(0) == 401

        assert [ask(number) for number in range(3)] == [200, 200, 401]
        files.write(TOKENS[1][1], TOKENS[2][1])
        wait_until(is_refused)
        assert ask(2) == 200
    assert set(statuses) == {200}
