"""How a method is judged: functions with a headline, a value that can be narrowed and joined."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax


class Headline(NamedTuple):
    """The metric by which runs, checkpoints and trials are compared."""

    name: str
    larger_is_better: bool = True


Learned = Any  # what a method's `learned(state)` returns, or a part of it
Scores = Callable[[Learned, jax.Array, bool], dict[str, float]]
Baselines = Callable[[jax.Array], dict[str, float]]
Pictures = Callable[[Learned, int, Path], None]


def _no_baselines(key: jax.Array) -> dict[str, float]:
    return {}


def _no_pictures(learned: Learned, seed: int, folder: Path) -> None:
    return None


@dataclass(frozen=True)
class Evaluation:
    """How what was learned is judged.

    Attributes:
      headline: the metric that stands for all of them.
      scores: maps (learned, key, last) to the metrics "eval/..."; `last` says whether it is the
        run's last evaluation, so that dear measures may run only then.
      baselines: maps a key to the metrics "baseline/..." that need nothing learned.
      pictures: draws (learned, seed, folder) into files of the folder.
      against: what `baselines` measures, to be said before it takes its time; empty for nothing.
      protocol: how scores come about, as JSON: what two runs must have in common for their scores
        to be compared, besides the options that say how a run is judged.
      told: measures, "eval/..." or "baseline/...", that a run's last line tells beside the
        headline.
    """

    headline: Headline
    scores: Scores
    baselines: Baselines = _no_baselines
    pictures: Pictures = _no_pictures
    against: str = ""
    protocol: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    told: tuple[str, ...] = ()

    def of(self, select: Callable[[Learned], Learned]) -> "Evaluation":
        """The same evaluation of a part of what was learned: of select(learned)."""

        def scores(learned: Learned, key: jax.Array, last: bool) -> dict[str, float]:
            return self.scores(select(learned), key, last)

        def pictures(learned: Learned, seed: int, folder: Path) -> None:
            self.pictures(select(learned), seed, folder)

        return dataclasses.replace(self, scores=scores, pictures=pictures)

    def join(self, *others: "Evaluation") -> "Evaluation":
        """This evaluation and others of the same learned values, with this one's headline.

        All get the same key, so that each gives the figures that it gives alone. No two may give a
        metric of the same name, nor draw into the same file.
        """
        parts = (self, *others)

        def scores(learned: Learned, key: jax.Array, last: bool) -> dict[str, float]:
            return _merged([part.scores(learned, key, last) for part in parts])

        def baselines(key: jax.Array) -> dict[str, float]:
            return _merged([part.baselines(key) for part in parts])

        def pictures(learned: Learned, seed: int, folder: Path) -> None:
            for part in parts:
                part.pictures(learned, seed, folder)

        against = ", ".join(part.against for part in parts if part.against)
        protocol = _merged([dict(part.protocol) for part in parts])
        told = tuple(name for part in parts for name in part.told)
        return Evaluation(self.headline, scores, baselines, pictures, against, protocol, told)

    def drawing(self, more: Pictures) -> "Evaluation":
        """The same evaluation, which draws further pictures first."""

        def pictures(learned: Learned, seed: int, folder: Path) -> None:
            more(learned, seed, folder)
            self.pictures(learned, seed, folder)

        return dataclasses.replace(self, pictures=pictures)

    def at_last(self) -> "Evaluation":
        """The same evaluation, whose scores are dear: they are made at a run's last alone."""

        def scores(learned: Learned, key: jax.Array, last: bool) -> dict[str, float]:
            return self.scores(learned, key, last) if last else {}

        return dataclasses.replace(self, scores=scores)

    def headed(self, name: str, larger_is_better: bool = True) -> "Evaluation":
        """The same evaluation under another headline."""
        return dataclasses.replace(self, headline=Headline(name, larger_is_better))


def _merged(found: list[dict[str, Any]]) -> dict[str, Any]:
    metrics: dict[str, Any] = {}
    for some in found:
        twice = metrics.keys() & some.keys()
        assert not twice, f"two evaluations give {', '.join(sorted(twice))}"
        metrics |= some
    return metrics
