"""What the join costs: our worker, Quix Streams and a naive joiner on one Kafka with the same events.

`make bench-stream` runs `python -m tests.bench`; `load` makes the events and knows the truth, `feed` writes them,
`contenders` starts the programs, `sampling` watches them, `outputs` holds their results against the truth, `report`
writes docs/benchmarks. Nothing here asserts.

Source: STREAM.md 15.
"""
