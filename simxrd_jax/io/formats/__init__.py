"""Host zone. Readers of powder patterns, one file a vendor; `simxrd_jax.io.patterns` chooses among them."""
