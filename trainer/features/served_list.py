"""Lists as served, in the form of the newest feature schema: from requests and sessions, and whether they are sound.

Source: docs/training.md.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stream.errors import SchemaError
from stream.schemas.events import PRODUCT, History
from stream.schemas.session import ACTION_CODES, COLUMNS, Session
from trainer.features.item_table import CatalogueLike
from trainer.features.labels import Labels
from trainer.features.ragged import Ragged, joined
from trainer.features.schema import (
    CLIENT_COLUMNS,
    CONTEXT_COLUMNS,
    ITEM_COLUMNS,
    NEWEST,
    QUERY_COLUMNS,
    TOKEN_BUCKETS,
    TYPE_COLUMNS,
    context_f16,
    item_f16,
    newest_columns,
    schema_of,
)

HAS_IMAGE: Final = ITEM_COLUMNS.index("has_image")
HAS_TEXT: Final = ITEM_COLUMNS.index("has_text")
CLIENT: Final = len(QUERY_COLUMNS)
TOKENS: Final = CLIENT + len(CLIENT_COLUMNS)
"""Start of the client's columns and of the query tokens in a context."""

_NEWEST: Final = bytes.fromhex(NEWEST.sha256)
_BYTES_PER_ITEM: Final = 2 * len(ITEM_COLUMNS)
_BYTES_OF_CONTEXT: Final = 2 * len(CONTEXT_COLUMNS)
_DTYPES: Final = {name: np.dtype(column.dtype) for name, column in COLUMNS.items()}
_TYPES: Final = {PRODUCT: 0} | {name.removeprefix("type_"): 1 + code for code, name in enumerate(TYPE_COLUMNS)}


@dataclass(slots=True, kw_only=True)
class ServedLists:
    """B lists as served, one after the other, in the form of the newest feature schema.

    Rows of a list stand in the order of its source.

    Attributes:
        cand, hist: The lists' candidates and behaviours.
        rank_in, item_types: Incoming rank, and the type as 0 for a product, else as the place in `TYPE_COLUMNS` from 1.
        items: float16 (rows, len(ITEM_COLUMNS)).
        context: float16 (B, len(CONTEXT_COLUMNS)).
        query_vector: float16 vector of each list, empty for none.
        hist_action, hist_age_s: Codes of actions, and seconds.
        hist_pages: Items of the clicked pages of each list's client, newest first.
        position: Displayed positions from 1; 0 if the list was not shown yet.
    """

    query_id: list[str]
    session_id: list[str | None]
    cand: Ragged
    item_ids: list[str]
    rank_in: NDArray[np.int64]
    item_types: NDArray[np.int64]
    items: NDArray[np.float16]
    context: NDArray[np.float16]
    query_vector: list[NDArray[np.float16]]
    hist: Ragged
    hist_item: list[str]
    hist_category: list[str]
    hist_action: NDArray[np.int64]
    hist_age_s: NDArray[np.integer[Any]]
    hist_pages: list[list[list[str]]]
    category: list[str | None]
    click: NDArray[np.float32]
    conv: NDArray[np.float32]
    money: NDArray[np.float64]
    click_weight: list[float]
    position: NDArray[np.int32]
    latency_ms: list[float]
    served_by: list[str | None]
    served_score: list[NDArray[np.float32] | None]

    def is_valid(self) -> bool:
        """Return whether all lists can be built."""
        token = self.context[:, TOKENS:]
        return (
            all(map(int.__gt__, self.cand.cuts[1:], self.cand.cuts))
            and bool(np.isfinite(self.items).all() and np.isfinite(self.context).all())
            and bool((token >= 0).all() and (token < TOKEN_BUCKETS).all())
            and bool(not self.query_vector or np.isfinite(joined(self.query_vector)).all())
        )

    def problem(self, number: int) -> SchemaError | None:
        """Return the reason why a list cannot be built, or None."""
        about = f"query {self.query_id[number]}"
        rows = slice(self.cand.cuts[number], self.cand.cuts[number + 1])
        if rows.start == rows.stop:
            return SchemaError("empty_list", f"{about}: no candidate")
        context, vector = self.context[number], self.query_vector[number]
        if not (np.isfinite(self.items[rows]).all() and np.isfinite(context).all() and np.isfinite(vector).all()):
            return SchemaError("feature_not_finite", f"{about}: a feature is NaN or infinite")
        token = context[TOKENS:]
        if token.min() < 0 or token.max() >= TOKEN_BUCKETS:
            found = token.astype(int).tolist()
            return SchemaError("feature_range", f"{about}: tokens {found}, expected 0 to {TOKEN_BUCKETS - 1}")
        return None


def displayed_positions(session: Session) -> NDArray[np.int32]:
    """Return the position of each item on the page, from 1; a page that counts from 0 is moved by one.

    Shapes: (n,), rows in shown order.
    """
    logged = session.column("position")
    return from_one(logged) if logged.size else np.arange(1, session.n + 1, dtype=np.int32)


def from_one(position: NDArray[np.integer[Any]]) -> NDArray[np.int32]:
    """Return positions that count from 1."""
    return position.astype(np.int32) + np.int32(position.min() == 0)


def request_list(
    *,
    query_id: str,
    session_id: str | None = None,
    item_ids: Sequence[str],
    items: NDArray[np.float16],
    context: NDArray[np.float16],
    history: History | None,
    category: str | None,
    rank_in: Sequence[int] | None = None,
    item_types: Sequence[str] = (),
) -> ServedLists:
    """Return the one list of a request, from the very values that its impression will log.

    `items` is `item_f16` of the candidates in incoming order, `context` is `context_f16`; without `rank_in` the
    incoming order gives the ranks, without `item_types` all are products.
    """
    n = len(item_ids)
    past = history or History(object_id=[], action=[], age_s=[], category=[])
    num_context = len(CONTEXT_COLUMNS)
    return ServedLists(
        query_id=[query_id],
        session_id=[session_id],
        cand=Ragged.of_sizes([n]),
        item_ids=list(item_ids),
        rank_in=np.arange(1, n + 1) if rank_in is None else np.asarray(rank_in, dtype=np.int64),
        item_types=_type_codes(item_types) if len(item_types) else np.zeros(n, np.int64),
        items=items,
        context=context[None, :num_context],
        query_vector=[context[num_context:]],
        hist=Ragged.of_sizes([len(past.object_id)]),
        hist_item=past.object_id,
        hist_category=past.category,
        hist_action=np.array([ACTION_CODES.get(name, 0) for name in past.action], np.int64),
        hist_age_s=np.array(past.age_s, np.int64),
        hist_pages=[past.pages],
        category=[category],
        click=np.zeros(n, np.float32),
        conv=np.zeros(n, np.float32),
        money=np.zeros(n),
        click_weight=[1.0],
        position=np.zeros(n, np.int32),
        latency_ms=[0.0],
        served_by=[None],
        served_score=[None],
    )


def from_sessions(
    sessions: Sequence[Session], labels: Sequence[Labels], catalogue: CatalogueLike
) -> tuple[ServedLists, dict[int, SchemaError]]:
    """Return the lists that sessions show, and by number of the session the reasons why others cannot be built.

    A list that was logged without features keeps its prices and nothing else of the items: looking features up now
    would read the future.
    """
    refused: dict[int, SchemaError] = {}
    logged: dict[int, tuple[bytes, bytes]] = {}
    for number, session in enumerate(sessions):
        try:
            logged[number] = _logged(session, catalogue)
        except SchemaError as error:
            refused[number] = error
    lists = _columns(sessions, labels, logged)
    if not lists.is_valid():
        problems = {number: lists.problem(place) for place, number in enumerate(logged)}
        refused |= {number: error for number, error in problems.items() if error}
        lists = _columns(sessions, labels, {number: own for number, own in logged.items() if not problems[number]})
    return lists, refused


def _columns(
    every: Sequence[Session], every_label: Sequence[Labels], logged: dict[int, tuple[bytes, bytes]]
) -> ServedLists:
    """Return the lists of the sessions whose features are given by their number."""
    sessions, labels = [every[number] for number in logged], [every_label[number] for number in logged]
    cand = Ragged.of_sizes([session.n for session in sessions])
    scores = [_score(session) for session in sessions]
    contexts = [context for _, context in logged.values()]
    clicked, in_cart, ordered, gross = (
        _read(name, *[getattr(session, name) for session in sessions])
        for name in ("clicks", "carts", "orders", "gross_minor")
    )
    conv = _conv(labels, cand)
    return ServedLists(
        query_id=[session.query_id for session in sessions],
        session_id=[session.session_id for session in sessions],
        cand=cand,
        item_ids=list(chain.from_iterable([session.item_id for session in sessions])),
        rank_in=_read("rank_in", *[session.rank_in for session in sessions]).astype(np.int64),
        item_types=_types_of(sessions, len(cand.of)),
        items=_read("item_f16", *[items for items, _ in logged.values()]).reshape(-1, len(ITEM_COLUMNS)),
        context=_read("context_f16", *[raw[:_BYTES_OF_CONTEXT] for raw in contexts]).reshape(-1, len(CONTEXT_COLUMNS)),
        query_vector=[_read("context_f16", raw[_BYTES_OF_CONTEXT:]) for raw in contexts],
        hist=Ragged.of_sizes([len(session.hist_item) for session in sessions]),
        hist_item=list(chain.from_iterable([session.hist_item for session in sessions])),
        hist_category=list(chain.from_iterable([session.hist_category for session in sessions])),
        hist_action=_read("hist_action", *[session.hist_action for session in sessions]).astype(np.int64),
        hist_age_s=_read("hist_age_s", *[session.hist_age_s for session in sessions]),
        hist_pages=[session.hist_pages for session in sessions],
        category=[session.query_category for session in sessions],
        click=((clicked | in_cart | ordered) > 0).astype(np.float32),
        conv=conv.astype(np.float32),
        money=np.where(conv, gross, 0).astype(np.float64),
        click_weight=[own.click_weight for own in labels],
        position=_positions(sessions, cand),
        latency_ms=[session.latency_us / 1_000 for session in sessions],
        served_by=[None if own is None else session.lineage for own, session in zip(scores, sessions, strict=True)],
        served_score=scores,
    )


def _conv(labels: Sequence[Labels], cand: Ragged) -> NDArray[np.bool_]:
    conv = np.zeros(len(cand.of), np.bool_)
    for number, own in enumerate(labels):
        if own.conv.size:
            conv[cand.cuts[number] : cand.cuts[number + 1]] = own.conv
    return conv


def _read(name: str, *parts: bytes) -> NDArray[Any]:
    """Return a column of one or more sessions, one after the other."""
    return np.frombuffer(b"".join(parts), _DTYPES[name])


def _logged(session: Session, catalogue: CatalogueLike) -> tuple[bytes, bytes]:
    """Return the bytes of the items' rows and of the context of a session, in the form of the newest schema.

    Raises:
        SchemaError: If the schema under which they were logged is unknown, or they have another length.
    """
    if session.feature_schema == _NEWEST:
        # The form of nearly every session needs no conversion.
        is_whole = len(session.item_f16) == session.n * _BYTES_PER_ITEM
        if is_whole and len(session.context_f16) >= _BYTES_OF_CONTEXT:
            return session.item_f16, session.context_f16
    elif not session.feature_schema:
        items = item_f16([None] * session.n, session.column("price_minor"))
        items[:, HAS_IMAGE] = [catalogue.image(item_id) is not None for item_id in session.item_id]
        items[:, HAS_TEXT] = [catalogue.text(item_id) is not None for item_id in session.item_id]
        return items.tobytes(), context_f16(event_ts=session.impression_ts).tobytes()
    return _converted(session)


def _converted(session: Session) -> tuple[bytes, bytes]:
    schema = schema_of(session.feature_schema.hex())
    items, context = session.column("item_f16"), session.column("context_f16")
    num_items, num_context = session.n * len(schema.item), len(schema.context)
    num_more = context.size - num_context
    if items.size != num_items or num_more < 0 or (num_more > 0 and not schema.reads_query):
        raise SchemaError(
            "feature_shape",
            f"query {session.query_id}, feature schema {schema.number}: {items.size} item and {context.size} context"
            f" values, expected {num_items} and {num_context}",
        )
    items = newest_columns(items.reshape(session.n, len(schema.item)), schema.item, ITEM_COLUMNS)
    head = newest_columns(context[None, :num_context], schema.context, CONTEXT_COLUMNS)
    return items.tobytes(), head.tobytes() + context[num_context:].tobytes()


def _score(session: Session) -> NDArray[np.float32] | None:
    """Return the scores by which a version ranked the list; None if no version did."""
    return (
        _read("score", session.score) if session.version is not None and len(session.score) == 4 * session.n else None
    )


def _types_of(sessions: Sequence[Session], num_rows: int) -> NDArray[np.int64]:
    if not any(session.item_type for session in sessions):
        return np.zeros(num_rows, np.int64)
    return _type_codes(chain.from_iterable([session.item_type or [PRODUCT] * session.n for session in sessions]))


def _type_codes(names: Iterable[str]) -> NDArray[np.int64]:
    other = _TYPES["other"]
    return np.array([_TYPES.get(name, other) for name in names], np.int64)


def _positions(sessions: Sequence[Session], cand: Ragged) -> NDArray[np.int32]:
    position = (cand.place + 1).astype(np.int32)
    for number, session in enumerate(sessions):
        if session.position:
            position[cand.cuts[number] : cand.cuts[number + 1]] = displayed_positions(session)
    return position
