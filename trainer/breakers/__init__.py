"""Breakers: what is measured of a window of sessions before it is learned, and whether that fits the lineage's past."""
