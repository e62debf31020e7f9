"""Settings of the ranking service."""

from dataclasses import dataclass
from typing import Literal

from serving.tokens import parse
from stream.schemas.money import currency_code
from stream.setting_fields import secret


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingSettings:
    """Settings of the ranking service.

    Attributes:
        host: Address on which the service listens.
        port: Port of the API, `/livez`, `/readyz` and `/metrics`.
        workers: Processes that share the port, each with memory, limits and metrics of its own; 0 = one per core.
            Several are started, watched and stopped by a supervisor.
        workers_port: Port on which the first of several workers alone answers too, for its metrics; the others follow
            on the next ports. 0 opens none.
        allowed_hosts: Host names under which callers reach the service, separated by commas. `localhost`,
            `serving.host` and addresses are always served. Requests for other names are refused with 421.
        tokens: Tokens of callers as lines `ROLE:SHA256` or `ROLE:SHA256:YYYY-MM-DD`, separated by white space or
            commas. The roles are `score`, `collect`, `read` and `annotate`, with two tokens each at most; a token is
            refused from that day on (UTC). `shelfwise serving token` makes them. Empty = everybody may call, on
            loopback only.
        caller_rate: Requests per second of one token, in each process; 0 = no limit.
        caller_burst: Requests that a token may send at once after a pause.
        caller_token: Token that `shelfwise serving rank` and the simulated shop send.
        drain_s: Seconds between SIGTERM and the close. Meanwhile `/readyz` answers 503 and requests are still answered,
            so that load balancers can turn away first; 0 closes at once.
        max_connections: Open connections, at most the descriptor limit of the process (`ulimit -n`) less 256. At the
            limit, the connection that has waited longest for a request is closed for a new one.
        headers_timeout_s: Seconds from the opening of a connection, or from the first byte of a later request, until
            its headers are complete; then the connection is closed, with 408 if a request had begun.
        body_timeout_s: Seconds from the end of the headers until the body is complete; then 408.
        keep_alive_s: Seconds that an open connection waits for its next request.
        write_timeout_s: Seconds until a client that reads no answer is disconnected.
        deadline_ms: Milliseconds from the first byte of a request to its answer, scored or in incoming order. Scores
            are waited for until 0.9 of it have passed; a list that cannot be scored by then is not.
        max_body_bytes: Size of a request body above which it is refused with 413.
        num_scored: Number of candidates that the model scores; the others follow in incoming order.
        swap_share: Share of the lists in which two items change places, so that examination by position can be
            estimated; below 0.5, 0 = none. Lists that fall back to the incoming order, and shuffled ones, stay.
        swap_reach: Largest distance of the two positions; 1 = neighbours.
        trust_event_ts: Take the time of an impression from the request, for simulations and replays.
        default_lineage: Lineage that scores clients outside of the experiment; empty = incoming order.
        layer: Experiment layer of this service.
        poll_s: Seconds between two polls of the registry and the experiment.
        runtime: Runtime of the models. `onnx` takes less time and memory, imports no torch, and needs versions that
            were written with `trainer.onnx_graph`.
        precision: Number format of the dense weights. `int8` takes less time, and needs `runtime = "onnx"` and versions
            that were written with `trainer.onnx_int8`; others are scored in full precision.
        compiled: Run models through torch.compile; needs a C++ compiler and pays off for large models.
        max_bad_outputs: Bad outputs after which this process quarantines a version.
        spool_bytes: Disk space for impressions while the broker is unavailable.
        queue_size: Impressions that wait in memory for the broker; further ones are dropped.
        collect_bytes: Size of posted events that wait in memory for the broker; further ones are refused with 429.
        collect_timeout_s: Seconds after which posted events that the broker has not acknowledged are answered with 503.
        collect_currency: Currency of posted lists and orders that name none, such as EUR; empty = unknown.
        profiles_capacity: Clients whose profile is kept in memory, about 2 KB each at most.
        annotation_pages: File of `shelfwise trainer annotate export` whose pages are labelled at `/annotate`; empty =
            none. A changed file is read again.
        artifacts: Folder of model artifacts; empty = `artifacts` under the home folder.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    workers: int = 1
    workers_port: int = 0
    allowed_hosts: str = ""
    tokens: str = secret(private_file=True)
    caller_rate: float = 0.0
    caller_burst: int = 100
    caller_token: str = secret(private_file=True)
    drain_s: float = 5.0
    max_connections: int = 1_000
    headers_timeout_s: float = 5.0
    body_timeout_s: float = 5.0
    keep_alive_s: float = 30.0
    write_timeout_s: float = 10.0
    deadline_ms: float = 30.0
    max_body_bytes: int = 256 * 1024
    num_scored: int = 30
    swap_share: float = 0.0
    swap_reach: int = 29
    trust_event_ts: bool = False
    default_lineage: str = ""
    layer: str = "ranker"
    poll_s: float = 2.0
    runtime: Literal["torch", "onnx"] = "torch"
    precision: Literal["float32", "int8"] = "float32"
    compiled: bool = False
    max_bad_outputs: int = 5
    spool_bytes: int = 64 * 1024 * 1024
    queue_size: int = 10_000
    collect_bytes: int = 8 * 1024 * 1024
    collect_timeout_s: float = 10.0
    collect_currency: str = ""
    profiles_capacity: int = 200_000
    annotation_pages: str = ""
    artifacts: str = ""

    def __post_init__(self) -> None:
        positive = ("deadline_ms", "max_body_bytes", "poll_s", "max_bad_outputs", "queue_size")
        connections = ("max_connections", "headers_timeout_s", "body_timeout_s", "keep_alive_s", "write_timeout_s")
        for name in (*positive, *connections, "collect_bytes", "collect_timeout_s", "profiles_capacity"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} = {getattr(self, name)}: expected more than 0")
        if not 1 <= self.num_scored <= 30:
            raise ValueError(f"num_scored = {self.num_scored}: expected 1 to 30, the list size of the models")
        # Below one half, the items that were moved are known by their propensity.
        if not 0 <= self.swap_share < 0.5:
            raise ValueError(f"swap_share = {self.swap_share}: expected at least 0 and less than 0.5")
        if self.compiled and self.runtime != "torch":
            raise ValueError(f"compiled = true, runtime = {self.runtime}: torch alone compiles")
        if self.precision == "int8" and self.runtime != "onnx":
            raise ValueError(f"precision = int8, runtime = {self.runtime}: expected runtime = onnx")
        if self.swap_reach < 1:
            raise ValueError(f"swap_reach = {self.swap_reach}: expected at least 1")
        if self.collect_currency:
            try:
                currency_code(self.collect_currency)
            except ValueError as error:
                raise ValueError(f"collect_currency = {error}") from error
        parse(self.tokens)
        if self.caller_burst < 1:
            raise ValueError(f"caller_burst = {self.caller_burst}: expected at least 1")
        if not (self.caller_token.isascii() and self.caller_token.isprintable()):
            raise ValueError("caller_token: expected printable ASCII characters")
        if not 0 <= self.port <= 65_535:
            raise ValueError(f"port = {self.port}: expected 0 to 65535")
        if not 0 <= self.workers_port <= 65_535 - max(self.workers, 1):
            raise ValueError(f"workers_port = {self.workers_port}: expected ports up to 65535 for all workers")
        for name in ("drain_s", "workers", "spool_bytes", "caller_rate"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} = {getattr(self, name)}: expected 0 or more")
