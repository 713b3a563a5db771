"""What a score is worth: returns of random and of good play, for scores that tasks share.

A return of an agent becomes (return - random) / (good - random): 0 is random play, 1 what Gymnasium
calls solved.

Sources. Good: `reward_threshold` of Gymnasium's registration (1.4). Random: the mean return of
uniformly random actions, environments and actions seeded 0, 1, ...: 1,000 episodes of CartPole-v1
(standard error 0.4), 300 of Acrobot-v1 (0.5), MountainCar-v0 (0: none reaches the goal) and
LunarLander-v3 (6.3).
"""

from typing import NamedTuple

from missing_bits.results.folders import Run

METRIC = "eval/return_mean"


class Reference(NamedTuple):
    """Returns of an environment."""

    random: float
    good: float


REFERENCES = {
    "CartPole-v1": Reference(22.6, 475.0),
    "Acrobot-v1": Reference(-499.2, -100.0),
    "MountainCar-v0": Reference(-200.0, -110.0),
    "LunarLander-v3": Reference(-186.2, 200.0),
}


def of(run: Run) -> Reference | None:
    """The reference for a run's headline; None where there is none.

    An environment that is made with other arguments, or within wrappers of somebody's own, may pay
    otherwise.
    """
    wrappers = run.value("wrappers") or []
    as_registered = not run.value("env-kwargs") and not any(":" in str(name) for name in wrappers)
    is_return = run.headline is not None and run.headline.name == METRIC
    return REFERENCES.get(run.task) if is_return and as_registered else None


def normalized(score: float, reference: Reference) -> float:
    """0 for random play, 1 for good play."""
    return (score - reference.random) / (reference.good - reference.random)
