"""A small figure of every physical effect and the parameter tables, for docs/physics.md."""
