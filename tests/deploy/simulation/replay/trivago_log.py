"""A generated log of the same form as the hotel-search log, with the odd cases that the real one holds."""

from pathlib import Path

import numpy as np
import polars as pl

from deploy.simulation.replay.trivago import COLUMNS

START_S = 1_541_548_800
_ACTIONS = ("interaction item image", "interaction item info", "interaction item rating", "filter selection")

# The batch join of the raw file: SQL over rows and strings, sharing nothing with the loader or the join.
_TABLES = """
with rows as (
    select session_id as visit, timestamp * 1000 + step as ts, reference as hotel, action_type,
           session_id || '-' || timestamp || '-' || step as query_id,
           string_split(impressions, '|') as hotels, string_split(prices, '|') as prices
    from read_parquet($path)
), lists as (
    select * from rows where action_type = 'clickout item'
), browsed as (
    select *, row_number() over () as number from rows where action_type like 'interaction item%' and hotel is not null
), linked as (
    select b.number, b.hotel, arg_max(l.query_id, (l.ts, l.query_id)) as query_id
    from browsed b join lists l
      on l.visit = b.visit and l.ts - 1 <= b.ts and b.ts < l.ts - 1 + 900000 and list_contains(l.hotels, b.hotel)
    group by all
), clicks as (
    select query_id, hotel from linked union all select query_id, hotel from lists
), clicked as (
    select query_id, map_from_entries(list((hotel, n))) as per_hotel
    from (select query_id, hotel, count(*) as n from clicks group by all) group by query_id
)
"""
BATCH_JOIN = f"""{_TABLES}
select l.query_id, l.visit, l.ts, l.hotels, l.prices, l.hotel, c.per_hotel,
       (select count(*) from browsed) - (select count(*) from linked) as num_orphans
from lists l join clicked c using (query_id) order by l.query_id
"""
# What the batch join leaves over: visit, time and hotel of each interaction with no list to belong to.
BATCH_LEFT = f"""{_TABLES}
select visit, ts, hotel from browsed where number not in (select number from linked) order by all
"""


def write(path: Path, *, visits: int, seed: int) -> None:
    """Write a log whose visits browse, click out, browse on, and sometimes come back much later."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, object]] = []
    for visit in range(visits):
        at_s = START_S + int(rng.integers(0, 20_000))
        hotels = rng.choice(5_000, size=40, replace=False)
        for step in range(1, int(rng.integers(2, 40))):
            # Zero seconds, a minute, and now and then longer than the click window.
            at_s += int(rng.choice([0, 1, 20, 300, 2_000], p=[0.3, 0.3, 0.25, 0.1, 0.05]))
            row: dict[str, object] = dict.fromkeys(COLUMNS, None)
            row |= {
                "user_id": f"user-{visit // 2}",
                "session_id": f"visit-{visit}",
                "timestamp": at_s,
                "step": step,
                "platform": "DE",
                "device": "mobile",
                "city": None if visit % 17 == 0 else f"city-{visit % 5}",
            }
            if rng.random() < 0.25:
                shown = rng.choice(hotels, size=int(rng.integers(1, 26)), replace=False)
                row |= {
                    "action_type": "clickout item",
                    "reference": str(rng.choice(shown)),
                    "impressions": "|".join(map(str, shown)),
                    "prices": "|".join(map(str, rng.integers(20, 400, len(shown)))),
                }
            else:
                action = str(rng.choice(_ACTIONS))
                reference = "Free WiFi" if action == "filter selection" else str(rng.choice(hotels))
                row |= {"action_type": action, "reference": reference}
            rows.append(row)
    pl.DataFrame(rows, schema=COLUMNS).sample(fraction=1.0, shuffle=True, seed=seed).write_parquet(path)
