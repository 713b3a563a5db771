"""Trials that differ in nothing but numbers and seeds, as rows of one program."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from missing_bits import options
from missing_bits.loop.config import RunConfig
from missing_bits.loop.family import row_bytes
from missing_bits.sweeps.folder import Folder
from missing_bits.sweeps.pruners import FACTOR, RUNGS

_SHARE = 0.8  # of the memory there is
_COPIES = 3  # of a row: the state, what an update makes of it, and the copy that is saved


class Asked(NamedTuple):
    """What one trial asks for, parsed."""

    method: Any
    config: Any
    run: RunConfig


def groups(trials: Sequence[Asked], memory: int) -> list[list[int]] | None:
    """Which trials may be rows of one program.

    Args:
      trials: all of a sweep.
      memory: bytes there are for a program.

    Returns:
      Their numbers, group by group, each as large as fits; None if some must act in environments
      on the host: these cannot be dropped and taken up row by row.
    """
    found: dict[Any, list[int]] = {}
    for number, trial in enumerate(trials):
        zeros = np.zeros(len(options.numbers(trial.config)), np.float32)
        config = options.with_numbers(trial.config, zeros.tolist())
        run = dataclasses.replace(trial.run, seed=0, dir="", resume=False)
        found.setdefault((trial.method, config, run), []).append(number)
    split = []
    for numbers in found.values():
        first = trials[numbers[0]]
        size = row_bytes(first.method, first.config, first.run.seed)
        if size is None:
            return None
        of_trial = max(1, size * first.run.num_seeds * _COPIES)
        most = max(1, int(_SHARE * memory / of_trial))
        count = math.ceil(len(numbers) / most)  # as even as can be
        split += [part.tolist() for part in np.array_split(numbers, count)]
    return split


def halving_judge(
    folder: Folder, trials: Sequence[str]
) -> Callable[[int, Mapping[str, float]], dict[str, str]]:
    """Successive halving among rows that pass their rungs together (Jamieson & Talwalkar 2016).

    At the first evaluation at or after 1/9 and 1/3 of the budget the best third, rounded up, goes
    on.

    Args:
      folder: of the sweep.
      trials: names of the group's.

    Returns:
      What `loop.train.train_rows` asks.
    """

    def judge(step: int, scores: Mapping[str, float]) -> dict[str, str]:
        budget = folder.budget(trials[0])
        sign = 1 if folder.headline().larger_is_better else -1
        passed = [budget / FACTOR**power for power in range(1, RUNGS + 1)]
        rung = max((rung for rung in passed if rung <= step), default=None)
        pruned = [folder.pruned_at(trial) for trial in trials]
        if rung is None or any(at is not None and at >= rung for at in pruned):
            return {}
        ordered = sorted(scores, key=lambda trial: (-sign * scores[trial], trial))
        kept = math.ceil(len(ordered) / FACTOR)
        return {
            trial: f"pruned at step {step:,} with {scores[trial]:.4g}" for trial in ordered[kept:]
        }

    return judge
