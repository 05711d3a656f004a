"""python -m experiments.benchmark_out_of_library --size cpu

Wall time: smoke (three steps of each network) about 20 min on 2 CPU cores, cpu about 3 h, full days on one accelerator.
Expected: corrected networks above their published variants wherever the published one had a softmax too many.
"""

from __future__ import annotations

SPLIT = "ool_disjoint"
# The published conditions, on correct physics. Its strains break the crystal class, as in the published patterns: a label is
# that of the unstrained structure.
PRESET = "simxrd"
