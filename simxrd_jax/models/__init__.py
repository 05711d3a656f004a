"""The 21 networks of the SimXRD-4M benchmark in Flax NNX, as published and corrected."""

from simxrd_jax.models.registry import MODELS, VARIANTS, ModelCard, create_model, model_names, parameter_count

__all__ = ["MODELS", "VARIANTS", "ModelCard", "create_model", "model_names", "parameter_count"]
