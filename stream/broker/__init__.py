"""Access to Kafka: producers, readers, topic administration and the partitioner."""
