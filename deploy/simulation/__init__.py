"""Simulated shoppers and replays of recorded logs, which drive the public interfaces."""
