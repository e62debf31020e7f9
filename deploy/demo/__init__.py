"""The whole loop on one machine: broker, join worker, trainers, serving, shoppers, facts, report."""
