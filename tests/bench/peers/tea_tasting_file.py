"""tea-tasting on DuckDB: the arms of a Parquet file of sessions; run by the interpreter of .venv-bench.

Sessions are added up by client first, since tea-tasting takes one row for each unit of randomisation. Prints, as JSON,
metric to relative difference and p-value.

Usage: tea_tasting_file.py FILE
"""

import json
import sys


def main(path: str) -> None:
    """Analyse the file and print the results."""
    import duckdb  # only in .venv-bench
    import tea_tasting as tt  # type: ignore[import-not-found]  # only in .venv-bench

    names = ("items", "clicks", "sessions", "orders", "gross_minor")
    sums = ", ".join(f"sum({name}) AS {name}" for name in names)
    clients = duckdb.sql(f"SELECT arm, {sums} FROM '{path}' GROUP BY client, arm")
    experiment = tt.Experiment(
        CTR=tt.RatioOfMeans("clicks", "items"),
        CVR=tt.RatioOfMeans("orders", "sessions"),
        GMV=tt.Mean("gross_minor"),
        ratio=tt.SampleRatio(),
        variant="arm",
    )
    found = experiment.analyze(clients, control="control")
    print(  # noqa: T201 - the output of a program
        json.dumps({name: (found[name].rel_effect_size, found[name].pvalue) for name in ("CTR", "CVR", "GMV")})
    )


if __name__ == "__main__":
    main(sys.argv[1])
