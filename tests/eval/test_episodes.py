"""What an evaluation says of its episodes, and the GIF of one."""

import numpy as np
import pytest

from missing_bits.eval import episodes


def test_summary_by_hand():
    """Mean 12 / 4 = 3; squared deviations 4 + 1 + 0 + 9 = 14, so the deviation is sqrt(14 / 4)."""
    assert episodes.summary(np.array([1.0, 2.0, 3.0, 6.0])) == {
        "eval/return_mean": 3.0,
        "eval/return_std": pytest.approx(np.sqrt(14 / 4)),
        "eval/return_min": 1.0,
        "eval/return_max": 6.0,
    }
