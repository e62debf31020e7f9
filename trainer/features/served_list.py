"""Lists as served, in the form of the newest feature schema: from a session, and whether an example can be built.

Source: docs/training.md.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stream.errors import SchemaError
from stream.schemas.session import COLUMNS, Session
from trainer.features.item_table import CatalogueLike
from trainer.features.labels import Labels
from trainer.features.schema import (
    CLIENT_COLUMNS,
    CONTEXT_COLUMNS,
    ITEM_COLUMNS,
    QUERY_COLUMNS,
    TOKEN_BUCKETS,
    context_f16,
    item_f16,
    newest_columns,
    schema_of,
)

HAS_IMAGE: Final = ITEM_COLUMNS.index("has_image")
HAS_TEXT: Final = ITEM_COLUMNS.index("has_text")
CLIENT: Final = len(QUERY_COLUMNS)
TOKENS: Final = CLIENT + len(CLIENT_COLUMNS)
VECTOR: Final = len(CONTEXT_COLUMNS)
"""Start of the client's columns, of the query tokens and of the query vector in a context."""


@dataclass(slots=True, kw_only=True)
class ServedList:
    """One list as served, in the form of the newest feature schema; rows in the order of the source.

    Attributes:
        items: float16 (n, len(ITEM_COLUMNS)).
        context: float16: `CONTEXT_COLUMNS`, then the query vector.
        item_types: Empty if all are products.
        hist_action, hist_age_s: (h,) codes of actions, and seconds.
        position: Displayed positions as the page counts; empty for 1 to n, None if the list was not shown yet.
    """

    query_id: str
    session_id: str | None
    item_ids: Sequence[str]
    rank_in: NDArray[np.integer[Any]]
    items: NDArray[np.float16]
    item_types: Sequence[str]
    context: NDArray[np.float16]
    hist_item: Sequence[str]
    hist_category: Sequence[str]
    hist_action: NDArray[np.integer[Any]]
    hist_age_s: NDArray[np.integer[Any]]
    category: str | None
    labels: Labels
    position: NDArray[np.integer[Any]] | None = None
    latency_ms: float = 0.0
    served_by: str | None = None
    served_score: NDArray[np.float32] | None = None


def displayed_positions(session: Session) -> NDArray[np.int32]:
    """Return the position of each item on the page, from 1; a page that counts from 0 is moved by one.

    Shapes: (n,), rows in shown order.
    """
    logged = _read_position(session.position)
    return from_one(logged) if logged.size else np.arange(1, session.n + 1, dtype=np.int32)


def from_one(position: NDArray[np.integer[Any]]) -> NDArray[np.int32]:
    """Return positions that count from 1."""
    return position.astype(np.int32) + np.int32(position.min() == 0)


def _reader(name: str) -> Callable[[bytes], NDArray[Any]]:
    """Return the function that reads a column of a session; looking its dtype up takes longer than reading it."""
    dtype = np.dtype(COLUMNS[name].dtype)
    return lambda raw: np.frombuffer(raw, dtype)


_read_item_f16, _read_context_f16 = _reader("item_f16"), _reader("context_f16")
_read_rank_in, _read_position, _read_score = _reader("rank_in"), _reader("position"), _reader("score")
_read_action, _read_age_s = _reader("hist_action"), _reader("hist_age_s")


def from_session(session: Session, catalogue: CatalogueLike, labels: Labels) -> ServedList:
    """Return the list that a session shows.

    A list that was logged without features keeps its prices and nothing else of the items: looking features up now
    would read the future.

    Raises:
        SchemaError: If the features were logged under an unknown schema or have a wrong length.
    """
    n = session.n
    if session.feature_schema:
        items, context = _logged(session)
    else:
        items = item_f16([None] * n, session.column("price_minor"))
        items[:, HAS_IMAGE] = [catalogue.image(item_id) is not None for item_id in session.item_id]
        items[:, HAS_TEXT] = [catalogue.text(item_id) is not None for item_id in session.item_id]
        context = context_f16(event_ts=session.impression_ts)
    score = None if session.version is None else _read_score(session.score)
    has_score = score is not None and score.size == n
    return ServedList(
        query_id=session.query_id,
        session_id=session.session_id,
        item_ids=session.item_id,
        rank_in=_read_rank_in(session.rank_in),
        items=items,
        item_types=session.item_type,
        context=context,
        hist_item=session.hist_item,
        hist_category=session.hist_category,
        hist_action=_read_action(session.hist_action),
        hist_age_s=_read_age_s(session.hist_age_s),
        category=session.query_category,
        labels=labels,
        position=_read_position(session.position),
        latency_ms=session.latency_us / 1_000,
        served_by=session.lineage if has_score else None,
        served_score=score if has_score else None,
    )


def _logged(session: Session) -> tuple[NDArray[np.float16], NDArray[np.float16]]:
    """Return the items' rows and the context of a session, in the form of the newest schema.

    Raises:
        SchemaError: If the schema under which they were logged is unknown, or they have another length.
    """
    schema = schema_of(session.feature_schema.hex())
    items, context = _read_item_f16(session.item_f16), _read_context_f16(session.context_f16)
    num_items, num_context = session.n * len(schema.item), len(schema.context)
    num_more = context.size - num_context
    if items.size != num_items or num_more < 0 or (num_more > 0 and not schema.reads_query):
        raise SchemaError(
            "feature_shape",
            f"query {session.query_id}, feature schema {schema.number}: {items.size} item and {context.size} context"
            f" values, expected {num_items} and {num_context}",
        )
    items = items.reshape(session.n, len(schema.item))
    if schema.item != ITEM_COLUMNS:
        items = newest_columns(items, schema.item, ITEM_COLUMNS)
    if schema.context != CONTEXT_COLUMNS:
        head = newest_columns(context[None, :num_context], schema.context, CONTEXT_COLUMNS)
        context = np.concatenate([head[0], context[num_context:]])
    return items, context


def are_valid(lists: Sequence[ServedList]) -> bool:
    """Return whether all lists can be built."""
    if not lists:
        return True
    token = np.stack([each.context[TOKENS:VECTOR] for each in lists])
    return (
        all(len(each.item_ids) for each in lists)
        and bool(np.isfinite(joined([each.items for each in lists])).all())
        and bool(np.isfinite(joined([each.context for each in lists])).all())
        and bool((token >= 0).all() and (token < TOKEN_BUCKETS).all())
    )


def problem(served: ServedList) -> SchemaError | None:
    """Return the reason why a list cannot be built, or None."""
    if not len(served.item_ids):
        return SchemaError("empty_list", f"query {served.query_id}: no candidate")
    if not (np.isfinite(served.items).all() and np.isfinite(served.context).all()):
        return SchemaError("feature_not_finite", f"query {served.query_id}: a feature is NaN or infinite")
    token = served.context[TOKENS:VECTOR]
    if token.min() < 0 or token.max() >= TOKEN_BUCKETS:
        found = token.astype(int).tolist()
        return SchemaError(
            "feature_range", f"query {served.query_id}: tokens {found}, expected 0 to {TOKEN_BUCKETS - 1}"
        )
    return None


def joined(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Return the rows of all parts, one after the other."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
