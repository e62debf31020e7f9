"""The example of one list: its arrays before they are padded to a batch.

Source: docs/training.md.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionExample:
    """One list ready for `collate`; rows in order of `rank_in`, history newest first and filtered.

    Attributes:
        index: Row of each candidate in the source list.
        entity: Keys of (item, shop, brand, category) per candidate; "" = none.
        hist_type: Action code + 1.
        token: Numbers of the query's tokens, 0 = none.
        query_vector: The shop's vector of the query; empty if it sends none.
        path: Nodes of the query's category, root first: the deepest `PATH_MAX`.
        position: Displayed position of each candidate, from 1; 0 = unknown, as in a request. For losses and evaluation.
        latency_ms: Time that ranking took; 0 = unknown. For losses and evaluation.
        served_by: Lineage whose version ranked the list when it was shown; None if no version did.
        served_score: The scores by which it was ranked. For evaluation: no batch holds them.
    """

    query_id: str
    session_id: str | None
    item_ids: list[str]
    index: NDArray[np.int64]
    entity: tuple[list[str], list[str], list[str], list[str]]
    num: NDArray[np.float32]
    rank: NDArray[np.int16]
    img: NDArray[np.float16]
    img_mask: NDArray[np.bool_]
    txt: NDArray[np.float16]
    txt_mask: NDArray[np.bool_]
    hist_entity: tuple[list[str], list[str], list[str], list[str]]
    hist_type: NDArray[np.int64]
    hist_num: NDArray[np.float32]
    hist_img: NDArray[np.float16]
    hist_img_mask: NDArray[np.bool_]
    hist_txt: NDArray[np.float16]
    hist_txt_mask: NDArray[np.bool_]
    query: NDArray[np.float32]
    client: NDArray[np.float32]
    token: NDArray[np.int64]
    query_vector: NDArray[np.float16]
    category: str
    path: tuple[str, ...]
    click: NDArray[np.float32]
    conv: NDArray[np.float32]
    money: NDArray[np.float64]
    click_weight: float
    position: NDArray[np.int32]
    latency_ms: float = 0.0
    weight: float = 1.0
    num_behaviours: int = 0
    num_matching: int = 0
    served_by: str | None = None
    served_score: NDArray[np.float32] | None = None
