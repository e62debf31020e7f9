"""S14: writers and readers of schema N and N+1 side by side, both rollout orders, and the way back.

Schema N+1 follows the compatibility rule: each struct has one more optional field, at the end where the order counts.
The tests derive it from the structs of N, so that they cover every later N.
"""

import json
from collections.abc import Callable, Mapping
from functools import cache, reduce
from operator import or_
from types import UnionType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec
import numpy as np
import pytest
from msgspec import Struct
from msgspec.structs import asdict
from sqlalchemy import Engine, create_engine, select

from abtest.fact_writer import FactWriter
from stream import db
from stream.errors import SchemaError
from stream.join import rows
from stream.join.labels import ClickLabel, Labels, OrderLineLabel
from stream.join.rows import ImpressionRow, ItemClick, OrderRow, ProgressRow, SessionRow
from stream.replicas import profiles
from stream.replicas.profiles import Profiles
from stream.schemas import decode, events, session, topics
from stream.schemas.events import Click, Conversion, Impression, Tick
from stream.schemas.session import Progress, Session, UnlinkedLine
from tests.harness.fact_tables import FACT_TABLES
from tests.harness.sessions import unlinked
from tests.laws.join_log import (
    CLIENTS,
    PARTITION,
    START_TS,
    Event,
    Log,
    Outputs,
    Run,
    Stored,
    Tables,
    applied,
    click,
    impression,
    micro_batches,
    purchase,
    run,
)
from tests.stream.faults.fault_log import DAY, DAY_MS, Arrival, log_of, num_units, on_time, shopping

END_TS = START_TS + DAY_MS
ADDED = "added in N+1"
N, NEXT = "N", "N+1"


@cache
def next_of(kind: type[Struct]) -> type[Struct]:
    """Return the struct of N+1: one more optional field, and the same for the structs inside of it."""
    hints = get_type_hints(kind, include_extras=True)
    inner = {name: _next_hint(hints[name]) for name in kind.__struct_fields__}
    defaults = dict(zip(reversed(kind.__struct_fields__), reversed(kind.__struct_defaults__), strict=False))
    fields: list[Any] = []
    for name in kind.__struct_fields__:
        default = defaults.get(name, msgspec.NODEFAULT)
        if default is msgspec.NODEFAULT:
            fields.append((name, inner[name]))
        elif hasattr(default, "factory"):
            fields.append((name, inner[name], msgspec.field(default_factory=default.factory)))
        else:
            fields.append((name, inner[name], default))
    config = kind.__struct_config__
    return msgspec.defstruct(
        f"{kind.__name__}Next",
        [*fields, ("added", str | None, None)],
        tag_field=config.tag_field,
        tag=config.tag,
        array_like=config.array_like,
        omit_defaults=config.omit_defaults,
        kw_only=not config.array_like,
    )


def _next_hint(hint: Any) -> Any:
    """Return a type hint with every struct in it replaced by that of N+1."""
    if isinstance(hint, type) and issubclass(hint, Struct):
        return next_of(hint)
    if isinstance(hint, UnionType):
        return reduce(or_, map(_next_hint, hint.__args__))
    container: Any = get_origin(hint)
    if container is Annotated:
        inner, *limits = get_args(hint)
        return container[(_next_hint(inner), *limits)]
    if container in {list, dict}:
        return container[tuple(map(_next_hint, get_args(hint)))]
    return hint


def grown(content: Any) -> Any:
    """Return content as a writer of N+1 makes it: the same, and the added fields filled."""
    if isinstance(content, Struct):
        kind = next_of(type(content))
        kept = {name: grown(getattr(content, name)) for name in content.__struct_fields__}
        return kind(**kept, added=ADDED)
    if isinstance(content, list):
        return [grown(each) for each in content]
    if isinstance(content, dict):
        return {key: grown(each) for key, each in content.items()}
    return content


def reduced(content: Any) -> Any:
    """Return content without the fields of N+1, as plain objects."""
    if isinstance(content, Struct):
        return {name: reduced(getattr(content, name)) for name in content.__struct_fields__ if name != "added"}
    if isinstance(content, list | tuple):
        return [reduced(each) for each in content]
    if isinstance(content, dict):
        return {key: reduced(each) for key, each in content.items()}
    return content


# Events


_DECODERS: Mapping[type[Event], Callable[[bytes], Event]] = {
    Impression: decode.impression,
    Click: decode.click,
    Conversion: decode.conversion,
}
_KIND_OF_TOPIC: Mapping[str, type[Event]] = {
    topics.IMPRESSIONS: Impression,
    topics.CLICKS: Click,
    topics.CONVERSIONS: Conversion,
}


def _written_by_next(arrival: Arrival) -> Arrival:
    assert arrival.value is not None
    event = _DECODERS[_KIND_OF_TOPIC[arrival.topic]](arrival.value)
    value = msgspec.json.encode(grown(event))
    assert value.count(ADDED.encode()) >= 1
    return Arrival(arrival.topic, arrival.key, value, arrival.arrival_ts)


@pytest.mark.parametrize("kind", [Impression, Click, Conversion])
def test_s14_events_of_either_schema_are_read_by_either(kind: type[Event]) -> None:
    """S14: all four pairs of writer and reader, for each event."""
    samples: dict[type[Event], Event] = {
        Impression: impression(1),
        Click: click(1, 1, "item-1"),
        Conversion: purchase(1, 1, ["item-1", "item-2"]),
    }
    event = samples[kind]
    old, new = events.encode(event), msgspec.json.encode(grown(event))
    read_by_next = msgspec.json.Decoder(next_of(kind)).decode
    assert asdict(_DECODERS[kind](old)) == asdict(_DECODERS[kind](new)) == asdict(event)
    assert reduced(read_by_next(old)) == reduced(read_by_next(new)) == reduced(event)
    assert (read_by_next(old).added, read_by_next(new).added) == (None, ADDED)  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.parametrize(
    "phases",
    [
        pytest.param([0.0, 1.0], id="producers at once"),
        pytest.param([0.0, 0.5, 1.0], id="producers one by one"),
        pytest.param([0.0, 0.5, 1.0, 0.5, 0.0], id="producers there and back"),
    ],
)
def test_s14_a_join_of_n_reads_producers_of_both(phases: list[float]) -> None:
    """S14: a growing, or growing and shrinking, share of N+1 events: no dead letter, the sessions of N alone."""
    happened = shopping(400, seed=14)
    plain = sorted(on_time(happened, seed=14), key=lambda each: each.arrival_ts)
    random = np.random.default_rng(14)
    mixed = [
        _written_by_next(each) if random.random() < phases[len(phases) * number // len(plain)] else each
        for number, each in enumerate(plain)
    ]
    assert mixed != plain
    clean = run(log_of(plain, end_ts=END_TS), settings=DAY, max_batch=64)
    result = run(log_of(mixed, end_ts=END_TS), settings=DAY, max_batch=64)
    assert result.outcomes == clean.outcomes
    assert result.outcomes["joined"] == num_units(happened)
    assert result.outputs.final() == clean.outputs.final()


def test_s14_ticks_of_the_next_schema_move_the_clock() -> None:
    """S14: a driver or worker of N+1 writes the ticks."""
    tick = Tick(partition=PARTITION, seq=1, worker="next", hw={}, now_ts=START_TS)
    join = Tables().join(DAY)
    record = Stored(topic=topics.TICKS, offset=0, timestamp=0, key=b"1", value=msgspec.json.encode(grown(tick)))
    assert join.apply([record]).dead_letters == []
    assert join.now_ts == START_TS


@pytest.mark.parametrize("topic", topics.INPUTS)
@pytest.mark.parametrize("version", [2, 17])
def test_s14_an_unknown_major_version_is_a_dead_letter(topic: str, version: int) -> None:
    """S14: also where the new version has other fields; the bytes are kept for a redrive after the upgrade."""
    key = CLIENTS[0].encode()
    bodies = [
        events.encode(purchase(1, 1, ["item-1"])).replace(b'"schema_version":1', b'"schema_version":%d' % version),
        b'{"schema_version": %d, "client_id": "%s", "wholly": ["other", 1]}' % (version, key),
    ]
    join = Tables().join(DAY)
    dead_letters = join.apply(
        [Stored(topic=topic, offset=at, timestamp=0, key=key, value=body) for at, body in enumerate(bodies)]
    ).dead_letters
    assert [value for _, value, _ in dead_letters] == bodies
    assert {dict(headers)["reason"] for _, _, headers in dead_letters} == {b"schema_unknown"}


# Sessions


def _sessions_of(seed: int, num_queries: int = 120) -> list[session.SessionsRecord]:
    result = run(log_of(on_time(shopping(num_queries, seed=seed), seed=seed), end_ts=END_TS), settings=DAY)
    return [session.decode(record.value or b"") for record in result.outputs.records if record.topic == topics.SESSIONS]


def test_s14_session_and_progress_records_of_either_schema_are_read_by_either() -> None:
    """S14: readers before writers and writers before readers, for whole session logs."""
    contents = [*_sessions_of(1), unlinked("c", "t")]
    assert {type(content) for content in contents} == {Session, Progress, UnlinkedLine}
    read_by_next = msgspec.msgpack.Decoder(next_of(Session) | next_of(Progress) | next_of(UnlinkedLine)).decode
    for content in contents:
        old, new = session.encode(content), msgspec.msgpack.encode(grown(content))
        assert session.decode(old) == session.decode(new) == content
        assert reduced(read_by_next(old)) == reduced(read_by_next(new)) == reduced(content)


def _facts(log: list[Stored]) -> tuple[list[list[Any]], int]:
    engine: Engine = create_engine("sqlite://")
    db.metadata.create_all(engine)
    writer = FactWriter(engine)
    writer.open({(topics.SESSIONS, PARTITION): 0})
    applied = writer.apply(log)
    with engine.connect() as connection:
        found = [list(connection.execute(select(each).order_by(*each.primary_key))) for each in FACT_TABLES]
    engine.dispose()
    return found, applied.num_refused


def test_s14_facts_of_a_mixed_session_log_are_those_of_n() -> None:
    """S14: a sink of N under joins of N and N+1 by turns; records of a later major, or of a new kind, are counted."""
    contents = _sessions_of(2)
    values = [session.encode(content) for content in contents]
    mixed = [
        msgspec.msgpack.encode(grown(content)) if number % 3 else session.encode(content)
        for number, content in enumerate(contents)
    ]
    unknown = [
        msgspec.msgpack.encode({"kind": "session", "schema_version": 2}),
        session.encode(msgspec.structs.replace(contents[-1], schema_version=2)),
        msgspec.msgpack.encode({"kind": "forecast", "schema_version": 1}),
    ]
    clean, num_refused = _facts(_stored(values))
    assert num_refused == 0
    assert _facts(_stored(mixed)) == (clean, 0)
    assert _facts(_stored([*mixed, *unknown])) == (clean, len(unknown))
    with pytest.raises(SchemaError) as fault:
        session.decode(unknown[1])
    assert fault.value.reason == "schema_unknown"


def _stored(values: list[bytes]) -> list[Stored]:
    return [
        Stored(topic=topics.SESSIONS, offset=at, timestamp=0, key=b"", value=value) for at, value in enumerate(values)
    ]


def test_s14_profiles_of_either_schema_are_read_by_either() -> None:
    """S14: `profiles`, which serving reads and the join reads back from its own rows."""
    behaviour = events.Behaviour(event_id="e", item_id="i", action="click", event_ts=START_TS, price_minor=5)
    profile = events.Profile(client_id="c", behaviours=[behaviour], updated_ts=START_TS)
    old, new = events.encode(profile), msgspec.json.encode(grown(profile))
    assert profiles.decode(old) == profiles.decode(new) == profile
    assert reduced(msgspec.json.Decoder(next_of(events.Profile)).decode(old)) == reduced(profile)
    replica = Profiles()
    beyond = old.replace(b'"schema_version":1', b'"schema_version":2')
    replica.apply(
        [Stored(topic=topics.PROFILES, offset=at, timestamp=0, key=b"c", value=v) for at, v in enumerate((new, beyond))]
    )
    assert replica.num_rejected == 1


# State


_ROWS: Mapping[bytes, type[Struct]] = {b"i": ImpressionRow, b"l": Labels, b"s": SessionRow, b"o": OrderRow}


def _grown_row(key: bytes, value: bytes) -> bytes:
    """Return a row as N+1 would have written it."""
    kind = key[:1]
    if kind in {b"w", b"c", b"e"}:
        return value  # raw events and digests: no struct
    if kind == b"p":
        profile = msgspec.json.decode(rows.unpack_bytes(value), type=events.Profile)
        return rows.pack_bytes(rows.expiry_of(value), msgspec.json.encode(grown(profile)))
    head = value[: rows.EXPIRY_BYTES] if kind in {b"s", b"t", b"o"} else b""
    if kind == b"t":
        content: Any = msgspec.msgpack.decode(value[len(head) :], type=list[ItemClick])
    else:
        content = msgspec.msgpack.decode(value[len(head) :], type=_ROWS[kind])
    return head + msgspec.msgpack.encode(grown(content))


def upgraded(tables: Tables) -> Tables:
    """Return the rows as a worker of N+1 would have left them."""
    return Tables(
        {key: _grown_row(key, value) for key, value in tables.hot.items()},
        {key: _grown_row(key, value) for key, value in tables.warm.items()},
        {
            key: msgspec.msgpack.encode(grown(msgspec.msgpack.decode(value, type=ProgressRow)))
            for key, value in tables.progress.items()
        },
    )


def _run_over(log: Log, switches: Mapping[int, str]) -> Run:
    """Run a log; at the given micro-batches another worker takes over, from rows of N or of N+1."""
    tables, outputs = Tables(), Outputs()
    join = tables.join(DAY)
    kinds: set[bytes] = set()
    for number, piece in enumerate(micro_batches(log, np.random.default_rng(4), max_batch=24)):
        if number in switches:
            kinds |= {key[:1] for key in (*tables.hot, *tables.warm)}
            tables = upgraded(tables) if switches[number] == NEXT else tables.copy()
            join = tables.join(DAY)
        outputs.take(applied(join, piece))
    if NEXT in switches.values():
        assert kinds >= {b"i", b"l", b"s", b"t", b"o", b"p", b"c"}, f"rows of {kinds} only"
    return Run(join, tables, outputs)


@pytest.mark.slow
@pytest.mark.parametrize(
    "switches",
    [
        pytest.param(dict.fromkeys(range(20, 200, 45), NEXT), id="N goes on from rows of N+1"),
        pytest.param({20: NEXT, 60: N, 90: NEXT, 130: N}, id="there and back, twice"),
        pytest.param(dict.fromkeys(range(5, 150), NEXT), id="a rollback after each micro-batch"),
    ],
)
def test_s14_state_of_the_next_schema_is_readable_by_this_one(switches: Mapping[int, str]) -> None:
    """S14: after a rollback a worker of N recovers the rows that N+1 has written, and loses nothing."""
    happened = shopping(400, seed=15)
    log = log_of(on_time(happened, seed=15), end_ts=END_TS)
    calm = _run_over(log, {10: N})
    result = _run_over(log, switches)
    assert result.outputs.dead_letters(topics.DEAD_LETTERS).total() == 0
    assert result.outcomes == calm.outcomes
    assert result.outcomes["joined"] == result.outcomes["produced"] == num_units(happened)
    assert result.outputs.final() == calm.outputs.final()
    assert result.outputs.profiles() == calm.outputs.profiles()


def test_s14_state_of_this_schema_is_readable_by_the_next() -> None:
    """S14: a worker of N+1 recovers the rows of N, whose added fields are then absent."""
    log = log_of(on_time(shopping(400, seed=16), seed=16), end_ts=END_TS)
    tables = Tables()
    join = tables.join(DAY)
    num_read: dict[bytes, int] = {}
    for number, piece in enumerate(micro_batches(log, np.random.default_rng(4), max_batch=24)):
        applied(join, piece)
        if number not in {30, 80}:
            continue
        for key, value in [*tables.hot.items(), *tables.warm.items()]:
            kind = key[:1]
            if kind == b"t":
                content: Any = msgspec.msgpack.decode(value[rows.EXPIRY_BYTES :], type=list[next_of(ItemClick)])  # type: ignore[misc]
                assert content[0].added is None
            elif kind in _ROWS:
                body = value[rows.EXPIRY_BYTES :] if kind in {b"s", b"o"} else value
                content = msgspec.msgpack.decode(body, type=next_of(_ROWS[kind]))
                assert content.added is None
                assert reduced(content) == reduced(msgspec.msgpack.decode(body, type=_ROWS[kind]))
            else:
                continue
            num_read[kind] = num_read.get(kind, 0) + 1
        for value in tables.progress.values():
            progress: Any = msgspec.msgpack.decode(value, type=next_of(ProgressRow))
            assert progress.added is None
            assert progress.batch_number == number + 1
    assert set(num_read) == {b"i", b"l", b"s", b"t", b"o"}


def test_s14_each_label_keeps_its_place_in_longer_rows() -> None:
    """S14: entries inside of rows grow too, and are told apart by position alone."""
    click = ClickLabel("e", "click", 1, START_TS, START_TS, 7, "query_id")
    line = OrderLineLabel("e", "t", "1", "", "purchase", 1, 1, 500, "EUR", START_TS, START_TS, 8, "query_id")
    both = Labels({"e": click}, {line.identity: line})
    assert rows.unpack_labels(msgspec.msgpack.encode(grown(both))) == both
    assert json.loads(msgspec.json.encode(grown(click)))[-1] == ADDED
