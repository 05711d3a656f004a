"""Host zone. Results of the published benchmark, as its slides print them.

Columns: accuracy, macro F1, macro precision, macro recall for crystal systems, then for space groups. They are averages over
seeds (inferred) of networks trained on patterns of 119,569 structures that are not public: no number of ours has the same
structures behind it. "Time (ms)" of the slides is left out: the forward pass of a batch of 128 in training mode on an unnamed
GPU.

Source: B. Cao et al., SimXRD-4M, ICLR 2025, slides (table "In/out library crystal symmetry classification").
"""

from __future__ import annotations

METRICS = ("accuracy", "macro_f1", "macro_precision", "macro_recall")
TASKS = ("crystal_system", "space_group")

# Same structures in training and test, other conditions.
IN_LIBRARY: dict[str, tuple[float, ...]] = {
    "cnn1": (0.559, 0.418, 0.427, 0.431, 0.241, 0.002, 0.001, 0.005),
    "cnn2": (0.466, 0.236, 0.222, 0.283, 0.241, 0.002, 0.001, 0.005),
    "cnn3": (0.531, 0.328, 0.315, 0.369, 0.241, 0.002, 0.001, 0.005),
    "cnn4": (0.316, 0.069, 0.045, 0.143, 0.241, 0.002, 0.001, 0.005),
    "cnn5": (0.517, 0.394, 0.489, 0.378, 0.295, 0.022, 0.025, 0.026),
    "cnn6": (0.316, 0.069, 0.045, 0.143, 0.241, 0.002, 0.001, 0.005),
    "cnn7": (0.862, 0.863, 0.887, 0.845, 0.588, 0.124, 0.147, 0.130),
    "cnn8": (0.377, 0.162, 0.148, 0.221, 0.241, 0.002, 0.001, 0.005),
    "cnn9": (0.795, 0.817, 0.826, 0.810, 0.599, 0.597, 0.681, 0.556),
    "cnn10": (0.870, 0.888, 0.892, 0.885, 0.705, 0.792, 0.853, 0.759),
    "cnn11": (0.902, 0.922, 0.932, 0.914, 0.758, 0.750, 0.735, 0.828),
    "mlp": (0.316, 0.069, 0.045, 0.143, 0.241, 0.002, 0.001, 0.005),
    "rnn": (0.381, 0.183, 0.200, 0.202, 0.245, 0.003, 0.002, 0.007),
    "lstm": (0.728, 0.743, 0.762, 0.728, 0.515, 0.156, 0.224, 0.151),
    "gru": (0.765, 0.788, 0.802, 0.777, 0.575, 0.273, 0.400, 0.251),
    "birnn": (0.365, 0.155, 0.197, 0.185, 0.245, 0.003, 0.002, 0.007),
    "bilstm": (0.791, 0.814, 0.825, 0.805, 0.559, 0.384, 0.533, 0.346),
    "bigru": (0.800, 0.826, 0.840, 0.816, 0.627, 0.451, 0.609, 0.408),
    "transformer": (0.338, 0.127, 0.172, 0.155, 0.241, 0.002, 0.001, 0.005),
    "itransformer": (0.627, 0.611, 0.652, 0.599, 0.388, 0.135, 0.320, 0.118),
    "patchtst": (0.720, 0.752, 0.766, 0.740, 0.631, 0.811, 0.850, 0.784),
}
# Other structures in the test.
OUT_OF_LIBRARY: dict[str, tuple[float, ...]] = {
    "cnn1": (0.627, 0.437, 0.565, 0.472, 0.285, 0.003, 0.002, 0.006),
    "cnn2": (0.606, 0.419, 0.428, 0.425, 0.285, 0.003, 0.002, 0.006),
    "cnn3": (0.659, 0.501, 0.496, 0.507, 0.285, 0.003, 0.002, 0.006),
    "cnn4": (0.378, 0.078, 0.054, 0.142, 0.285, 0.003, 0.002, 0.006),
    "cnn5": (0.495, 0.278, 0.285, 0.283, 0.285, 0.003, 0.002, 0.006),
    "cnn6": (0.378, 0.078, 0.054, 0.142, 0.285, 0.003, 0.002, 0.006),
    "cnn7": (0.673, 0.607, 0.633, 0.608, 0.429, 0.053, 0.050, 0.072),
    "cnn8": (0.612, 0.452, 0.448, 0.497, 0.286, 0.003, 0.001, 0.006),
    "cnn9": (0.675, 0.632, 0.629, 0.644, 0.439, 0.099, 0.137, 0.113),
    "cnn10": (0.692, 0.659, 0.650, 0.674, 0.430, 0.107, 0.168, 0.121),
    "cnn11": (0.702, 0.672, 0.659, 0.690, 0.481, 0.136, 0.167, 0.150),
    "mlp": (0.378, 0.078, 0.054, 0.142, 0.285, 0.003, 0.002, 0.006),
    "rnn": (0.409, 0.162, 0.149, 0.178, 0.274, 0.003, 0.002, 0.009),
    "lstm": (0.657, 0.575, 0.583, 0.589, 0.431, 0.070, 0.092, 0.085),
    "gru": (0.707, 0.678, 0.656, 0.709, 0.480, 0.110, 0.143, 0.125),
    "birnn": (0.403, 0.157, 0.146, 0.174, 0.295, 0.004, 0.003, 0.008),
    "bilstm": (0.704, 0.663, 0.654, 0.678, 0.349, 0.035, 0.044, 0.051),
    "bigru": (0.722, 0.699, 0.697, 0.705, 0.498, 0.138, 0.192, 0.149),
    "transformer": (0.376, 0.138, 0.231, 0.158, 0.285, 0.003, 0.005, 0.006),
    "itransformer": (0.606, 0.495, 0.519, 0.526, 0.367, 0.053, 0.085, 0.064),
    "patchtst": (0.656, 0.616, 0.612, 0.627, 0.375, 0.067, 0.093, 0.082),
}


def published(benchmark: str, model: str, task: str) -> dict[str, float]:
    """Metric -> published value of a model, "in_library" or "out_of_library"."""
    values = (IN_LIBRARY if benchmark == "in_library" else OUT_OF_LIBRARY)[model]
    first = len(METRICS) * TASKS.index(task)
    return dict(zip(METRICS, values[first : first + len(METRICS)], strict=True))
