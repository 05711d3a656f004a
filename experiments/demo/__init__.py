"""A tour of the simulator: reference crystals, a library of patterns, and a fit by exact derivatives."""
