"""Learning: losses, the optimizer and the prequential evaluation."""
