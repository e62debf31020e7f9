"""The join worker: Faust as transport and owner of partitions, around the pure join.

No other package imports Faust, aiokafka and rocksdict. `settings` and `metrics` import none of them; the command that
runs a worker imports `worker`.

Source: docs/stream.md; docs/adr/0010-faust-in-micro-batches.md.
"""
