"""Features: the schema as logged, examples from requests and sessions, and batches of padded arrays.

Imports neither torch nor a clock; request and session run through one builder.
"""

from trainer.features.build import (
    CatalogueLike,
    Labels,
    SessionExample,
    example_from_request,
    example_from_session,
    final_labels,
    item_category,
    stream_labels,
)
from trainer.features.collate import TABLES, Batch, Lookup, Lookups, batch_from_columns, collate
from trainer.features.schema import (
    AGE_BANDS,
    CLIENT_COLUMNS,
    CONTEXT_COLUMNS,
    FEATURE_SCHEMA,
    GENDERS,
    HISTORY_MAX,
    ITEM_COLUMNS,
    N_MAX,
    NUM_COLUMNS,
    QUERY_COLUMNS,
    context_f16,
    item_f16,
)

__all__ = [
    "AGE_BANDS",
    "CLIENT_COLUMNS",
    "CONTEXT_COLUMNS",
    "FEATURE_SCHEMA",
    "GENDERS",
    "HISTORY_MAX",
    "ITEM_COLUMNS",
    "NUM_COLUMNS",
    "N_MAX",
    "QUERY_COLUMNS",
    "TABLES",
    "Batch",
    "CatalogueLike",
    "Labels",
    "Lookup",
    "Lookups",
    "SessionExample",
    "batch_from_columns",
    "collate",
    "context_f16",
    "example_from_request",
    "example_from_session",
    "final_labels",
    "item_category",
    "item_f16",
    "stream_labels",
]
