"""Readers and writers of structures, patterns and instruments."""
