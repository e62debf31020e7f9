"""Orders of clients: all of them, with and without a click."""

from collections.abc import Iterable, Iterator

from alembic import op
import msgspec
import sqlalchemy as sa


revision = '0005'
down_revision = '0004'
branch_labels = None
depends_on = None

_CHUNK = 1_000
_NO_CURRENCY = "XXX"
_Line = tuple[int, int, str, str, str, str, str]


def upgrade() -> None:
    op.create_table('unlinked_lines',
    sa.Column('client_id', sa.String(length=128), nullable=False),
    sa.Column('transaction_id', sa.String(length=128), nullable=False),
    sa.Column('line_id', sa.String(length=64), nullable=False),
    sa.Column('refund_id', sa.String(length=64), nullable=False),
    sa.Column('action', sa.String(length=16), nullable=False),
    sa.Column('event_ts', sa.BigInteger(), nullable=False),
    sa.Column('amount_minor', sa.BigInteger(), nullable=False),
    sa.Column('currency', sa.String(length=3), nullable=False),
    sa.PrimaryKeyConstraint('client_id', 'transaction_id', 'line_id', 'refund_id', name=op.f('pk_unlinked_lines'))
    )
    orders = op.create_table('client_orders',
    sa.Column('client_id', sa.String(length=128), nullable=False),
    sa.Column('transaction_id', sa.String(length=128), nullable=False),
    sa.Column('bought_ts', sa.BigInteger(), nullable=False),
    sa.Column('currency', sa.String(length=3), nullable=False),
    sa.Column('gross_minor', sa.BigInteger(), nullable=False),
    sa.Column('refund_minor', sa.BigInteger(), nullable=False),
    sa.Column('linked_lines', sa.Integer(), nullable=False),
    sa.Column('unlinked_lines', sa.Integer(), nullable=False),
    sa.Column('foreign_lines', sa.Integer(), nullable=False),
    sa.PrimaryKeyConstraint('client_id', 'transaction_id', name=op.f('pk_client_orders'))
    )
    op.create_index(op.f('ix_session_orders_transaction_id'), 'session_orders', ['transaction_id'], unique=False)
    connection = op.get_bind()
    rows = list(_orders(connection))
    for start in range(0, len(rows), _CHUNK):
        connection.execute(orders.insert(), rows[start : start + _CHUNK])
    # The sink reads the topic once more, since it passed over the lines without a session. Facts do not change by that.
    op.execute("DELETE FROM sink_offsets WHERE sink = 'facts'")


def downgrade() -> None:
    op.drop_index(op.f('ix_session_orders_transaction_id'), table_name='session_orders')
    op.drop_table('client_orders')
    op.drop_table('unlinked_lines')


def _orders(connection: sa.Connection) -> Iterator[dict[str, object]]:
    """Yield the orders of all facts, from the evidence as this revision of the schema keeps it."""
    facts = connection.execute(
        sa.text("SELECT client_id, currency, evidence FROM session_facts WHERE orders > 0 ORDER BY client_id, query_id")
    )
    client: str | None = None
    lines: list[_Line] = []
    for client_id, currency, evidence in facts:
        if client_id != client:
            yield from _of_client(client, lines)
            client, lines = client_id, []
        for transaction, line, refund, action, _item, _units, amount, named, at_ts in msgspec.msgpack.decode(evidence)[1]:
            known = currency if named == _NO_CURRENCY else named
            lines.append((at_ts, amount, transaction.replace("\0", "\ufffd"), line, refund, action, known))
    yield from _of_client(client, lines)


def _of_client(client: str | None, lines: Iterable[_Line]) -> Iterator[dict[str, object]]:
    kept: dict[tuple[str, str, str], tuple[int, int, str, str]] = {}
    for at_ts, amount, transaction, line, refund, action, currency in sorted(lines):
        kept.setdefault((transaction, line, refund), (at_ts, amount, action, currency))
    for transaction in sorted({key[0] for key in kept}):
        own = {key[1:]: value for key, value in kept.items() if key[0] == transaction}
        bought = {line: value for (line, _refund), value in own.items() if value[2] == "purchase"}
        if not bought:
            continue
        named = sorted(value for value in bought.values() if value[3] != _NO_CURRENCY)
        currency = named[0][3] if named else _NO_CURRENCY
        counted = {line: value[1] for line, value in bought.items() if value[3] in {currency, _NO_CURRENCY}}
        returned = dict.fromkeys(counted, 0)
        for (line, _refund), (_at_ts, amount, action, _currency) in own.items():
            if action != "purchase" and line in returned:
                returned[line] += amount
        yield {
            "client_id": client,
            "transaction_id": transaction,
            "bought_ts": min(value[0] for value in bought.values()),
            "currency": currency,
            "gross_minor": sum(counted.values()),
            "refund_minor": sum(min(returned[line], amount) for line, amount in counted.items()),
            "linked_lines": len(bought),
            "unlinked_lines": 0,
            "foreign_lines": len(bought) - len(counted),
        }
