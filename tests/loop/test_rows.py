"""Several runs as rows of one program: each is what it would be alone, with a folder of its own."""

import dataclasses
import json
import signal

import numpy as np
import pytest

from missing_bits.errors import UserError
from missing_bits.loop.config import RunConfig
from missing_bits.loop.folder import read_rows
from missing_bits.loop.member import Member
from missing_bits.loop.process import Guest
from missing_bits.loop.train import Interrupted, train, train_rows
from missing_bits.tests.loop.toys import Chain, ChainConfig, Regression, RegressionConfig

REGRESSION = [
    RegressionConfig(updates=24, step_size=size, penalty=penalty)
    for size, penalty in ((0.1, 0.01), (0.02, 0.01), (0.1, 0.5), (0.05, 0.0))
]
CHAIN = [ChainConfig(env_steps=160, step_size=size) for size in (0.5, 0.1, 0.3)]


def members(folder, configs, seeds=1, **options):
    """The runs, as they are begun or resumed."""
    found = []
    for number, config in enumerate(configs):
        path = folder / f"{number:04d}"
        resume = (path / "config.json").exists()
        run = RunConfig(dir=str(path), seed=10 * number, num_seeds=seeds, resume=resume, **options)
        found.append(Member("toy", config, run, path, "go on", folder))
    return found


def rows_of(folder, number):
    """The rows of a run, but for the clock."""
    rows = read_rows(folder / f"{number:04d}").rows
    return [{n: v for n, v in row.items() if not n.startswith("time/")} for row in rows]


def result_of(folder, number):
    return json.loads((folder / f"{number:04d}" / "result.json").read_text())


def ended(folder, number):
    file = folder / f"{number:04d}" / "ended.json"
    return json.loads(file.read_text()) if file.exists() else None


def close(left, right):
    """Whether two rows of metrics agree but for rounding."""
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert value == pytest.approx(right[name], rel=1e-4, abs=1e-5), name


@pytest.mark.parametrize(
    ("method", "configs", "seeds", "devices"),
    [(Regression, REGRESSION, 1, 1), (Regression, REGRESSION, 2, 4), (Chain, CHAIN, 2, 2)],
)
def test_each_is_what_it_would_be_alone(method, configs, seeds, devices, tmp_path):
    together = tmp_path / "together"
    train_rows(method, members(together, configs, seeds, devices=devices), together)
    for number, config in enumerate(configs):
        run = RunConfig(dir=str(tmp_path / f"{number}"), seed=10 * number, num_seeds=seeds)
        alone = train(method, config, run, name="toy")
        found = result_of(together, number)
        assert found["exp"] == "toy"
        assert found["seed"] == 10 * number
        for mine, other in zip(found["seeds"], alone.scores["seeds"], strict=True):
            close(mine, other)
        for mine, other in zip(
            rows_of(together, number), rows_of(tmp_path, 0) or _rows(alone), strict=True
        ):
            close(mine, other)
        told = json.loads((together / f"{number:04d}" / "config.json").read_text())
        assert told["config"]["step_size"] == config.step_size
        assert (together / f"{number:04d}" / "picture.txt").read_text() == f"seed {10 * number}"
    if method is Regression:
        handed = (together / "0002" / "encoder" / "seed20.safetensors").read_text()
        assert json.loads(handed)["config"]["penalty"] == 0.5


def _rows(result):
    return [
        {n: v for n, v in row.items() if not n.startswith("time/")}
        for row in read_rows(result.folder).rows
    ]


class Stops(Guest):
    """A process that is told to stop at its n-th look."""

    def __init__(self, looks):
        self._looks = looks

    @property
    def received(self):
        self._looks -= 1
        return signal.SIGTERM if self._looks <= 0 else 0


def drop_worst(step, scores):
    """A judge: at one moment it gives up the two that are farthest."""
    if step != 12 or len(scores) < 4:
        return {}
    worst = sorted(scores, key=scores.get)[-2:]
    return {name: f"pruned with {scores[name]:.3g}" for name in worst}


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    """Four runs of which two are given up half way."""
    folder = tmp_path_factory.mktemp("pruned")
    train_rows(Regression, members(folder, REGRESSION), folder, drop_worst)
    return folder


def test_runs_that_are_given_up_say_so_and_the_others_end_as_if_alone(pruned, tmp_path):
    states = [ended(pruned, number) for number in range(4)]
    dropped = [number for number in range(4) if states[number]]
    assert len(dropped) == 2
    for number in range(4):
        rows = rows_of(pruned, number)
        alone = train(
            Regression,
            REGRESSION[number],
            RunConfig(dir=str(tmp_path / str(number)), seed=10 * number),
        )
        expected = _rows(alone)
        if number in dropped:
            assert states[number]["state"] == "pruned"
            assert states[number]["step"] == 12
            assert states[number]["why"].startswith("pruned with")
            assert not (pruned / f"{number:04d}" / "result.json").exists()
            expected = [row for row in expected if row["step"] <= 12]
        else:
            close(result_of(pruned, number)["seeds"][0], alone.scores["seeds"][0])
        assert len(rows) == len(expected)
        for mine, other in zip(rows, expected, strict=True):
            close(mine, other)


@pytest.mark.parametrize("looks", [1, 2, 5])
def test_stopped_and_gone_on_with_they_end_the_same_bits(looks, pruned, tmp_path):
    with pytest.raises(Interrupted):
        train_rows(Regression, members(tmp_path, REGRESSION), tmp_path, drop_worst, Stops(looks))
    states = [ended(tmp_path, number) for number in range(4)]
    assert {state["state"] for state in states} <= {"stopped", "pruned"}
    assert all(state["resume"] == "go on" for state in states)
    train_rows(Regression, members(tmp_path, REGRESSION), tmp_path, drop_worst)
    same = ("digest", "eval/error", "seeds", "baseline/nothing")
    for number in range(4):
        assert rows_of(tmp_path, number) == rows_of(pruned, number)
        assert (ended(tmp_path, number) is None) == (ended(pruned, number) is None)
        if ended(pruned, number) is None:
            mine, other = result_of(tmp_path, number), result_of(pruned, number)
            assert [mine[name] for name in same] == [other[name] for name in same]


def test_killed_before_a_folder_says_so_a_run_stays_given_up(pruned, tmp_path):
    """The checkpoint knows who was given up: the moment after it was written may be the last."""
    train_rows(Regression, members(tmp_path, REGRESSION), tmp_path, drop_worst)
    gone = [number for number in range(4) if ended(tmp_path, number)]
    with pytest.raises(Interrupted):  # again, up to the moment
        train_rows(
            Regression,
            members(tmp_path / "again", REGRESSION),
            tmp_path / "again",
            drop_worst,
            Stops(2),
        )
    for number in gone:
        (tmp_path / f"{number:04d}" / "ended.json").unlink()
    train_rows(Regression, members(tmp_path, REGRESSION), tmp_path, drop_worst)
    assert [
        number for number in range(4) if (tmp_path / f"{number:04d}" / "result.json").exists()
    ] == [number for number in range(4) if number not in gone]


def test_a_run_that_diverges_stops_alone(tmp_path):
    configs = [REGRESSION[0], dataclasses.replace(REGRESSION[0], step_size=1e20), REGRESSION[1]]
    train_rows(Regression, members(tmp_path, configs), tmp_path)
    assert ended(tmp_path, 1)["state"] == "failed"
    assert "step" in ended(tmp_path, 1)["why"]
    assert not (tmp_path / "0001" / "result.json").exists()
    for number in (0, 2):
        assert ended(tmp_path, number) is None
        assert np.isfinite(result_of(tmp_path, number)["eval/error"])
    rows = (tmp_path / "0001" / "metrics.jsonl").read_text()
    train_rows(Regression, members(tmp_path, configs), tmp_path)  # nothing is left to do
    assert (tmp_path / "0001" / "metrics.jsonl").read_text() == rows


def test_all_that_diverge_are_an_error(tmp_path):
    configs = [dataclasses.replace(one, step_size=1e20) for one in REGRESSION[:2]]
    with pytest.raises(UserError, match="has diverged"):
        train_rows(Regression, members(tmp_path, configs), tmp_path)
    assert [ended(tmp_path, number)["state"] for number in range(2)] == ["failed", "failed"]


def test_one_of_them_is_not_resumed_alone(pruned):
    config = REGRESSION[0]
    run = RunConfig(dir=str(pruned / "0000"), resume=True)
    with pytest.raises(UserError, match="row of a program that others share"):
        train(Regression, config, run, name="toy")


def test_others_numbers_compile_nothing(tmp_path):
    traces = []

    class Counting(Regression):
        def step(self, state, batch, key):
            traces.append(1)
            return super().step(state, batch, key)

    train_rows(Counting, members(tmp_path / "one", REGRESSION[:1] * 2), tmp_path / "one")
    once = len(traces)
    traces.clear()
    train_rows(Counting, members(tmp_path / "four", REGRESSION), tmp_path / "four")
    assert len(traces) == once
