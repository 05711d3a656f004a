"""Symmetry, reflections, scattering factors and the assembly of `Crystal`."""
