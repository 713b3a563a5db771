"""Whole runs of toys through `train`: killed at every event, extended, from the best, a guest."""

import dataclasses
import functools
import itertools
import json
import logging
import os
import random
import shutil
import signal
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from missing_bits.errors import UserError
from missing_bits.eval.evaluation import Evaluation, Headline
from missing_bits.loop import checkpoint, folder
from missing_bits.loop import train as loop
from missing_bits.loop.checkpoint import digest
from missing_bits.loop.config import RunConfig
from missing_bits.loop.folder import read_rows
from missing_bits.loop.process import Guest
from missing_bits.tests.loop.drive import Drive, SharingLayout
from missing_bits.tests.loop.toys import (
    Chain,
    ChainConfig,
    Regression,
    RegressionConfig,
    Tracker,
    TrackerConfig,
)

TOYS = {
    "regression": (Regression, RegressionConfig(updates=12)),
    "chain": (Chain, ChainConfig(env_steps=12 * 8)),
    "tracker": (Tracker, TrackerConfig(updates=12)),
    "tracker behind": (Tracker, TrackerConfig(updates=12, behind=True)),
}
every_toy = pytest.mark.parametrize("toy", TOYS)
_programs: dict[type, dict[Any, Any]] = {Regression: {}, Chain: {}, Tracker: {}}


@pytest.fixture(autouse=True)
def compiled_once(monkeypatch):
    """All runs of a toy share its programs, and none draws a curve."""

    def layout(seeds, devices):
        return SharingLayout(seeds, devices, _programs[layout.method])

    def resources(self, method, configs, resources, before=loop.Family.__init__):
        # A method of its own programs, or the toy that it is but for how it is judged.
        layout.method = next(toy for toy in reversed(_programs) if issubclass(method, toy))
        before(self, method, configs, resources)

    monkeypatch.setattr(loop.Family, "__init__", resources)
    monkeypatch.setattr(loop, "Layout", layout)
    monkeypatch.setattr(loop.curves, "draw", lambda *_: None)


def run_config(path, unit=1, **settings):
    """Rows every 2 updates, evaluations every 6, checkpoints every 4: calls of two updates."""
    periods = {"log_period": 2 * unit, "eval_period": 6 * unit, "checkpoint_period": 4 * unit}
    return RunConfig(dir=str(path), **periods | settings)


def run(toy, path, process=None, method=None, **settings):
    """Trains a toy in a folder; settings are the run's, or the method's by `config`."""
    found, config = TOYS[toy]
    config = dataclasses.replace(config, **settings.pop("config", {}))
    unit = 8 if toy == "chain" else 1
    return loop.train(
        method or found, config, run_config(path, unit, **settings), name=toy, process=process
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The function that returns the folder of an undisturbed run, made once."""
    made = {}

    def whole(toy, **settings):
        key = (toy, *settings.items())
        if key not in made:
            path = tmp_path_factory.mktemp(toy) / "run"
            made[key] = run(toy, path, **settings)
        return made[key]

    return whole


# What is written.


def test_the_last_line_tells_what_there_is_to_compare():
    """The headline's baselines, or where it has none those of other measures."""
    result = {"exp": "vae", "eval/elbo": -90.0, "eval/kl": 9.0, "eval/log_likelihood": -88.25}
    baselines = {"baseline/mixture_log_likelihood": -110.0}
    assert list(loop._told(result, baselines, "eval/elbo", ())) == [
        "eval/elbo -90",
        "eval/log_likelihood -88.25 (mixture -110)",
    ]
    assert list(loop._told(result, baselines, "eval/log_likelihood", ())) == [
        "eval/log_likelihood -88.25 (mixture -110)"
    ]
    assert list(loop._told({}, {}, "eval/elbo", ())) == ["eval/elbo unknown"]


@every_toy
def test_a_result_holds_scores_the_folder_and_what_was_learned(toy, whole):
    result = whole(toy)
    written = json.loads((result.folder / "result.json").read_text())
    assert result.scores == written
    made, config = TOYS[toy]
    count = [1] * 12 if made is Tracker else [12]
    drive = Drive(made, config, [0], programs=_programs[made]).advance(*count)
    assert digest(result.learned) == digest(drive.learned)
    headline = drive.experiment.evaluation.headline.name
    key = drive.layout.evaluation_key(0, 12)
    expected = drive.experiment.evaluation.scores(drive.learned[0], key, True)
    assert {name: written[name] for name in expected} == expected
    assert written["baseline/nothing"] == 1.0
    assert headline in written["seeds"][0]
    assert (result.folder / "picture.txt").read_text() == "seed 0"
    rows = [row for row in read_rows(result.folder).rows if headline in row]
    assert [row["step"] for row in rows] == [48, 96] if toy == "chain" else [6, 12]
    assert ["eval/dear" in row for row in rows] == [False, True], "only the last one is dear"


def test_pretraining_hands_over_with_the_facts(whole):
    result = whole("regression")
    read = json.loads((result.folder / "encoder" / "seed0.safetensors").read_text())
    assert read["w"] == result.learned[0].params.w.tolist()
    assert (read["exp"], read["step"], read["config"]["updates"]) == ("regression", 12, 12)
    assert read["scores"]["eval/error"] == result.scores["eval/error"]
    assert read["data_digest"] == result.scores["data_digest"]


@pytest.mark.parametrize(("num_seeds", "devices"), [(1, 1), (4, 2)])
def test_rows_are_means_over_their_window(num_seeds, devices, whole):
    """By single updates: `train/third` is there in updates 2, 5, 8, 11, `train/never` in none."""
    result = whole("regression", num_seeds=num_seeds, devices=devices, log_period=4)
    for seed in range(num_seeds):
        drive = Drive(
            Regression, RegressionConfig(updates=12), [seed], programs=_programs[Regression], room=8
        )
        losses = []
        for _ in range(12):
            before = drive.sums[0]["train/loss"].total if losses else 0.0
            drive.advance(1)
            losses.append(float(drive.sums[0]["train/loss"].total - before))
        rows = [row for row in read_rows(result.folder).rows if row.get("seed") == seed]
        rows = [row for row in rows if "train/loss" in row]
        assert [row["step"] for row in rows] == [4, 8, 12]
        means = [np.mean(losses[i : i + 4]) for i in (0, 4, 8)]
        np.testing.assert_allclose([row["train/loss"] for row in rows], means, rtol=1e-4)
        thirds = [losses[2], np.mean([losses[5]]), np.mean([losses[8], losses[11]])]
        np.testing.assert_allclose([row["train/third"] for row in rows], thirds, rtol=1e-3)
        assert not any("train/never" in row for row in rows)


def test_a_figure_that_was_not_there_is_not_in_the_row(whole):
    """Windows of two updates: `train/third` comes in updates 2, 5, 8, 11, so rows 4, 6, 10, 12."""
    rows = [row for row in read_rows(whole("regression").folder).rows if "train/loss" in row]
    assert [row["step"] for row in rows if "train/third" in row] == [4, 6, 10, 12]


@pytest.mark.parametrize("inner_steps", [1, 3, 5])
def test_rows_do_not_depend_on_how_calls_split_updates(inner_steps, whole, outcome):
    whole_run = outcome(whole("regression").folder)
    assert outcome(whole("regression", inner_steps=inner_steps).folder) == whole_run


def test_what_the_host_knows_is_in_the_rows(whole):
    rows = [row for row in read_rows(whole("tracker").folder).rows if "train/loss" in row]
    episodes = [row.get("train/episodes", 0) for row in rows]
    # 18 vector steps of four environments, two of them with episodes of 5 steps, two of 4.
    assert sum(episodes) == 2 * (18 // 5) + 2 * (18 // 4)
    assert 0 in episodes


def test_the_smallest_headline_is_the_best_where_smaller_is_better(tmp_path):
    """A valley: the error is smallest after 8 of 20 updates. Kept: that one and the last two."""
    result = run(
        "regression", tmp_path / "run", method=Valley, config={"updates": 20}, eval_period=4
    )
    kept = {int(path.name) for path in (result.folder / "checkpoints").iterdir()}
    assert kept == {8, 16, 20}


class Valley(Regression):
    """A regression judged by its distance from the eighth update."""

    def __init__(self, config: RegressionConfig, resources: Any) -> None:
        super().__init__(config, resources)

        def scores(learned: Any, key: jax.Array, last: bool) -> dict[str, float]:
            return {"eval/error": abs(float(learned.updates) - 8)}

        self.evaluation = Evaluation(Headline("eval/error", False), scores)


class Early(Regression):
    """A regression that is also evaluated at the start."""

    def __init__(self, config: RegressionConfig, resources: Any) -> None:
        super().__init__(config, resources)
        self.plan = dataclasses.replace(self.plan, early=True)


def test_early_evaluations_come_where_no_period_is_given(outcome, monkeypatch, tmp_path):
    """Before the first update and twice within the first period, whatever is killed."""
    method = {"method": Early}
    given = run("regression", tmp_path / "given", **method)
    assert evaluated(given.folder) == [6, 12]
    straight = run("regression", tmp_path / "straight", eval_period=0, **method)
    assert evaluated(straight.folder) == [0, 1, 2, 3, 6, 9, 12]
    killer = Killer(monkeypatch)
    for event in range(2, 17, 3):
        path = tmp_path / str(event)
        begin = functools.partial(run, "regression", path, eval_period=0, **method)
        assert killer.survives(event, begin) is None
        again = resume("regression", path, eval_period=0, **method)
        assert outcome(again.folder) == outcome(straight.folder), f"event {event}"


def evaluated(path: Path) -> list[int]:
    """The steps of a run's evaluations."""
    return [row["step"] for row in read_rows(path).rows if "eval/error" in row]


# Killed.


class Killed(BaseException):
    """Stands in for a kill: nothing may catch it."""


EVENTS = [  # all that touches the disk; between two of them a kill finds nothing new
    (folder.RunFolder, "write_json"),
    (folder.RunFolder, "append"),
    (folder.RunFolder, "keep_rows"),
    (folder.RunFolder, "set_aside_result"),
    (checkpoint.Checkpoints, "load"),
    (checkpoint.Checkpoints, "save"),
]


class Killer:
    """Raises at the n-th event of a run; nothing is killed where there are fewer."""

    def __init__(self, monkeypatch) -> None:
        self.left = 10**9
        for owner, name in EVENTS:
            monkeypatch.setattr(owner, name, self._watched(getattr(owner, name)))

    def _watched(self, function):
        def watched(*arguments):
            self.left -= 1
            if self.left < 0:
                raise Killed
            return function(*arguments)

        return watched

    def survives(self, event, train):
        """Runs `train` with a kill before the event; the result, or None where it was killed."""
        self.left = event
        try:
            return train()
        except Killed:
            return None
        finally:
            self.left = 10**9


def resume(toy, path, **settings):
    begun = (path / "config.json").exists()
    return run(toy, path, resume=begun, **settings)


@every_toy
def test_killed_at_any_event_and_resumed_it_ends_the_same(
    toy, whole, outcome, monkeypatch, tmp_path
):
    """Parameters, memory, source, window, rows, evaluation: bit for bit."""
    killer = Killer(monkeypatch)
    for event in itertools.count():
        begin = functools.partial(run, toy, tmp_path / str(event))
        if killer.survives(event, begin) is not None:
            break
        result = resume(toy, tmp_path / str(event))
        assert outcome(result.folder) == outcome(whole(toy).folder), f"event {event}"
        assert digest(result.learned) == digest(whole(toy).learned)
        assert (result.folder / "picture.txt").exists()
        shutil.rmtree(result.folder)
    assert event > 12


@pytest.mark.parametrize(
    ("toy", "num_seeds", "devices"),
    [
        *(("chain", 1, 2), ("tracker", 1, 4), ("tracker behind", 1, 2)),
        *(("chain", 4, 2), ("tracker", 4, 1), ("tracker behind", 4, 2), ("regression", 4, 2)),
    ],
)
def test_killed_again_and_again_in_any_layout(
    toy, num_seeds, devices, whole, outcome, monkeypatch, tmp_path
):
    """The session after n kills is killed at its event 3 + 2 n."""
    rows = {"num_seeds": num_seeds, "devices": devices}
    killer = Killer(monkeypatch)
    sessions = 0
    result = None
    while result is None:
        event = 3 + 2 * sessions
        result = killer.survives(event, lambda: resume(toy, tmp_path / "run", **rows))
        sessions += 1
    assert sessions > 3
    assert outcome(result.folder) == outcome(whole(toy, **rows).folder)


class Stopper(Guest):
    """Asks to stop after so many updates."""

    def __init__(self, updates: int) -> None:
        self._left = updates

    @property
    def received(self) -> int:
        """The signal."""
        self._left -= 1
        return signal.SIGTERM if self._left < 0 else 0


@pytest.mark.parametrize("updates", range(11))
def test_stopped_after_any_update_it_saves_and_resumes(updates, whole, outcome, tmp_path, capsys):
    """A tracker makes one update per call."""
    path = tmp_path / "run"
    with pytest.raises(loop.Interrupted) as stop:
        run("tracker", path, Stopper(updates))
    assert stop.value.code == 128 + signal.SIGTERM
    assert "--run.resume" in capsys.readouterr().out
    assert str(updates + 1) in {found.name for found in (path / "checkpoints").iterdir()}
    assert outcome(run("tracker", path, resume=True).folder) == outcome(whole("tracker").folder)


def damage(saved):
    """Cut the largest file of a checkpoint short."""
    files = [path for path in saved.rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    os.truncate(largest, largest.stat().st_size // 2)


@every_toy
def test_a_damaged_checkpoint_falls_back_to_the_same_end(toy, whole, outcome, tmp_path):
    """To the one before, with a warning; where none is whole, nothing is changed."""
    path = shutil.copytree(whole(toy).folder, tmp_path / "run")
    (path / "result.json").unlink()
    kept = sorted((path / "checkpoints").iterdir(), key=lambda one: int(one.name))
    damage(kept[-1])
    with pytest.warns(UserWarning, match="is damaged"):
        result = run(toy, path, resume=True)
    assert outcome(result.folder) == outcome(whole(toy).folder)
    assert digest(result.learned) == digest(whole(toy).learned)
    for one in (path / "checkpoints").iterdir():
        damage(one)
    (path / "result.json").unlink()
    with pytest.raises(loop.UserError, match="None of the"):
        run(toy, path, resume=True)


# What may fail.


@pytest.mark.parametrize("part", ["pictures", "baselines", "encoder", "learning curve"])
def test_what_follows_the_scores_costs_no_finished_run(part, whole, hashes, monkeypatch, tmp_path):
    """A warning with the reason; the scores stand; resumed, it is made."""

    def refuse(*_):
        raise RuntimeError("no display\nat all")

    with monkeypatch.context() as patch:
        if part == "encoder":
            patch.setattr(Regression, "hand_over", refuse)
        elif part == "learning curve":
            patch.setattr(loop.curves, "draw", refuse)
        else:
            before = Regression.__init__

            def init(self, config, resources):
                before(self, config, resources)
                self.evaluation = dataclasses.replace(self.evaluation, **{part: refuse})

            patch.setattr(Regression, "__init__", init)
        with pytest.warns(UserWarning, match=f"{part}: could not be made .*no display at all"):
            result = run("regression", tmp_path / "run")
    expected = whole("regression").scores
    written = json.loads((result.folder / "result.json").read_text())
    assert written["missing"] == [part]
    assert written["eval/error"] == expected["eval/error"]
    again = run("regression", result.folder, resume=True)
    facts = ("eval/error", "baseline/nothing", "digest", "seeds", "data_digest", "updates")
    assert {name: again.scores[name] for name in facts} == {name: expected[name] for name in facts}
    assert "missing" not in again.scores
    assert again.scores["wall_seconds"] == written["wall_seconds"], "it is that of the training"
    assert (result.folder / "picture.txt").exists()
    assert (result.folder / "encoder" / "seed0.safetensors").exists()


class Spoiled(Regression):
    """A regression whose penalty is none from the fifth update on: the loss is, and parameters."""

    def step(self, state: Any, batch: Any, key: jax.Array) -> tuple[Any, Any]:
        state, logged = super().step(state, batch, key)
        factor = jnp.where(state.updates > self.after, jnp.nan, 1.0)
        if self.spoils == "loss":
            return state, jax.tree.map(lambda x: x * factor, logged)
        params = jax.tree.map(lambda x: x * factor, state.params)
        return state._replace(params=params), {"train/constant": jnp.float32(1)}


@pytest.mark.parametrize("spoils", ["loss", "parameters"])
def test_what_is_not_finite_stops_a_run_before_it_is_saved(spoils, monkeypatch, tmp_path):
    method = type("Spoiled", (Spoiled,), {"spoils": spoils, "after": 5})
    _programs[method] = {}
    with pytest.raises(
        loop.UserError, match=r"is nan at step .*diverged.*Continue .*--run\.on-nan=warn"
    ):
        run("regression", tmp_path / "run", method=method)
    saved = [int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir()]
    assert saved == [4]
    with pytest.warns(UserWarning, match="is nan at step .* It goes on"):
        result = run("regression", tmp_path / "run", method=method, resume=True, on_nan="warn")
    assert result.scores["updates"] == 12
    json.loads((result.folder / "metrics.jsonl").read_text().splitlines()[-1], parse_constant=int)
    del _programs[method]


def test_rows_that_were_lost_are_told_of_when_the_run_is_resumed(whole, tmp_path):
    path = shutil.copytree(whole("chain").folder, tmp_path / "run")
    (path / "metrics.jsonl").unlink()
    (path / "result.json").unlink()
    with pytest.warns(UserWarning, match=r"metrics\.jsonl is damaged: 8 of 8 rows"):
        result = run("chain", path, resume=True)
    assert digest(result.learned) == digest(whole("chain").learned)


@every_toy
def test_evaluating_and_saving_leave_training_as_it_is(toy, whole, tmp_path):
    """However often a run is evaluated, logged and saved, it learns the same, to the last bit."""
    unit = 8 if toy == "chain" else 1
    often = {f"{name}_period": unit for name in ("log", "eval", "checkpoint")}
    result = run(toy, tmp_path / "run", **often)
    assert digest(result.learned) == digest(whole(toy).learned)
    assert result.scores["digest"] == whole(toy).scores["digest"]
    assert len(read_rows(result.folder).rows) == 2 * 12


def test_resuming_a_finished_run_changes_nothing_and_returns_it(whole, hashes, tmp_path, capsys):
    path = shutil.copytree(whole("chain").folder, tmp_path / "run")
    before = hashes(path)
    result = run("chain", path, resume=True)
    assert "finished" in capsys.readouterr().out
    after = hashes(path)
    assert {name: after[name] for name in before} == before
    assert result.scores == whole("chain").scores
    assert digest(result.learned) == digest(whole("chain").learned)


# From the best.


@pytest.mark.parametrize("finished", [True, False])
def test_from_the_best_goes_on_where_the_headline_was_best(finished, outcome, tmp_path):
    settings = {"method": Valley, "config": {"updates": 20}, "eval_period": 4}
    result = run("regression", tmp_path / "run", **settings)
    before = outcome(result.folder)
    learned = digest(result.learned)
    if not finished:
        (result.folder / "result.json").unlink()
    again = run("regression", result.folder, resume=True, start="best", **settings)
    assert outcome(again.folder) == before
    assert digest(again.learned) == learned
    aside = {int(path.name) for path in (again.folder / "checkpoints-after-best").iterdir()}
    assert aside == {16, 20}


# Extended.


@every_toy
def test_a_finished_run_goes_on_with_a_larger_budget(toy, whole, tmp_path):
    """As if it had had it from the start; config.json says so, and the result before is kept."""
    path = shutil.copytree(whole(toy).folder, tmp_path / "run")
    budget = {"env_steps": 20 * 8} if toy == "chain" else {"updates": 20}
    result = run(toy, path, resume=True, config=budget)
    straight = run(toy, tmp_path / "straight", config=budget)
    assert digest(result.learned) == digest(straight.learned)
    config = json.loads((path / "config.json").read_text())
    assert budget.items() <= config["config"].items()
    assert json.loads((path / "result-before.json").read_text()) == whole(toy).scores
    unit = next(iter(budget))
    assert result.scores[unit] == budget[unit]
    steps = [row["step"] for row in read_rows(path).rows if "train/loss" in row]
    assert steps == [row["step"] for row in read_rows(straight.folder).rows if "train/loss" in row]


class Larger(Regression):
    """With an array more than before."""

    def init(self, key):
        state = super().init(key)
        return state._replace(params=(state.params, jnp.zeros(3)))


class Wider(Regression):
    """With an array of another size."""

    def init(self, key):
        return super().init(key)._replace(center=jnp.zeros(4))


@pytest.mark.parametrize("method", [Larger, Wider])
def test_a_checkpoint_of_another_version_is_refused_and_left_alone(
    method, whole, hashes, monkeypatch, tmp_path
):
    monkeypatch.setitem(_programs, method, {})
    path = shutil.copytree(whole("regression").folder, tmp_path / "run")
    before = hashes(path / "checkpoints")
    with pytest.raises(UserError, match="another version wrote it") as raised:
        run("regression", path, method=method, resume=True, config={"updates": 20})
    assert "--run.resume" not in str(raised.value)
    assert hashes(path / "checkpoints") == before


def test_killed_while_it_is_extended_it_goes_on_to_the_new_end(
    whole, outcome, monkeypatch, tmp_path
):
    killer = Killer(monkeypatch)
    longer = {"config": {"updates": 16}}
    begun = whole("regression").folder
    expected = run(
        "regression", shutil.copytree(begun, tmp_path / "whole"), resume=True, **longer
    ).folder
    for event in itertools.count():
        path = shutil.copytree(begun, tmp_path / str(event))
        extend = functools.partial(run, "regression", path, resume=True, **longer)
        if killer.survives(event, extend) is not None:
            break
        assert outcome(extend().folder) == outcome(expected), f"event {event}"
        assert json.loads((path / "config.json").read_text())["config"]["updates"] == 16
    assert event > 8


# Somebody else's process.


def surroundings() -> dict[str, Any]:
    """What a run might leave changed in a process."""
    loggers = [logging.getLogger(), *map(logging.getLogger, list(logging.root.manager.loggerDict))]
    return {
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        "environ": dict(os.environ),
        "warnings": list(warnings.filters),
        "showwarning": warnings.showwarning,
        "logging": {one.name: (one.level, one.disabled, list(one.handlers)) for one in loggers},
        "unraisable": sys.unraisablehook,
        "excepthook": (sys.excepthook, threading.excepthook),
        "jax": dict(jax.config.values),
        "folder": Path.cwd(),
        "streams": (sys.stdout, sys.stderr),
        "random": random.getstate(),
    }


@pytest.mark.parametrize("ends", ["finished", "stopped", "refused"])
def test_a_guest_leaves_the_process_as_it_was(ends, whole, tmp_path, monkeypatch):
    whole("regression")  # all that is imported changes what there is
    before = surroundings()
    if ends == "stopped":
        with pytest.raises(loop.Interrupted):
            run("regression", tmp_path / "run", Stopper(2))
    elif ends == "refused":
        (tmp_path / "file").write_text("")
        with pytest.raises(loop.UserError):
            run("regression", tmp_path / "file")
    else:
        run("regression", tmp_path / "run")
    after = surroundings()
    assert {name: after[name] for name in before} == before


def test_a_guest_works_off_the_main_thread(whole, outcome, tmp_path):
    found = []
    thread = threading.Thread(target=lambda: found.append(run("chain", tmp_path / "run")))
    thread.start()
    thread.join()
    assert outcome(found[0].folder) == outcome(whole("chain").folder)


def test_a_host_source_is_closed(monkeypatch, tmp_path):
    sources = []
    source = Tracker.source
    monkeypatch.setattr(
        Tracker, "source", lambda *arguments: sources.append(source(*arguments)) or sources[-1]
    )
    run("tracker", tmp_path / "run")
    with pytest.raises(loop.Interrupted):
        run("tracker", tmp_path / "stopped", Stopper(2))
    assert [one.closed for one in sources] == [True, True]
