"""The published benchmark, other structures in the test."""
