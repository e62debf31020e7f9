"""Runs of the join over hand-made events, and the parts of their outcome that tests look at."""

from collections.abc import Sequence

from stream.join.settings import JoinSettings
from stream.schemas import session, topics
from stream.schemas.session import Progress
from tests.laws.join_log import SETTINGS, Event, Log, Outputs, Run, run, send

WINDOW_S = SETTINGS.click_window_s


def run_events(happened: Sequence[Event], settings: JoinSettings = SETTINGS) -> Run:
    """Run the join over events that arrive at once."""
    return run(Log.of((send(event) for event in happened), settings=settings), settings=settings)


def reasons(result: Run, topic: str = topics.UNJOINED) -> list[str]:
    """Return the reasons of the dead letters in a topic, sorted."""
    return sorted(reason for reason, _ in result.outputs.dead_letters(topic).elements())


def last_session(result: Run, query: str = "q1") -> session.Session:
    """Return the last revision of a session."""
    return [content for content in result.outputs.sessions() if content.query_id == query][-1]


def progress_reports(outputs: Outputs) -> list[Progress]:
    """Return the progress records in order."""
    return outputs.progress()
