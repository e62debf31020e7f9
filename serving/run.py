"""One serving process: build the service from settings, run it under uvicorn, stop cleanly on a signal."""

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import uvicorn

from abtest.store import ExperimentStore
from serving.http.app import create
from serving.metrics import Metrics
from serving.outbox.collector import Collector
from serving.outbox.delivery import Delivery
from serving.outbox.emitter import Emitter
from serving.outbox.spool import Spool
from serving.query_key import pepper
from serving.ranking import scorer
from serving.ranking.replicas import Follower
from serving.ranking.service import Parts, Service, Sources
from serving.ranking.versions import Updater, Versions
from serving.settings import ServingSettings
from stream import db
from stream.adapters import Options
from stream.broker.bus import Broker
from stream.errors import ConfigError
from stream.replicas.catalogue import Catalogue
from stream.replicas.profiles import Profiles
from stream.schemas import topics
from trainer.versions.registry import Registry

GRACE_S = 2

SYSTEM = Sources(clock=time.monotonic, now_ms=lambda: time.time_ns() // 1_000_000, random_bytes=os.urandom)


def build(
    settings: ServingSettings,
    *,
    home: Path,
    broker: Broker | None,
    database_url: str | None,
    sources: Sources = SYSTEM,
) -> Service:
    """Return a service that is wired but not started.

    Args:
        settings: The section `serving`.
        home: Folder of everything Shelfwise keeps on disk.
        broker: Without one, impressions go to the spool, catalogue and profiles stay empty, and no event is accepted.
        database_url: Without one, versions and the experiment come from the local copies.
        sources: Time and chance.
    """
    own = home / "serving"
    key = pepper(settings, own, sources.random_bytes)
    engine = db.create(database_url) if database_url is not None else None
    metrics = Metrics()
    catalogue, profiles = Catalogue(), Profiles(settings.profiles_capacity)
    versions = Versions(metrics, max_bad_outputs=settings.max_bad_outputs)
    artifacts = Path(settings.artifacts) if settings.artifacts else home / "artifacts"
    scorer.use_one_thread()
    parts = Parts(
        catalogue=catalogue,
        profiles=profiles,
        followers=(
            Follower(broker, topics.ITEMS, catalogue, metrics),
            Follower(broker, topics.PROFILES, profiles, metrics),
        ),
        versions=versions,
        updater=Updater(
            Registry(engine) if engine is not None else None,
            versions,
            lambda address: scorer.load(artifacts, address, compiled=settings.compiled),
            metrics,
            pointers=own / "versions.json",
            clock=sources.clock,
        ),
        experiments=ExperimentStore(engine) if engine is not None else None,
        # Processes of one host share the home folder and tell their spools apart by port.
        emitter=Emitter(
            broker,
            Spool(own / f"spool-{settings.port}", settings.spool_bytes),
            metrics,
            queue_size=settings.queue_size,
            clock=sources.clock,
        ),
        collector=Collector(
            Delivery(broker, clock=sources.clock),
            metrics,
            options=Options(pepper=key),
            max_bytes=settings.collect_bytes,
            timeout_s=settings.collect_timeout_s,
            now_ms=sources.now_ms,
        ),
        metrics=metrics,
    )
    return Service(settings, parts, sources, home=own, pepper=key, host=socket.gethostname())


def listen(host: str, port: int) -> socket.socket:
    """Return a bound TCP socket whose connections answer without Nagle's delay.

    Raises:
        ConfigError: If the address is unknown or taken.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # asyncio switches Nagle off only where the protocol is spelled out; an answer would wait 40 ms for an ACK.
        bound = socket.socket(family, kind, socket.IPPROTO_TCP)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
        except OSError:
            bound.close()
            raise
    except OSError as error:
        raise ConfigError(f"serving.host = {host}, serving.port = {port}: {error.strerror or error}") from error
    return bound


def serve(service: Service, on_ready: Callable[[int], None] | None = None) -> None:
    """Listen until SIGTERM or SIGINT; `on_ready` is told the port once requests are accepted.

    Raises:
        ConfigError: If the address is unknown or taken.
    """
    settings = service.settings
    config = uvicorn.Config(
        create(service),
        host=settings.host,
        port=settings.port,
        access_log=False,
        log_config=None,
        lifespan="on",
        timeout_graceful_shutdown=GRACE_S,
        timeout_keep_alive=30,
    )
    listening = listen(settings.host, settings.port)
    # uvicorn raises the signal again after its clean stop; the process then ends by returning, with code 0.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    try:
        asyncio.run(_serve(uvicorn.Server(config), listening, on_ready))
    finally:
        listening.close()


async def _serve(server: uvicorn.Server, listening: socket.socket, on_ready: Callable[[int], None] | None) -> None:
    port = listening.getsockname()[1]
    logging.getLogger(__name__).info("listening on port %d", port)
    if on_ready is not None:
        on_ready(port)
    await server.serve(sockets=[listening])
