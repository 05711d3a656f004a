"""TensorFlow Datasets builder of patterns simulated from a library of structures."""
