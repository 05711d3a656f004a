"""Refinement: physical parameters of the simulator fitted to measured patterns."""
