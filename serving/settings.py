"""Settings of the ranking service."""

from dataclasses import dataclass

from stream.settings import secret


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingSettings:
    """How requests are answered.

    Attributes:
        host: Address the service listens on.
        port: Port of the ranking API, `/livez`, `/readyz` and `/metrics`.
        drain_s: Seconds between SIGTERM and the close. Meanwhile `/readyz` answers 503 and requests are still answered,
            so that load balancers can turn away first; 0 closes at once.
        deadline_ms: Time from the arrival of a request until it is answered, by the model or in incoming order; a
            request that waited half of it for the model's thread is not scored any more.
        max_body_bytes: Larger request bodies are refused with 413.
        num_scored: How many candidates the model sees; the rest follows in incoming order.
        trust_event_ts: Take the time of an impression from the request; for simulations and replays only.
        default_lineage: Lineage that scores clients outside of the experiment; empty = incoming order.
        layer: Experiment layer of this service.
        poll_s: Seconds between two looks at the registry and the experiment.
        compiled: Run models through torch.compile; pays off for large models on a machine with a C++ compiler.
        max_bad_outputs: Bad outputs after which this process quarantines a version.
        pepper: Secret key of the query text's hash; empty = one made at the first start and kept under the home folder.
        spool_bytes: Disk space for impressions while the broker is down.
        queue_size: Impressions held in memory on their way to the broker.
        collect_bytes: Event payloads held in memory on their way to the broker; more are refused with 429.
        collect_timeout_s: Time until the sender of events is told to send them again.
        profiles_capacity: Clients whose history is kept in memory.
        artifacts: Folder of model artifacts; empty = `artifacts` under the home folder.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    drain_s: float = 5.0
    deadline_ms: float = 30.0
    max_body_bytes: int = 256 * 1024
    num_scored: int = 30
    trust_event_ts: bool = False
    default_lineage: str = ""
    layer: str = "ranker"
    poll_s: float = 2.0
    compiled: bool = False
    max_bad_outputs: int = 5
    pepper: str = secret()
    spool_bytes: int = 64 * 1024 * 1024
    queue_size: int = 10_000
    collect_bytes: int = 8 * 1024 * 1024
    collect_timeout_s: float = 10.0
    profiles_capacity: int = 200_000
    artifacts: str = ""

    def __post_init__(self) -> None:
        positive = ("deadline_ms", "max_body_bytes", "poll_s", "max_bad_outputs", "queue_size")
        for name in (*positive, "collect_bytes", "collect_timeout_s", "profiles_capacity"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} = {getattr(self, name)}: expected more than 0")
        if not 1 <= self.num_scored <= 30:
            raise ValueError(f"num_scored = {self.num_scored}: expected 1 to 30, the list size of the models")
        if not 0 <= self.port <= 65_535:
            raise ValueError(f"port = {self.port}: expected 0 to 65535")
        for name in ("drain_s", "spool_bytes"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} = {getattr(self, name)}: expected 0 or more")
