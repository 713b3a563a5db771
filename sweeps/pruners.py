"""When a trial is given up: its headline at some step beside those of the others.

A verdict depends on curves alone, whatever the trial has done since: a curve maps steps of the
budget to the headline of the evaluation there, the mean over the trial's seeds.
"""

import statistics
from collections.abc import Callable, Sequence

Curve = dict[int, float]
Pruner = Callable[[Curve, Sequence[Curve], int, bool], int | None]

FACTOR = 3  # of successive halving: a third goes on to a rung three times as far
RUNGS = 2  # before the end
_FIRST = 0.1  # of the budget, before which the median rule asks nothing
_OTHERS = 4  # that must have come as far before the median rule speaks


def halving(
    mine: Curve, others: Sequence[Curve], budget: int, larger_is_better: bool
) -> int | None:
    """Asynchronous successive halving (Li et al. 2020, algorithm 2, without waiting).

    At rungs of 1/9 and 1/3 of the budget a trial goes on if it is among the best third of those
    that have reached the rung, itself included, the third rounded up: the first always goes on.

    Args:
      mine: the trial's curve.
      others: those of other trials.
      budget: the whole budget of a trial.
      larger_is_better: whether a good headline is a large one.

    Returns:
      The step at which the trial is given up; None if it goes on.
    """
    for power in range(RUNGS, 0, -1):
        rung = budget / FACTOR**power
        step = _first_at(mine, rung)
        if step is None:
            return None
        reached = [other[at] for other in others if (at := _first_at(other, rung)) is not None]
        sign = 1 if larger_is_better else -1
        better = sum(sign * score > sign * mine[step] for score in reached)
        kept = -(-(len(reached) + 1) // FACTOR)  # rounded up
        if better >= kept and step < budget:
            return step
    return None


def median(mine: Curve, others: Sequence[Curve], budget: int, larger_is_better: bool) -> int | None:
    """The median rule (Golovin et al. 2017, section 3.2.2).

    A trial is given up at an evaluation if its best headline so far is worse than the median of the
    means that at least four others had over their evaluations up to that step.

    Args and Returns: as `halving`.
    """
    sign = 1 if larger_is_better else -1
    best = -float("inf")
    for step in sorted(mine):
        best = max(best, sign * mine[step])
        if step < _FIRST * budget or step >= budget:
            continue
        means = [
            sign * statistics.fmean(score for at, score in other.items() if at <= step)
            for other in others
            if max(other, default=-1) >= step
        ]
        if len(means) >= _OTHERS and best < statistics.median(means):
            return step
    return None


PRUNERS: dict[str, Pruner] = {"halving": halving, "median": median}


def _first_at(curve: Curve, rung: float) -> int | None:
    """The first step of a curve at or after a rung."""
    return min((step for step in curve if step >= rung), default=None)
