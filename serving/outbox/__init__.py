"""The outbox: delivery of impressions and collected events to Kafka."""
