"""Reader of the Prometheus metrics of a process on this machine."""

import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from stream.errors import ShelfwiseError

TIMEOUT_S = 2.0


class ScrapeError(ShelfwiseError):
    """Failure of a process to answer on its port."""


@dataclass(frozen=True, slots=True)
class Samples:
    """Samples of one scrape."""

    values: tuple[tuple[str, Mapping[str, str], float], ...]

    def total(self, name: str, **labels: str) -> float:
        """Return the sum over samples of `name` whose labels include the given ones; 0 when there is none."""
        return float(sum(v for n, have, v in self.values if n == name and labels.items() <= have.items()))

    def has(self, name: str) -> bool:
        """Return whether any sample has this name."""
        return any(n == name for n, _, _ in self.values)


def parse(text: str) -> Samples:
    r"""Return the samples in a Prometheus text.

    >>> parse('a_total{x="1"} 2\na_total{x="2"} 3\n').total("a_total")
    5.0
    """
    families = text_string_to_metric_families(text)
    return Samples(tuple((s.name, s.labels, s.value) for family in families for s in family.samples))


def scrape(port: int) -> Samples:
    """Return the metrics of the process on loopback `port`.

    Raises:
        ScrapeError: If it does not answer with success.
    """
    return parse(fetch(port, "/metrics"))


def fetch(port: int, path: str) -> str:
    """Return the body of a GET on loopback.

    Raises:
        ScrapeError: If there is no successful answer.
    """
    url = f"http://127.0.0.1:{port}{path}"
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
            body: bytes = answer.read()
    except (urllib.error.URLError, OSError) as error:
        raise ScrapeError(f"{url}: {error}") from error
    return body.decode()
