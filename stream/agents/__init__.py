"""The join worker: Faust as transport and partition owner around the pure join.

The only package that imports Faust, aiokafka and rocksdict. `settings` is light; `worker` is imported by the command
that runs one.

Source: STREAM.md 1, 2 and 8.
"""
