"""What a greedy evaluation reports of its episodes."""

import numpy as np


def summary(returns: np.ndarray) -> dict[str, float]:
    """Mean, deviation and range of episode returns [episodes]."""
    return {
        "eval/return_mean": float(np.mean(returns)),
        "eval/return_std": float(np.std(returns)),
        "eval/return_min": float(np.min(returns)),
        "eval/return_max": float(np.max(returns)),
    }
