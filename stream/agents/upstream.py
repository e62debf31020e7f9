"""Replacement of classes of Faust and aiokafka by the worker's own, on pinned releases only.

The modules `faust_app`, `faust_consumer`, `faust_table`, `fetch_thread`, `aiokafka_records` and `fencing` override
private methods of them, and no other module knows private parts. Contract tests pin the upstream behaviour:
tests/stream/agents/test_faust_contract.py and test_faust_methods.py.

Source: docs/adr/0010-faust-in-micro-batches.md.
"""

from collections.abc import Awaitable, Callable, Mapping
from importlib.metadata import version

from faust.transport.drivers import aiokafka as driver

from stream.agents import aiokafka_records, fencing
from stream.agents.faust_consumer import MicroBatchConsumer
from stream.errors import ConfigError

PINNED: Mapping[str, str] = {
    "faust-streaming": "0.15.3",
    "aiokafka": "0.14.0",
    "mode-streaming": "0.7.1",
}


def check_versions() -> None:
    """Refuse to run on other releases than those whose private methods are overridden.

    Raises:
        ConfigError: Naming the package, the pinned release and the one found.
    """
    for package, pinned in PINNED.items():
        found = version(package)
        if found != pinned:
            raise ConfigError(f"{package} {found} is installed, the worker overrides private parts of {pinned}")


def install(fence: fencing.MembershipFence, before_revoke: Callable[[], Awaitable[None]]) -> None:
    """Replace classes of Faust and aiokafka in this process; call it before any of their clients is made.

    Args:
        fence: Fence of every producer and group member of this process.
        before_revoke: Finish all micro-batches in flight, before partitions are given back.
    """
    aiokafka_records.install()
    fencing.install(fence)
    attributes = {"before_revoke": staticmethod(before_revoke)}
    driver.Transport.Consumer = type("WorkerConsumer", (MicroBatchConsumer,), attributes)
