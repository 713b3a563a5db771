"""Which trials a sweep has, and which settings each gets."""

from collections.abc import Mapping, Sequence

from missing_bits.errors import require
from missing_bits.sweeps import samplers, space
from missing_bits.sweeps.folder import Folder, Sweep, Trial
from missing_bits.sweeps.space import Axis, Settings


def foreseen(sweep: Sweep, axes: Mapping[str, Sequence[Axis]]) -> list[Trial]:
    """All trials, where they do not depend on how earlier ones end; else extreme ones.

    Args:
      sweep: what is swept.
      axes: of each of its experiments.

    Raises:
      UserError: their number is not that of the grid.
    """
    if sweep.sampler == "tpe":
        corners = space.corners(axes[sweep.exps[0]])
        return [Trial(number, sweep.exps[0], mine) for number, mine in enumerate(corners)]
    each = sweep.trials // len(sweep.exps)  # trials of one experiment
    found: list[Trial] = []
    for exp in sweep.exps:
        grid = list(space.grid(axes[exp])) if sweep.sampler == "grid" else []
        require(
            len(grid) * len(sweep.exps) == sweep.trials or sweep.sampler != "grid",
            f"sweep.json tells of {sweep.trials} trials, and its grid has "
            f"{len(grid) * len(sweep.exps)}: it was changed. Mend it, or begin a new sweep in "
            "another folder.",
        )
        for i in range(each):
            mine = grid[i] if grid else samplers.random(axes[exp], sweep.seed, i)
            found.append(Trial(len(found), exp, mine))
    return found


class Proposals:
    """The trials of a sweep, by their numbers.

    Args:
      sweep: what is swept.
      axes: of each of its experiments.
      folder: where trials are written down before they are used.
    """

    def __init__(self, sweep: Sweep, axes: Mapping[str, Sequence[Axis]], folder: Folder) -> None:
        self._sweep = sweep
        self._axes = axes
        self._folder = folder
        self._foreseen = foreseen(sweep, axes)

    def trial(self, number: int) -> Trial:
        """A trial, which is written down, once and for all, before it is used."""
        with self._folder.alone():
            return self._trial(number)

    def known(self) -> list[Trial]:
        """Those that have been written down, in order."""
        found = [self._known(number) for number in range(self._sweep.trials)]
        return [trial for trial in found if trial is not None]

    def _known(self, number: int) -> Trial | None:
        """A trial that has been written down: what stands in its file must follow from the sweep.

        Raises:
          UserError: it does not.
        """
        trial = self._folder.trial(number)
        if trial is None:
            return self._begun(number)
        if self._sweep.sampler == "tpe":
            axes = self._axes[self._sweep.exps[0]]
            follows = trial.exp == self._sweep.exps[0] and list(trial.settings) == [
                axis.option for axis in axes if axis.allows(trial.settings.get(axis.option, ""))
            ]
        else:
            follows = trial == self._foreseen[number]
        require(
            follows,
            f"{self._folder.trial_path(trial.name) / 'trial.json'} is of another sweep, or was "
            "changed. Remove the folder to have the trial made again.",
        )
        return trial

    def _begun(self, number: int) -> Trial | None:
        """A trial whose run stands there although its file is gone; None if there is none."""
        name = f"{number:04d}"
        if not self._folder.has_begun(name):
            return None
        require(
            self._sweep.sampler != "tpe",
            f"{self._folder.trial_path(name)} has lost its trial.json, which says what was drawn. "
            "Remove the folder to have the trial made again.",
        )
        return self._foreseen[number]

    def _trial(self, number: int) -> Trial:
        known = self._known(number)
        if known is not None:
            return known
        if self._sweep.sampler == "tpe":
            trial = Trial(number, self._sweep.exps[0], self._ask_tpe(number))
        else:
            trial = self._foreseen[number]
        self._folder.propose(trial)
        return trial

    def _ask_tpe(self, number: int) -> Settings:
        earlier = []
        for trial in map(self._trial, range(number)):
            standing = self._folder.standing(trial.name)
            earlier.append(samplers.Outcome(trial.settings, standing.score, standing.state))
        headline = self._folder.headline()
        larger = headline is None or headline.larger_is_better
        axes = self._axes[self._sweep.exps[0]]
        return samplers.tpe(axes, self._sweep.seed, number, earlier, larger)


def best(trials: Sequence[Trial], folder: Folder) -> Trial | None:
    """The finished trial with the best headline, the first of equals; None if there is none."""
    headline = folder.headline()
    sign = 1 if headline is None or headline.larger_is_better else -1
    winner = None
    highest = -float("inf")
    for trial in trials:
        standing = folder.standing(trial.name)
        scored = standing.state == "finished" and standing.score is not None
        if scored and sign * standing.score > highest:
            winner = trial
            highest = sign * standing.score
    return winner
