"""Send a recorded log through the topics in its own time, with ticks as the clock.

`run` is the driver; each log has a loader of its own that maps it to our events (`trivago`).
"""

from deploy.simulation.replay.driver import Replayed, ReplaySummary, run

__all__ = ["ReplaySummary", "Replayed", "run"]
