"""Host zone. The extinction group of each space group, as `extinction.extinction_groups` derives it.

Kept as a table, so that machines that train and evaluate need not derive it (which takes gemmi); a test derives it again.
"""

from __future__ import annotations

import numpy as np

# Index of the group within the crystal system, for space groups 1 to 230.
EXTINCTION_GROUP = np.array([
    0, 0, 1, 2, 3, 1, 4, 3, 5, 1, 2, 3, 4, 6, 5, 7, 8, 9, 10, 11, 12, 13, 14, 14, 7, 15, 16, 15, 17, 18, 19, 20, 21, 22,
    12, 23, 24, 12, 25, 23, 26, 13, 27, 14, 28, 29, 7, 30, 16, 31, 15, 32, 18, 33, 20, 34, 17, 22, 19, 35, 36, 21, 23,
    26, 12, 24, 25, 37, 13, 38, 14, 28, 39, 29, 40, 41, 42, 41, 43, 44, 40, 43, 40, 42, 45, 46, 43, 47, 40, 48, 41, 49,
    42, 50, 41, 49, 43, 44, 40, 51, 52, 53, 54, 55, 56, 57, 43, 58, 59, 60, 40, 56, 48, 61, 40, 52, 51, 53, 43, 58, 43,
    59, 40, 54, 62, 63, 51, 55, 45, 64, 56, 52, 65, 66, 57, 53, 67, 68, 43, 58, 69, 70, 71, 72, 72, 73, 71, 73, 71, 71,
    72, 72, 72, 72, 73, 71, 71, 74, 75, 73, 76, 71, 75, 71, 74, 73, 76, 77, 78, 78, 79, 79, 80, 77, 77, 80, 77, 78, 78,
    79, 79, 80, 77, 81, 82, 83, 77, 82, 77, 83, 77, 81, 82, 83, 84, 85, 86, 87, 86, 84, 88, 85, 89, 86, 90, 91, 84, 87,
    85, 92, 86, 93, 93, 94, 84, 85, 86, 95, 96, 97, 84, 98, 95, 88, 85, 96, 89, 99, 86, 100,
], dtype=np.int64)  # fmt: skip
