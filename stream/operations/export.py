"""Export of whole topics: read to their ends, and written to a file for people and notebooks."""

from base64 import b64encode
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
import polars as pl

from stream.broker.reader import read_to_end
from stream.broker.settings import Broker
from stream.errors import ConfigError, SchemaError
from stream.replicas.annotations import Annotations
from stream.schemas import dead_letter, session, topics
from stream.schemas.events import PRODUCT
from stream.schemas.records import Record
from stream.schemas.session import COLUMNS, Session, SessionsRecord, UnlinkedLine

Row = dict[str, object]
UNLINKED_LINES = "unlinked_lines"


def export(broker: Broker, topic: str, out: Path, *, latest: bool = False) -> int:
    """Write the records of `topic` as JSON lines or Parquet, by the suffix of `out`, and return their number.

    Args:
        broker: Where the topic is.
        topic: `sessions`, `annotations`, `unjoined` or `dead_letters`; or `unlinked_lines`, which the topic `sessions`
            holds too.
        out: A file ending in `.jsonl` or `.parquet`.
        latest: Of sessions, keep the highest revision of each query only; of annotations, those that count.

    Raises:
        ConfigError: If the suffix is another one.
        BusError: If the topic does not exist or the broker is unreachable.
    """
    if out.suffix not in {".jsonl", ".parquet"}:
        raise ConfigError(f"--out {out}: expected a file that ends in .jsonl or .parquet")
    if topic == UNLINKED_LINES:
        return _write(map(_fields, unlinked_lines(read_to_end(broker, topics.SESSIONS))), out)
    if topic == topics.ANNOTATIONS:
        annotations = Annotations.load(broker)
        return _write(map(_fields, annotations.counting() if latest else annotations.by_id.values()), out)
    records = read_to_end(broker, topic)
    if topic != topics.SESSIONS:
        return _write((letter_row(record) for record in records), out)
    found = sessions(records)
    if latest:
        found = iter(newest(found).values())
    return _write((session_row(each) for each in found), out)


def sessions(records: Iterable[Record]) -> Iterator[Session]:
    """Yield the sessions among `records`; other records and what cannot be decoded are left out."""
    return (decoded for decoded in _decoded(records) if isinstance(decoded, Session))


def unlinked_lines(records: Iterable[Record]) -> list[UnlinkedLine]:
    """Return the order lines that joined no session, each identity once; of copies the last."""
    lines: dict[tuple[str, ...], UnlinkedLine] = {}
    joined: set[tuple[str, ...]] = set()
    for decoded in _decoded(records):
        if isinstance(decoded, UnlinkedLine):
            lines[decoded.identity] = decoded
        elif isinstance(decoded, Session):
            joined.update((decoded.client_id, x.transaction_id, x.line_id, x.refund_id) for x in decoded.lines)
    return [line for identity, line in lines.items() if identity not in joined]


def _decoded(records: Iterable[Record]) -> Iterator[SessionsRecord]:
    for record in records:
        try:
            yield session.decode(record.value or b"")
        except SchemaError:
            continue


def newest(found: Iterable[Session]) -> dict[str, Session]:
    """Return the highest revision of each query; of equal ones the last."""
    best: dict[str, Session] = {}
    for each in found:
        known = best.get(each.query_id)
        if known is None or each.revision >= known.revision:
            best[each.query_id] = each
    return best


def session_row(each: Session) -> Row:
    """Return a session with its binary columns as lists."""
    row: Row = {name: getattr(each, name) for name in each.__struct_fields__}
    row["label_key"], row["feature_schema"] = each.label_key.hex(), each.feature_schema.hex()
    row["src"] = list(each.src)
    row["item_type"] = each.item_type or [PRODUCT] * each.n
    row["assignment"] = [_fields(arm) for arm in each.assignment]
    row["events"] = [_fields(event) for event in each.events]
    row["lines"] = [_fields(line) for line in each.lines]
    for name in COLUMNS:
        row[name] = each.column(name).tolist()
    row["position"] = row["position"] or list(range(1, each.n + 1))
    row["parts"] = [_fields(part) for part in each.parts]
    if each.item_f16:
        row["item_f16"] = each.column("item_f16").reshape(each.n, -1).tolist()
    return row


def letter_row(record: Record) -> Row:
    """Return an unjoined record or dead letter with its reason and where it came from."""
    row: Row = {**dead_letter.header_row(record.headers)}
    row["key"] = record.key.decode(errors="replace") if record.key is not None else None
    value = record.value or b""
    try:
        row["value"], row["value_base64"] = value.decode(), None
    except UnicodeDecodeError:
        row["value"], row["value_base64"] = None, b64encode(value).decode()
    return row


def _fields(record: msgspec.Struct) -> Row:
    return {name: getattr(record, name) for name in record.__struct_fields__}


def _write(rows: Iterator[Row], out: Path) -> int:
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".parquet":
        table = pl.DataFrame(list(rows), infer_schema_length=None)
        table.write_parquet(out)
        return table.height
    num_rows = 0
    with out.open("wb") as handle:
        for row in rows:
            handle.write(msgspec.json.encode(row) + b"\n")
            num_rows += 1
    return num_rows
