"""Fixtures that start real servers, and the order in which parallel workers take the tests."""

import gc
import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TypeVar

import pytest
from _pytest.doctest import DoctestModule
from hypothesis import settings

from tests.harness.kafka import fresh_kafka, kafka_broker, kafka_home, memory_broker
from tests.harness.kafka_sockets import close_dropped_sockets
from tests.harness.mortal import emptied_kafka, mortal_kafka
from tests.harness.postgres import postgres_url

__all__ = [
    "emptied_kafka",
    "fresh_kafka",
    "kafka_broker",
    "kafka_home",
    "memory_broker",
    "mortal_kafka",
    "postgres_url",
]

# The time of one example says nothing on a loaded machine.
settings.register_profile("default", settings.get_profile("default"), deadline=None)
settings.register_profile("long", settings.get_profile("default"), max_examples=1_500)
# `make system` runs the laws of the join with this profile.
settings.register_profile("system", settings.get_profile("default"), max_examples=20_000)
if settings.get_current_profile_name() == "default":
    settings.load_profile("default")

_Step = TypeVar("_Step")
_SERVERS = {
    "kafka": {"kafka_broker", "fresh_kafka", "mortal_kafka", "emptied_kafka"},
    "postgres": {"postgres_url"},
    # A mock cluster and Prometheus take seconds to start.
    "slow": {"memory_broker", "prometheus_url"},
}
_WAITING = ("kafka", "postgres", "slow")
_TESTS = Path(__file__).parent
_UNTRACED = {_TESTS / name for name in ("laws", "architecture")}
# Jars are compared with their digests when they are fetched; to verify their classes takes a quarter of a start.
_JAVA_OPTIONS = "-XX:+UnlockDiagnosticVMOptions -XX:-BytecodeVerificationRemote"
# Coverage starts after the configuration of a parallel worker, and a traced import takes twice as long.
_IMPORTED_BY_TESTS = (
    "torch",
    "alembic.command",
    "schemathesis",
    "litestar.testing",
    "statsmodels.api",
    "duckdb",
    "polars",
    "faust",
    "onnxruntime",
)


def pytest_configure(config: pytest.Config) -> None:
    """Let each of several workers compute with one thread, and brokers start at little cost: all share the cores."""
    close_dropped_sockets()
    # What is imported stays, and to look through it time and again takes a tenth of the collection.
    gc.disable()
    # No test cuts the power, and what a killed process has written the kernel keeps.
    os.fsync = lambda fd: None
    os.environ.setdefault("JDK_JAVA_OPTIONS", _JAVA_OPTIONS)  # noqa: TID251 - read by Java 9 and newer
    if hasattr(config, "workerinput"):
        for name in _from_another(_IMPORTED_BY_TESTS, config):
            import_module(name)
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # noqa: TID251 - read by torch, here and in child processes


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Generator[None, object, object]:
    """Trace the imports of the first of several workers: all import the same."""
    worker = getattr(session.config, "workerinput", {}).get("workerid", "gw0")
    try:
        with _untraced(session.config, worker != "gw0"):
            return (yield)
    finally:
        gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Let each of several workers begin with other folders and files."""
    report = yield
    if isinstance(collector, pytest.Directory) and report.passed:
        report.result = _from_another(report.result, collector.config)
    return report


def _from_another(steps: Sequence[_Step], config: pytest.Config) -> list[_Step]:
    """Return the steps from another one on in each worker: what one has compiled, the others find compiled."""
    if not hasattr(config, "workerinput"):
        return list(steps)
    given = config.workerinput
    first = len(steps) * int(given["workerid"].removeprefix("gw")) // given["workercount"]
    return [*steps[first:], *steps[:first]]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark tests by the servers that their fixtures start; with several workers, put files that wait first.

    Coverage does not trace slow tests and laws, which repeat many times what other tests run once, and tests that only
    read the source: tracing makes them take 2.5 times as long.
    """
    waiting = set()
    for item in items:
        if item.get_closest_marker("slow") or not _UNTRACED.isdisjoint(item.path.parents):
            item.add_marker("no_cover")
        used = set(getattr(item, "fixturenames", ()))
        for mark, fixtures in _SERVERS.items():
            if used & fixtures and item.get_closest_marker(mark) is None:
                item.add_marker(mark)
        if any(item.get_closest_marker(mark) for mark in _WAITING):
            waiting.add(item.path)
    if hasattr(config, "workerinput"):
        # Workers that compute at the end balance better than one that still waits for a server.
        # They do so best with many short files: the doctests of the packages.
        items.sort(key=lambda item: (item.path not in waiting, not item.path.is_relative_to(_TESTS), item.path))


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(file_path: Path) -> Generator[None, list[pytest.Collector], list[pytest.Collector]]:
    """Look for doctests in other modules only: those of tests hold none, and the search takes time."""
    found = yield
    is_test = file_path.name.startswith("test_")
    return [each for each in found if not (is_test and isinstance(each, DoctestModule))]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, object, object]:
    """Trace no fixture that a test outside of the coverage sets up; the plugin itself leaves out only the call."""
    with _untraced(item.config, item.get_closest_marker("no_cover") is not None):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """Trace no fixture that ends with a test outside of the coverage."""
    with _untraced(item.config, item.get_closest_marker("no_cover") is not None):
        return (yield)


@contextmanager
def _untraced(config: pytest.Config, wanted: bool = True) -> Iterator[None]:
    plugin = config.pluginmanager.getplugin("_cov")
    controller = getattr(plugin, "cov_controller", None)
    if controller is None or not wanted:
        yield
        return
    controller.pause()
    try:
        yield
    finally:
        controller.resume()


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name bytes by their argument and index: compressed bytes contain the time, which differs between workers."""
    return argname if isinstance(val, bytes) else None
