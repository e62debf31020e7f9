"""Log lines of long-running commands: to standard error, ours from info on, libraries' from warnings on."""

import logging
import sys

_NOISY = ("aiokafka.consumer.fetcher", "faust.transport.drivers.aiokafka", "mode.utils.logging")


def to_stderr() -> None:
    """Configure logging of this process."""
    logging.basicConfig(
        level=logging.WARNING, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("shelfwise").setLevel(logging.INFO)
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
