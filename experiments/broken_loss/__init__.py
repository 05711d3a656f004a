"""Losses and samplings for rare space groups."""
