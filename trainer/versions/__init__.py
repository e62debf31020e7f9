"""Versions of a lineage: checkpoints, artifacts and the registry."""
