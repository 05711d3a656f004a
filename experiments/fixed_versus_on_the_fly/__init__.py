"""Stored patterns against fresh ones."""
