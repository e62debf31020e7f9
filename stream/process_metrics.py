"""Metrics that every process shows: CPU, memory, open files, garbage collection, and the version of the program."""

from importlib.metadata import version

from prometheus_client import CollectorRegistry, GCCollector, Info, PlatformCollector, ProcessCollector
from prometheus_client import disable_created_metrics as _disable_created_metrics


def process_registry() -> CollectorRegistry:
    """Return a registry that holds the process metrics, for the metrics of one process.

    Guarantees: counters come without a second series for their time of creation.

    Example:
        >>> process_registry().get_sample_value("shelfwise_build_info", {"version": version("shelfwise")})
        1.0
    """
    _disable_created_metrics()  # type: ignore[no-untyped-call] # the library declares no types for it
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    Info("shelfwise_build", "Version of the program.", registry=registry).info({"version": version("shelfwise")})
    return registry
