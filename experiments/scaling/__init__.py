"""How many training patterns a second a library gives on the fly."""
