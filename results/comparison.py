"""Runs compared: grouped by their settings, with statistics over seeds, and what to know first.

Only finished runs are compared. Runs of one experiment with the same settings and data are a
group, whose seeds are put together; groups with the same environment or data set and the same
headline are compared with each other. Seeds of agents are unpaired: nothing but a number is common
to them. Seeds of methods that learn from the same data are paired where groups have the same ones.
"""

import json
import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from missing_bits.errors import require
from missing_bits.eval import statistics
from missing_bits.eval.statistics import Estimate, Profile
from missing_bits.loop.folder import read_rows
from missing_bits.pictures.comparison import Curve
from missing_bits.results import protocols, references, settings
from missing_bits.results.folders import Headline, Run, number

FEW = 5  # seeds, below which intervals are too narrow
# Options that say how a run is judged, rather than how it learns.
_PROTOCOL = re.compile(r"(.*\.)?((eval|probe)-.*|env-kwargs|wrappers)")
_NAMED = 8  # letters or values in one note
_THRESHOLDS = np.linspace(-0.1, 1.2, 131)


@dataclass(frozen=True)
class Group:
    """Runs with the same settings."""

    letter: str
    """Its name in the comparison: A, B, ..."""
    label: str
    """What distinguishes it from the others of its task."""
    runs: tuple[Run, ...]
    seeds: Mapping[int, float]
    """The headline of each seed."""
    mean: Estimate
    middle: Estimate
    """The interquartile mean."""
    difference: Estimate | None = None
    """Of the mean from that of the reference; None for the reference itself."""
    better: Estimate | None = None
    """The probability that a run is better than one of the reference."""
    paired: bool = False
    """Whether these two are of pairs of seeds."""


@dataclass(frozen=True)
class Task:
    """Groups that can be compared."""

    name: str
    headline: Headline
    unit: str
    common: str
    """The options that no group has by default, and all have the same."""
    groups: tuple[Group, ...]
    """The best first."""

    @property
    def reference(self) -> Group:
        """The group that the others are compared with."""
        return next(group for group in self.groups if group.difference is None)

    @property
    def protocols(self) -> dict[str, str]:
        """How scores came about, and the letters of the groups of which that is so; groups that do
        not say are left out."""
        found: dict[str, list[str]] = {}
        for group in self.groups:
            protocol = group.runs[0].protocol
            if protocol:
                said = protocols.words({**protocol, "seeds": list(group.seeds)})
                found.setdefault(said, []).append(group.letter)
        return {said: _some(letters) for said, letters in found.items()}


class Effect(NamedTuple):
    """A headline against an option of a sweep."""

    sweep: Path
    task: str
    headline: Headline
    option: str
    points: Mapping[str, Sequence[float]]
    """The headlines of the trials with each value of the option, in the values' order."""


@dataclass(frozen=True)
class Comparison:
    """What is known of several runs together."""

    notes: tuple[str, ...]
    """What to know before reading a figure."""
    tasks: tuple[Task, ...]
    profiles: Mapping[str, Profile]
    """By settings, over all tasks with reference scores; thresholds are `thresholds`."""
    about_profiles: str
    """What they are made of, or why there are none."""
    effects: tuple[Effect, ...]

    @property
    def thresholds(self) -> np.ndarray:
        """Normalized scores at which profiles are drawn, [T]."""
        return _THRESHOLDS


def compare(runs: Sequence[Run], baseline: Path | None = None) -> Comparison:
    """Compares runs.

    Args:
      runs: in the order in which they were named.
      baseline: the folder of the run whose group others are compared with; by default, in each
        task, the group of the first run.

    Raises:
      UserError: none is finished, or the baseline is not among those that are.
    """
    finished = comparable(runs)
    require(
        bool(finished),
        f"none of {len(runs)} runs is finished with a score: there is nothing to compare. "
        f"They are {_counted(run.state for run in runs)}; python run.py runs says why.",
    )
    resolved = baseline.resolve() if baseline else None
    require(
        resolved is None or any(run.folder.resolve() == resolved for run in finished),
        f"--baseline={baseline} is not the folder of a finished run among those compared.",
    )
    by_task = _by(finished, lambda run: (run.task, run.headline))
    letters = _letters()
    notes = _left_out(runs, finished)
    tasks = []
    for (name, headline), members in by_task.items():
        task = _task(name, headline, members, resolved, letters)
        tasks.append(task)
        notes += _mixed(task)
    notes += _of_all(tasks)
    profiles, about = _profiles(tasks)
    return Comparison(tuple(notes), tuple(tasks), profiles, about, tuple(_effects(finished)))


def comparable(runs: Sequence[Run]) -> list[Run]:
    """The runs that are finished with a score."""
    return [run for run in runs if run.state == "finished" and run.headline and run.seeds]


def curve(group: Group, task: Task) -> Curve | None:
    """The learning curve of a group: mean and interval over its seeds, where all have a figure."""
    seeds: dict[int, dict[int, float]] = {}
    for run in group.runs:
        if not (run.folder / "metrics.jsonl").is_file():
            continue
        for row in read_rows(run.folder).rows:
            seed = row.get("seed")
            value = number(row.get(task.headline.name))
            if type(seed) is int and seed in group.seeds and value is not None:
                seeds.setdefault(seed, {}).setdefault(row["step"], value)
    steps = sorted(set.intersection(*map(set, seeds.values()))) if seeds else []
    if not steps:
        return None
    values = np.array([[points[step] for step in steps] for points in seeds.values()])  # [n, P]
    ends = np.array([statistics.interval(column) for column in values.T])  # [P, 2]
    mean = values.mean(axis=0)
    return Curve(
        group.letter, group.label, len(seeds), np.array(steps), mean, ends[:, 0], ends[:, 1]
    )


def _task(
    name: str,
    headline: Headline,
    runs: Sequence[Run],
    baseline: Path | None,
    letters: Iterable[str],
) -> Task:
    """The groups of a task."""
    members = list(_by(runs, _identity).values())
    scores = [_seeds(group) for group in members]
    is_baseline = [any(run.folder.resolve() == baseline for run in group) for group in members]
    first = is_baseline.index(True) if any(is_baseline) else 0
    sign = -1 if headline.larger_is_better else 1
    order = sorted(range(len(members)), key=lambda i: sign * np.mean(list(scores[i].values())))
    labels, common = _labels(members)
    groups = []
    for i, letter in zip(order, letters, strict=False):
        values = list(scores[i].values())
        mean = statistics.estimate(values)
        middle = statistics.estimate(values, statistics.interquartile_mean)
        group = Group(letter, labels[i], tuple(members[i]), scores[i], mean, middle)
        if i != first:
            compared = _against(scores[i], scores[first], headline, members[i], members[first])
            group = Group(letter, labels[i], tuple(members[i]), scores[i], mean, middle, *compared)
        groups.append(group)
    return Task(name, headline, runs[0].unit, common, tuple(groups))


def _against(
    scores: Mapping[int, float],
    reference: Mapping[int, float],
    headline: Headline,
    runs: Sequence[Run],
    others: Sequence[Run],
) -> tuple[Estimate, Estimate, bool]:
    """Difference and probability of improvement, and whether they are of pairs."""
    same_data = bool(runs[0].data_digest) and runs[0].data_digest == others[0].data_digest
    paired = same_data and len(scores) > 1 and scores.keys() == reference.keys()
    values = [scores[seed] for seed in sorted(scores)]
    against = [reference[seed] for seed in sorted(reference)]
    better = statistics.improvement(values, against, headline.larger_is_better, paired)
    return statistics.difference(values, against, paired), better, paired


def _identity(run: Run) -> tuple[str, str, str, bool]:
    """What runs of a group have in common.

    Seeds on which a sweep chose its winner are not put together with those that confirm it.
    """
    return run.exp, json.dumps(run.config, sort_keys=True), run.data_digest, run.confirms


def _seeds(runs: Sequence[Run]) -> dict[int, float]:
    """The headline of each seed of a group; one that several runs have counts once."""
    scores: dict[int, float] = {}
    for run in runs:
        for seed, score in run.seeds.items():
            scores.setdefault(seed, score)
    return dict(sorted(scores.items()))


def _labels(groups: Sequence[Sequence[Run]]) -> tuple[list[str], str]:
    """What distinguishes each group, and what all groups have otherwise than by default."""
    firsts = [group[0] for group in groups]
    names = settings.differing(firsts)
    chosen = [settings.changed(run) for run in firsts]
    common = {name: value for name, value in chosen[0].items() if name not in names}
    several = len({run.exp for run in firsts}) > 1
    unknown = any(run.options is None for run in firsts)
    labels = []
    for run, own in zip(firsts, chosen, strict=True):
        mine = {name: run.value(name) for name in names if unknown or name in own}
        said = settings.words({n: v for n, v in mine.items() if v is not None})
        words = [run.exp if several else "", said or "defaults", "confirmed" * run.confirms]
        labels.append(" ".join(filter(None, words)))
    if not several and len(groups) == 1:
        labels = [firsts[0].exp]
    return labels, settings.words(common)


# What to know first.


def _left_out(runs: Sequence[Run], finished: Sequence[Run]) -> list[str]:
    used = {run.folder for run in finished}
    out = [run for run in runs if run.folder not in used]
    if not out:
        return []
    states = _counted("without a score" if run.state == "finished" else run.state for run in out)
    return [f"Left out of {len(runs)} runs: {states}."]


def _mixed(task: Task) -> list[str]:
    """Whether the groups of a task had the same budget, data and protocol."""

    def by_value(of: Callable[[Run], str]) -> str:
        """ "100 (A, C), 50 (B)"; empty where all are the same."""
        values: dict[str, list[str]] = {}
        for group in task.groups:
            for value in dict.fromkeys(map(of, group.runs)):
                values.setdefault(value, []).append(group.letter)
        said = [f"{value or 'none'} ({_some(who)})" for value, who in values.items()]
        return _some(said) if len(said) > 1 else ""

    notes = []
    budgets = by_value(lambda run: f"{run.done or 0:,} {run.unit.replace('_', ' ')}")
    if budgets:
        notes.append(f"{task.name}: budgets differ: {budgets}.")
    data = by_value(lambda run: run.data_digest[:12])
    if data:
        notes.append(f"{task.name}: the data differ, by their hashes: {data}.")
    runs = [run for group in task.groups for run in group.runs]
    if all(run.protocol for run in runs):
        for entry in protocols.differing([run.protocol for run in runs]):
            said = protocols.name(entry)
            values = by_value(
                lambda run, entry=entry: protocols.value(entry, run.protocol.get(entry))
            )
            notes.append(f"{task.name}: the protocol differs: {said} is {values}.")
        return notes
    for name in settings.differing(runs):
        if _PROTOCOL.fullmatch(name):
            values = by_value(lambda run, name=name: settings.text(run.value(name)))
            notes.append(f"{task.name}: the protocol differs: --{name} is {values}.")
    return notes


def _of_all(tasks: Sequence[Task]) -> list[str]:
    """What to know of versions, devices, headlines and numbers of seeds."""
    runs = [run for task in tasks for group in task.groups for run in group.runs]
    notes = []
    for name in dict.fromkeys(name for run in runs for name in run.versions):
        found = Counter(run.versions.get(name, "unknown") for run in runs)
        if len(found) > 1:
            notes.append(f"versions differ: {name} {_said(found)}.")
    devices = Counter(run.devices or "unknown" for run in runs)
    if len(devices) > 1:
        notes.append(f"devices differ: {_said(devices)}.")
    for name, count in Counter(task.name for task in tasks).items():
        if count > 1:
            notes.append(f"{name}: headlines differ, so that there are {count} tables of it.")
    groups = [group for task in tasks for group in task.groups]
    twice = [g.letter for g in groups if sum(len(run.seeds) for run in g.runs) > len(g.seeds)]
    if twice:
        notes.append(f"{_some(twice)}: several runs have the same seed; the first one counts.")
    differ = [group.letter for group in groups if _disagrees(group)]
    if differ:
        notes.append(f"{_some(differ)}: the same settings and seed reached different figures.")
    few = [group.letter for group in groups if len(group.seeds) < FEW]
    if few:
        notes.append(
            f"{_some(few)}: fewer than {FEW} seeds, whose intervals are too narrow, or none."
        )
    return notes


def _disagrees(group: Group) -> bool:
    """Whether a seed that several runs have reached different figures in them."""
    return any(
        not np.isclose(score, group.seeds[seed], rtol=1e-3)
        for run in group.runs
        for seed, score in run.seeds.items()
    )


def _some(words: Sequence[str]) -> str:
    """ "A, B, C", the first of many."""
    left = len(words) - _NAMED
    return ", ".join(words[:_NAMED]) + (f" and {left} more" if left > 0 else "")


def _counted(words: Iterable[str]) -> str:
    """ "3 failed, 1 running"."""
    return ", ".join(f"{count} {word}" for word, count in Counter(words).items())


def _said(found: Mapping[str, int]) -> str:
    """ "0.10 (3 runs), 0.12 (1 run)"."""
    return ", ".join(
        f"{value} ({count} run{'s' if count > 1 else ''})" for value, count in found.items()
    )


# Over tasks, and over options.


def _profiles(tasks: Sequence[Task]) -> tuple[dict[str, Profile], str]:
    """Performance profiles of settings that ran on all tasks with reference scores."""
    scored = [task for task in tasks if any(references.of(group.runs[0]) for group in task.groups)]
    if not scored:
        known = ", ".join(references.REFERENCES)
        return {}, (
            "No performance profile: it needs reference scores of random and good play, which are "
            f"stated for the returns of {known}."
        )
    names = ", ".join(task.name for task in scored)
    groups = [group for task in scored for group in task.groups]
    if any(run.options is None for group in groups for run in group.runs):
        return {}, (
            "No performance profile: runs of an older version do not say which settings are the "
            "same on all tasks."
        )
    chosen = [settings.changed(group.runs[0]) for group in groups]
    common = [name for name in chosen[0] if all(name in own for own in chosen)]
    common = [name for name in common if all(own[name] == chosen[0][name] for own in chosen)]
    scores: dict[str, dict[str, list[float]]] = {}
    for task in scored:
        for group in task.groups:
            run = group.runs[0]
            reference = references.of(run)
            if reference is None:
                continue
            own = {n: value for n, value in settings.changed(run).items() if n not in common}
            words = [run.exp, settings.words(own), "confirmed" * run.confirms]
            label = " ".join(filter(None, words))
            mine = [references.normalized(score, reference) for score in group.seeds.values()]
            scores.setdefault(label, {}).setdefault(task.name, []).extend(mine)
    everywhere = {
        label: list(mine.values()) for label, mine in scores.items() if len(mine) == len(scored)
    }
    if not everywhere:
        return {}, f"No performance profile: no settings ran on all of {names}."
    about = (
        f"Normalized returns on {names}: 0 is random play, 1 what Gymnasium calls solved "
        f"({'; '.join(_stated(task.name) for task in scored)})."
    )
    profiles = {
        label: statistics.performance_profile(mine, _THRESHOLDS)
        for label, mine in everywhere.items()
    }
    return profiles, about


def _stated(name: str) -> str:
    reference = references.REFERENCES[name]
    return f"{name}: {reference.random:g} and {reference.good:g}"


def _effects(runs: Sequence[Run]) -> list[Effect]:
    """The headline against each option that differs between the runs of a sweep."""
    of_sweeps = [run for run in runs if run.sweep is not None and run.score is not None]
    found = []
    for (sweep, task, headline), members in _by(
        of_sweeps, lambda run: (run.sweep, run.task, run.headline)
    ).items():
        for option in settings.differing(members):
            tried = [(run.value(option), run.score) for run in members]
            points: dict[str, list[float]] = {}
            for value, score in sorted(tried, key=lambda pair: _order(pair[0])):
                points.setdefault(settings.text(value), []).append(score)
            found.append(Effect(sweep, task, headline, option, points))
    return found


def _order(value: Any) -> tuple[bool, float, str]:
    """Numbers by their size, before texts by the alphabet."""
    is_number = isinstance(value, int | float)
    return not is_number, float(value) if is_number else 0.0, settings.text(value)


def _by(runs: Iterable[Run], key: Callable[[Run], Any]) -> dict[Any, list[Run]]:
    found: dict[Any, list[Run]] = {}
    for run in runs:
        found.setdefault(key(run), []).append(run)
    return found


def _letters() -> Iterable[str]:
    """A to Z, then AA, AB, ..."""
    yield from string.ascii_uppercase
    for before in _letters():
        for letter in string.ascii_uppercase:
            yield before + letter
