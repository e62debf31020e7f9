"""The evaluation of rankers on logged lists: data, time split, metrics, peers and the report."""
