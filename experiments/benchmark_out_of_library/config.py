"""python -m experiments.benchmark_out_of_library --size cpu

Wall time: smoke (three steps of each network) about half an hour on 2 CPU cores, cpu 2 to 3 h, full days on one accelerator.
Expected: corrected networks above their published variants where those had a softmax too many, in space groups all of them.
"""

from __future__ import annotations

SPLIT = "ool_disjoint"
# The published conditions, on correct physics. Its strains break the crystal class, as in the published patterns: a label is
# that of the unstrained structure.
PRESET = "simxrd"
