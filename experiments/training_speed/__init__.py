"""How much of a training step is simulation."""
