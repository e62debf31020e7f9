"""A service on a real socket, in a thread of the test process."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import uvicorn

from serving.http.app import create
from serving.http.server import listen
from serving.ranking.service import Service

LIMIT_S = 60.0


@contextmanager
def live(service: Service) -> Iterator[str]:
    """Run the service and yield its address once it is ready."""
    listening = listen("127.0.0.1", 0)
    config = uvicorn.Config(create(service), log_config=None, access_log=False, lifespan="on")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listening])))
    thread.start()
    address = f"http://127.0.0.1:{listening.getsockname()[1]}"
    try:
        wait_ready(address)
        yield address
    finally:
        server.should_exit = True
        thread.join(LIMIT_S)
        listening.close()
    assert not thread.is_alive()


def wait_ready(address: str) -> None:
    """Return once `/readyz` says so."""
    limit = time.monotonic() + LIMIT_S
    with httpx.Client(base_url=address) as client:
        while True:
            try:
                if client.get("/readyz").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            assert time.monotonic() < limit, "the service did not become ready"
            time.sleep(0.02)
