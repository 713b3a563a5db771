"""Statistics over seeds: interquartile mean and bootstrap intervals (Agarwal et al. 2021)."""

from collections.abc import Sequence

import numpy as np
import scipy.stats


def interquartile_mean(values: Sequence[float]) -> float:
    """The mean of the middle half, without a quarter at each end (Agarwal et al., section 4.3)."""
    return float(scipy.stats.trim_mean(np.asarray(values, float), 0.25))


def interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """A percentile bootstrap interval of the mean, the same at every call.

    Args:
      values: one figure per seed.
      confidence: the probability with which the interval covers the mean, in (0, 1).

    Returns:
      The lower and the upper end; both the value itself for a single seed or equal values; NaN
      where a figure is not finite.
    """
    values = np.asarray(values, float)
    if not np.isfinite(values).all():
        return float("nan"), float("nan")
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    result = scipy.stats.bootstrap(
        (values,),
        np.mean,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)
