"""Cost of the join: the worker, Quix Streams and a naive joiner on one Kafka with the same events.

`make bench-stream` runs `python -m tests.bench`; `load` makes the events and their true join, `feed` writes them,
`contenders` starts the programs, `sampling` watches them, `outputs` compares their results with the truth, `report`
writes docs/benchmarks. Nothing here asserts.

Source: docs/benchmarks/stream.md.
"""
