"""The local broker: Apache Kafka from pinned Maven jars, or the in-memory mock cluster of librdkafka.

`jars` fetches and verifies the jars, `local` runs one detached broker process, `memory` hosts the mock cluster.
"""
