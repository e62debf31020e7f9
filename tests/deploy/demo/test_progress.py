"""The lines of progress, from the metrics of processes."""

from prometheus_client import start_http_server

from deploy.demo.processes import Ports
from deploy.demo.progress import PROGRESS_S, ProgressLines
from stream.agents.metrics import JoinMetrics
from stream.schemas.session import CLOSE


def test_a_corrected_session_counts_once() -> None:
    metrics = JoinMetrics()
    metrics.sessions.labels(CLOSE).inc(7)
    metrics.sessions.labels("conversion").inc(2)
    server, thread = start_http_server(0, addr="127.0.0.1", registry=metrics.registry)
    said: list[str] = []
    try:
        port = server.server_port
        ProgressLines(lambda: PROGRESS_S, said.append, 0.0).take(
            Ports(joiner=port, sink=port, watcher=port, serving=port, controller=port, trainers={})
        )
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    (line,) = said
    assert "sessions 7," in line
