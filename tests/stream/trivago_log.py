"""A generated log of the same form as the hotel-search log, with the odd cases that the real one holds."""

from pathlib import Path

import numpy as np
import polars as pl

from stream.replay.trivago import COLUMNS

START_S = 1_541_548_800
_ACTIONS = ("interaction item image", "interaction item info", "interaction item rating", "filter selection")


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
