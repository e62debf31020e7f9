"""The tables of clients' behaviour, which the sink alone writes."""

from abtest.tables import client_orders, exposures, session_facts, session_orders, unlinked_lines

FACT_TABLES = (session_facts, session_orders, unlinked_lines, client_orders, exposures)
