"""The whole loop on one machine: broker, joiner, trainers, serving, shoppers, facts, report."""
