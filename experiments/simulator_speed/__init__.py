"""How many patterns a second the simulator makes, and how that compares with other programs."""
