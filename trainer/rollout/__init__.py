"""Rollout of versions: states, gates, the store of moves and commands, evidence, the controller."""
