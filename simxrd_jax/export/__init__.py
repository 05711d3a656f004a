"""Sets of patterns on disk: generated from a library or imported, in formats that other programs read."""
