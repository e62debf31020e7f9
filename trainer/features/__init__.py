"""Features: the schema as logged, examples from requests and sessions, and batches of padded arrays.

Imports neither torch nor a clock; request and session run through one builder.
"""

from trainer.features.build import ExampleBuilder, example_from_request, example_from_session
from trainer.features.collate import TABLES, Batch, Lookup, Lookups, batch_from_columns, collate
from trainer.features.example import Examples, SessionExample
from trainer.features.item_table import CatalogueLike
from trainer.features.labels import Labels, final_labels, stream_labels
from trainer.features.query import query_tokens
from trainer.features.schema import (
    AGE_BANDS,
    CLIENT_COLUMNS,
    CONTEXT_COLUMNS,
    FEATURE_SCHEMA,
    GENDERS,
    HISTORY_MAX,
    ITEM_COLUMNS,
    MAX_TOKENS,
    N_MAX,
    NUM_COLUMNS,
    QUERY_COLUMNS,
    SCHEMAS,
    FeatureSchema,
    context_f16,
    item_f16,
    schema_of,
)
from trainer.features.served_list import request_list

__all__ = [
    "AGE_BANDS",
    "CLIENT_COLUMNS",
    "CONTEXT_COLUMNS",
    "FEATURE_SCHEMA",
    "GENDERS",
    "HISTORY_MAX",
    "ITEM_COLUMNS",
    "MAX_TOKENS",
    "NUM_COLUMNS",
    "N_MAX",
    "QUERY_COLUMNS",
    "SCHEMAS",
    "TABLES",
    "Batch",
    "CatalogueLike",
    "ExampleBuilder",
    "Examples",
    "FeatureSchema",
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
    "item_f16",
    "query_tokens",
    "request_list",
    "schema_of",
    "stream_labels",
]
