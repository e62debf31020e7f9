"""A service on a real socket, in a thread of the test process."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx

from serving.http.listening import listen
from serving.http.server import server_of
from serving.ranking.service import Service

LIMIT_S = 60.0


@contextmanager
def live(service: Service) -> Iterator[str]:
    """Run the service and yield its address once it is ready."""
    listening = listen("127.0.0.1", 0)
    server = server_of(service)
    thread = threading.Thread(target=lambda: server.run(sockets=[listening]))
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


def wait_ready(address: str, limit_s: float = LIMIT_S) -> None:
    """Return as soon as `/readyz` answers 200; fail after `limit_s`."""

    def is_ready() -> bool:
        try:
            return client.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    with httpx.Client(base_url=address) as client:
        wait_until(is_ready, limit_s)


def wait_until(condition: Callable[[], bool], limit_s: float = LIMIT_S) -> None:
    """Return as soon as the condition is met; fail after `limit_s`."""
    limit = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < limit, "the condition was not met in time"
        time.sleep(0.02)
