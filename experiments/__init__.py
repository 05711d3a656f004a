"""Experiments: each folder holds one, with its command, its configuration and its result table."""
