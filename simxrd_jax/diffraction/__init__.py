"""The forward model: from reflections and |F|^2 to a powder pattern, one module for each stage."""
