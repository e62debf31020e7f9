"""Sessions become model versions: models, learner, checkpoints, artifacts and the registry."""
