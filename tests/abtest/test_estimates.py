import numpy as np

from abtest.estimates import estimate
from abtest.inference import mean, ratio
from abtest.metrics import COLUMNS, METRICS
from abtest.moments import Moments


def test_a_metric_is_the_mean_or_the_ratio_of_its_columns() -> None:
    moments = Moments.of(np.random.default_rng(1).random((50, len(COLUMNS))))
    assert estimate(METRICS["gmv"], moments) == mean(moments, COLUMNS.index("gross_minor"))
    assert estimate(METRICS["cvr"], moments) == ratio(moments, COLUMNS.index("orders"), COLUMNS.index("sessions"))
