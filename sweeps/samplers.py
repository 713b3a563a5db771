"""Which settings a trial gets: pure functions of the sweep's seed, the trial's number and, for TPE,
of what earlier trials reached."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from missing_bits.errors import UserError
from missing_bits.sweeps.space import Axis, Settings


class Outcome(NamedTuple):
    """What an earlier trial came to."""

    settings: Settings
    score: float | None
    """Its headline; None while it runs or where it failed."""
    state: str
    """ "finished", "pruned", "failed", or anything else while it runs."""


def random(axes: Sequence[Axis], seed: int, number: int) -> Settings:
    """Settings drawn at random.

    Args:
      axes: what to draw from.
      seed: of the sweep.
      number: of the trial.
    """
    generator = np.random.default_rng((seed, number))
    return {axis.option: axis.draw(generator) for axis in axes}


def tpe(
    axes: Sequence[Axis],
    seed: int,
    number: int,
    earlier: Sequence[Outcome],
    larger_is_better: bool,
) -> Settings:
    """Settings as the tree-structured Parzen estimator proposes them (Bergstra et al. 2011).

    Optuna is asked anew each time, with what stands in the trials' folders: it keeps nothing of its
    own that could differ from them.

    Args:
      axes: what to choose from.
      seed: of the sweep.
      number: of the trial.
      earlier: all trials before it, in order of their numbers.
      larger_is_better: whether a good score is a large one.

    Raises:
      UserError: Optuna is not installed.
    """
    optuna = _optuna()
    trial_states = optuna.trial.TrialState
    states = {
        "finished": trial_states.COMPLETE,
        "pruned": trial_states.PRUNED,
        "failed": trial_states.FAIL,
    }
    distributions = {axis.option: _distribution(optuna, axis) for axis in axes}
    sampler_seed = int(np.random.default_rng((seed, number)).integers(2**31))
    study = optuna.create_study(
        sampler=optuna.samplers.TPESampler(seed=sampler_seed, constant_liar=True),
        direction="maximize" if larger_is_better else "minimize",
    )
    for outcome in earlier:
        state = states.get(outcome.state, trial_states.RUNNING)
        scored = outcome.score is not None
        if state in (trial_states.COMPLETE, trial_states.PRUNED) and not scored:
            state = trial_states.FAIL
        values = {axis.option: _as_number(axis, outcome.settings[axis.option]) for axis in axes}
        study.add_trial(
            optuna.trial.create_trial(
                params=values,
                distributions=distributions,
                value=outcome.score if state is trial_states.COMPLETE else None,
                intermediate_values={0: outcome.score} if state is trial_states.PRUNED else None,
                state=state,
            )
        )
    asked = study.ask(distributions)
    return {
        axis.option: axis.range.text(asked.params[axis.option])
        if axis.range
        else asked.params[axis.option]
        for axis in axes
    }


def check_tpe() -> None:
    """Raises `UserError` if Optuna is not installed."""
    _optuna()


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise UserError(
            "--sampler=tpe needs Optuna, which is not installed: pip install -e '.[sweep]', or use "
            "--sampler=random."
        ) from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def _distribution(optuna: Any, axis: Axis) -> Any:
    if axis.range is None:
        return optuna.distributions.CategoricalDistribution(axis.values)
    if axis.range.whole:
        low = int(axis.range.low)
        high = int(axis.range.high)
        return optuna.distributions.IntDistribution(low, high, log=axis.range.log)
    low = axis.range.low
    return optuna.distributions.FloatDistribution(low, axis.range.high, log=axis.range.log)


def _as_number(axis: Axis, text: str) -> Any:
    if axis.range is None:
        return text
    return int(text) if axis.range.whole else float(text)
