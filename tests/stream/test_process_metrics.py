from importlib.metadata import version

from prometheus_client import Counter, generate_latest

from stream.process_metrics import process_registry


def test_a_process_shows_its_use_of_the_machine_and_its_version() -> None:
    registry = process_registry()
    assert registry.get_sample_value("shelfwise_build_info", {"version": version("shelfwise")}) == 1
    for name in ("process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds"):
        assert (registry.get_sample_value(name) or 0) > 0


def test_counters_have_no_second_series_for_their_creation() -> None:
    registry = process_registry()
    Counter("things", "Things.", registry=registry).inc()
    assert b"_created" not in generate_latest(registry)
