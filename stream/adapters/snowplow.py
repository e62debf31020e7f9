"""Snowplow e-commerce actions (schema 1-0-2): enriched events as JSON of the analytics SDKs, as nested JSON, or as TSV.

Positions count from 1, times have no zone and are UTC. The schemas have no field for a query: a list name that holds
`query_id=ID` links, and so does any attached entity with that field (named by `Options.query_name`). Of the atomic
fields only who, when, `app_id` and `platform` are kept: the others hold addresses and page URLs.

Source: https://docs.snowplow.io/docs/events/ootb-data/ecommerce-events/ (the action, product, transaction and refund
schemas of Iglu Central), https://docs.snowplow.io/docs/pipeline/enriched-tsv-format and
https://docs.snowplow.io/docs/fundamentals/canonical-event.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import partial

from stream.adapters import build, source
from stream.adapters.build import ClickName, Common, ConversionName, Product
from stream.adapters.results import Options, OurEvent, Result, collect
from stream.adapters.source import Fields, as_fields, rest_of, unmapped
from stream.errors import SchemaError
from stream.schemas import identity

NAME = "snowplow"
_LIST = "list_view"
_CLICKS: Mapping[str, ClickName] = {"list_click": "click", "add_to_cart": "add_to_cart"}
_CONVERSIONS: Mapping[str, ConversionName] = {"transaction": "purchase", "refund": "refund"}

_ACTION, _PRODUCT, _TRANSACTION, _REFUND, _SESSION = (
    "snowplow_ecommerce_action",
    "product",
    "transaction",
    "refund",
    "client_session",
)
_VENDOR = "com.snowplowanalytics.snowplow"
_OURS = {f"{_VENDOR}.ecommerce": (_ACTION, _PRODUCT, _TRANSACTION, _REFUND), _VENDOR: (_SESSION,)}
_SCHEMA_NAMES = {f"iglu:{vendor}/{name}": name for vendor, names in _OURS.items() for name in names}
_FLAT_NAMES = {f"{vendor.replace('.', '_')}_{name}": name for vendor, names in _OURS.items() for name in names}
_FLAT = re.compile(r"(contexts|unstruct_event)_(.+)_\d+")

# Columns of the enriched TSV that are read, by their number from 0.
_COLUMNS = {
    "app_id": 0,
    "platform": 1,
    "collector_tstamp": 3,
    "event_id": 6,
    "user_id": 12,
    "domain_userid": 15,
    "contexts": 52,
    "unstruct_event": 58,
    "domain_sessionid": 123,
    "derived_tstamp": 124,
    "true_tstamp": 130,
}
_MIN_COLUMNS = 125
_LINK_ENDS = r"=([^&;,\s\"']+)"


def adapt(raw: bytes, options: Options) -> list[Result]:
    """Return the records of one enriched event."""
    return collect(_read_columns(raw), _split, partial(_build, options=options))


def _read_columns(raw: bytes) -> bytes:
    """Return a TSV row with the columns that are not read emptied: they hold addresses; other payloads as they are."""
    if b"\t" not in raw or raw.lstrip().startswith((b"{", b"[", b'"')):
        return raw
    read = frozenset(_COLUMNS.values())
    return b"\t".join(column if number in read else b"" for number, column in enumerate(raw.split(b"\t")))


def _split(raw: bytes) -> list[Fields]:
    if b"\t" in raw and not raw.lstrip().startswith(b"{"):
        return [_from_tsv(raw)]
    if raw.lstrip().startswith(b'"') and isinstance(content := source.parse(raw), str):
        return [_from_tsv(content.encode())]
    return source.events(raw)


def _from_tsv(raw: bytes) -> Fields:
    if len(raw) > source.MAX_SOURCE_BYTES:
        raise SchemaError("too_large", f"{len(raw)} bytes, at most {source.MAX_SOURCE_BYTES}")
    try:
        columns = raw.decode().rstrip("\r\n").split("\t")
    except UnicodeDecodeError as fault:
        raise SchemaError("not_utf8", f"byte {fault.start}") from fault
    if len(columns) < _MIN_COLUMNS:
        raise SchemaError("missing_field", f"{len(columns)} columns, at least {_MIN_COLUMNS}")
    event: dict[str, object] = {
        name: columns[number] or None for name, number in _COLUMNS.items() if number < len(columns)
    }
    for name in ("contexts", "unstruct_event"):
        text = event[name]
        if isinstance(text, str):
            event[name] = source.parse(text.encode())
    return Fields(event)


def _build(event: Fields, *, options: Options) -> Iterable[OurEvent]:
    found: dict[str, list[Fields]] = {}
    others: list[Fields] = []
    for name, entity in (*_nested(event), *_flat(event)):
        if name is None:
            others.append(entity)
        else:
            found.setdefault(name, []).append(entity)
    if _ACTION not in found:
        raise unmapped("an event without an e-commerce action", event.path)
    action = found[_ACTION][0]
    kind, list_name = action.required("type"), action.text("name")
    if kind != _LIST and kind not in _CLICKS and kind not in _CONVERSIONS:
        raise unmapped(kind, action.at("type"))
    rows = found.get(_PRODUCT, [])
    products = [_product(row, is_order=kind in _CONVERSIONS) for row in rows]
    currencies = [row.text("currency") for row in rows]
    currency = build.currency_of(next(filter(None, currencies), None))
    common = _common(event, found, [action, *rows, *found.get(_TRANSACTION, []), *found.get(_REFUND, [])])
    query_id = _link(list_name, others, options.query_name)
    common.attributes = _attributes(event, action, rows)
    if kind == _LIST:
        return [build.impression(common, products, options, query_id=query_id, text=list_name, currency=currency)]
    if kind in _CLICKS:
        return build.clicks(common, _CLICKS[kind], products, query_id)
    entity = _order(found, kind, event)
    currency = build.currency_of(entity.text("currency")) or currency
    value = entity.number("revenue") if entity.has("revenue") else entity.number("refund_amount")
    transaction_id = entity.required("transaction_id")
    common.attributes |= entity.rest()
    return [
        build.conversion(
            common,
            _CONVERSIONS[kind],
            products,
            options,
            transaction_id=transaction_id,
            currency=currency,
            value=value,
            query_id=query_id,
        )
    ]


def _order(found: Mapping[str, list[Fields]], kind: str, event: Fields) -> Fields:
    entities = found.get(kind) or found.get(_TRANSACTION)
    if not entities:
        raise event.missing(f"{kind} entity")
    return entities[0]


def _nested(event: Fields) -> Iterator[tuple[str | None, Fields]]:
    """Yield the entities of self-describing JSON, by our names; None for others."""
    for name in ("unstruct_event", "contexts"):
        if not event.has(name):
            continue
        inner = event.fields(name).get("data")
        for index, described in enumerate(inner if isinstance(inner, list) else [inner]):
            path = f"{event.at(name)}.data[{index}]" if isinstance(inner, list) else f"{event.at(name)}.data"
            entity = as_fields(described, path)
            schema = entity.required("schema").split("/jsonschema/", 1)[0]
            yield _SCHEMA_NAMES.get(schema), entity.fields("data")


def _flat(event: Fields) -> Iterator[tuple[str | None, Fields]]:
    """Yield the entities of the analytics SDKs' JSON, which has one key per schema and major version."""
    for name in event.content:
        matched = _FLAT.fullmatch(name)
        if not matched or not event.has(name):
            continue
        ours = _FLAT_NAMES.get(matched.group(2))
        if matched.group(1) == "unstruct_event":
            yield ours, event.fields(name)
        else:
            yield from ((ours, entity) for entity in event.rows(name))


def _product(row: Fields, *, is_order: bool) -> Product:
    row.skip("quantity")
    return Product(
        object_id=row.required("id"),
        path=row.path,
        price=row.number("price"),
        quantity=(row.count("quantity") if is_order else None) or 1,
        position=row.position("position", base=1),
    )


def _common(event: Fields, found: Mapping[str, list[Fields]], told: list[Fields]) -> Common:
    # Trackers and pages that are copied send different events under one id. Events differ by what they tell, and
    # copies of one event differ only in fields of the collector and the enrichment, among them the derived time.
    session = found[_SESSION][0] if _SESSION in found else Fields({})
    event_id = event.required("event_id")
    content = source.canonical([event_id, *(entity.content for entity in told)])
    return Common(
        source=NAME,
        event_ts=event.time("true_tstamp", "derived_tstamp", "collector_tstamp", naive_is_utc=True),
        client_id=event.text("domain_userid") or session.text("userId") or event.required("domain_userid"),
        content=content,
        own_id=f"{event_id}-{identity.digest(content).hex()[:16]}",
        session_id=event.text("domain_sessionid") or session.text("sessionId"),
        user_id=event.text("user_id"),
    )


def _link(list_name: str | None, others: Iterable[Fields], query_name: str) -> str | None:
    named = re.search(re.escape(query_name) + _LINK_ENDS, list_name or "")
    if named:
        return named.group(1)
    return next((found for entity in others if entity.has(query_name) and (found := entity.text(query_name))), None)


def _attributes(event: Fields, action: Fields, rows: list[Fields]) -> dict[str, object]:
    kept = {name: event.get(name) for name in ("app_id", "platform") if isinstance(event.get(name), str)}
    products = rest_of(rows)
    return kept | action.rest() | ({"products": products} if products else {})
