"""Statistics over seeds: what Agarwal et al. 2021 ("Deep reinforcement learning at the edge of the
statistical precipice") ask for.

All intervals are percentile bootstrap intervals, drawn with the same random numbers at every call.
Of fewer than about five seeds they are too narrow: a bootstrap knows no figure but those it is
given.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

_BATCH = 500  # resamples at once: what a comparison of two hundred seeds holds in memory
_RESAMPLES = 2_000  # of a performance profile, which is drawn


class Estimate(NamedTuple):
    """A figure with its interval."""

    value: float
    low: float | None
    """The lower end; None where there are too few seeds for an interval."""
    high: float | None


class Profile(NamedTuple):
    """A performance profile with its pointwise interval, each [T] for T thresholds."""

    share: np.ndarray
    low: np.ndarray
    high: np.ndarray


def interquartile_mean(values: Sequence[float], axis: int = -1) -> Any:
    """The mean of the middle half, without a quarter at each end (Agarwal et al., section 4.3).

    Of up to three figures nothing is cut: it is their mean.

    Args:
      values: [..., n], one figure per seed.
      axis: along which to take the mean.

    Returns:
      [...], a float for figures of one axis.
    """
    from scipy.stats import trim_mean  # takes most of a second to import

    return trim_mean(np.asarray(values, float), 0.25, axis=axis)


def interval(
    values: Sequence[float], confidence: float = 0.95, statistic: Callable[..., Any] = np.mean
) -> tuple[float, float]:
    """A bootstrap interval of the mean or another statistic, the same at every call.

    Args:
      values: one figure per seed.
      confidence: the probability with which the interval covers the statistic, in (0, 1).
      statistic: maps (values, axis) to figures.

    Returns:
      The lower and the upper end; both the value itself for a single seed or equal values; NaN
      where a figure is not finite.
    """
    values = np.asarray(values, float)
    if not np.isfinite(values).all():
        return float("nan"), float("nan")
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    return _bootstrap((values,), statistic, confidence)


def estimate(
    values: Sequence[float], statistic: Callable[..., Any] = np.mean, confidence: float = 0.95
) -> Estimate:
    """A statistic of figures of seeds with its interval, of which a single seed has none."""
    value = float(statistic(np.asarray(values, float), axis=-1))
    if len(values) < 2:
        return Estimate(value, None, None)
    return Estimate(value, *interval(values, confidence, statistic))


def difference(
    values: Sequence[float],
    reference: Sequence[float],
    paired: bool = False,
    confidence: float = 0.95,
) -> Estimate:
    """How much the mean lies above that of a reference.

    Args:
      values: one figure per seed.
      reference: likewise.
      paired: whether figures at the same place share what they were made from; then both have as
        many, and the interval is that of the mean of their differences.
      confidence: of the interval.
    """
    x = np.asarray(values, float)
    y = np.asarray(reference, float)
    if paired:
        return estimate(x - y, confidence=confidence)
    value = float(x.mean() - y.mean())
    return _estimate_of_two(value, x, y, _mean_difference, confidence)


def improvement(
    values: Sequence[float],
    reference: Sequence[float],
    larger_is_better: bool = True,
    paired: bool = False,
    confidence: float = 0.95,
) -> Estimate:
    """The probability that a run is better than one of a reference, ties counting half.

    Unpaired it is the statistic of Mann and Whitney (1947) over the number of pairs (Agarwal et
    al., section 4.3 and appendix A.3); paired, the share of pairs that are better.

    Args:
      values: one figure per seed.
      reference: likewise.
      larger_is_better: otherwise a smaller figure is.
      paired: as in `difference`.
      confidence: of the interval.
    """
    sign = 1 if larger_is_better else -1
    x = sign * np.asarray(values, float)
    y = sign * np.asarray(reference, float)
    if paired:
        return estimate((np.sign(x - y) + 1) / 2, confidence=confidence)
    from scipy.stats import mannwhitneyu

    value = float(mannwhitneyu(x, y).statistic / (len(x) * len(y)))
    return _estimate_of_two(value, x, y, _share_above, confidence)


def performance_profile(
    scores: Sequence[Sequence[float]], thresholds: Sequence[float], confidence: float = 0.95
) -> Profile:
    """The share of runs above each threshold, a mean over tasks (Agarwal et al., section 4.2).

    Seeds are resampled within each task (stratified bootstrap).

    Args:
      scores: for each task one normalized figure per seed.
      thresholds: [T].
      confidence: of the interval at each threshold.
    """
    rng = np.random.default_rng(0)
    thresholds = np.asarray(thresholds, float)
    shares = []
    resampled = []
    for task in scores:
        above = np.asarray(task, float)[:, None] > thresholds  # [n, T]
        drawn = rng.integers(len(above), size=(_RESAMPLES, len(above)))
        shares.append(above.mean(axis=0))
        resampled.append(above[drawn].mean(axis=1))  # [resamples, T]
    tail = 50 * (1 - confidence)
    low, high = np.percentile(np.mean(resampled, axis=0), [tail, 100 - tail], axis=0)
    return Profile(np.mean(shares, axis=0), low, high)


def _mean_difference(x: np.ndarray, y: np.ndarray, axis: int = -1) -> np.ndarray:
    return x.mean(axis=axis) - y.mean(axis=axis)


def _share_above(x: np.ndarray, y: np.ndarray, axis: int = -1) -> np.ndarray:
    """The share of pairs in which x [..., n] is above y [..., m], ties counting half: [...]."""
    x = np.moveaxis(x, axis, -1)
    y = np.moveaxis(y, axis, -1)
    return (np.sign(x[..., :, None] - y[..., None, :]).mean(axis=(-2, -1)) + 1) / 2


def _estimate_of_two(
    value: float,
    x: np.ndarray,
    y: np.ndarray,
    statistic: Callable[..., np.ndarray],
    confidence: float,
) -> Estimate:
    """A statistic of two samples with its interval, of which a single seed on a side has none."""
    if min(len(x), len(y)) < 2:
        return Estimate(value, None, None)
    if np.ptp(x) == np.ptp(y) == 0:
        return Estimate(value, value, value)
    return Estimate(value, *_bootstrap((x, y), statistic, confidence))


def _bootstrap(
    samples: Sequence[np.ndarray], statistic: Callable[..., Any], confidence: float
) -> tuple[float, float]:
    from scipy.stats import bootstrap

    result = bootstrap(
        samples,
        statistic,
        confidence_level=confidence,
        method="percentile",
        batch=_BATCH,
        rng=np.random.default_rng(0),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)
