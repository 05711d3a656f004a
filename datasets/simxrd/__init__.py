"""TensorFlow Datasets builder of released SimXRD databases."""
