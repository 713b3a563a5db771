"""Runs as their folders hold them: what they are, whatever has been done to their files."""

import fcntl
import itertools
import json
import os
import subprocess
import sys

import pytest

from missing_bits.errors import UserError
from missing_bits.results import folders, settings, table
from missing_bits.tests.results.written import write


def only(place):
    """The one run in a place."""
    (run,) = folders.find([str(place)])
    return run


def test_a_finished_run_says_what_it_reached(tmp_path):
    folder = write(tmp_path / "a", [400.0, 500.0], seed=3, learning_rate=1e-3)
    run = only(tmp_path)
    assert (run.folder, run.state, run.why) == (folder, "finished", "")
    assert (run.exp, run.task, run.options) == ("dqn", "CartPole-v1", {"learning-rate": 1e-3})
    assert (run.done, run.budget, run.unit) == (1000, 1000, "env_steps")
    assert run.headline == ("eval/return_mean", True)
    assert (run.score, run.low, run.high) == (450.0, 400.0, 500.0)
    assert run.seeds == {3: 400.0, 4: 500.0}
    assert run.seconds == 12.5


def test_a_running_run_is_held(tmp_path):
    folder = write(tmp_path / "a", None, step=200)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert only(folder).state == "running"
    killed = only(folder)
    assert killed.state == "killed"
    assert "gone" in killed.why


@pytest.mark.parametrize("state", ["stopped", "failed", "pruned"])
def test_a_run_that_ended_early_says_why(state, tmp_path):
    ended = {"state": state, "why": "it was time", "step": 240, "resume": "python run.py"}
    run = only(write(tmp_path / "a", None, ended=ended))
    assert (run.state, run.why, run.done, run.score) == (state, "it was time", 240, None)


def test_what_could_not_be_made_is_told(tmp_path):
    run = only(write(tmp_path / "a", result={"missing": ["baselines", "pictures"]}))
    assert (run.state, run.why) == ("finished", "not made: baselines, pictures")


@pytest.mark.parametrize(
    ("seeds", "rows", "score"),
    [
        (1, [{"step": 100, "seed": 0, "eval/return_mean": 7.5}, {"step": 120, "seed": 0}], 7.5),
        # Of several seeds the mean counts, which has no seed of its own.
        (
            2,
            [
                {"step": 120, "seed": 0, "eval/return_mean": 1.0},
                {"step": 120, "seed": 1, "eval/return_mean": 2.0},
                {"step": 120, "eval/return_mean": 1.5},
            ],
            1.5,
        ),
        (1, [{"step": 120, "seed": 0, "eval/return_mean": None}], None),
    ],
)
def test_the_end_of_the_metrics_tells_how_far_a_run_is(seeds, rows, score, tmp_path):
    folder = write(tmp_path / "a", None, seeds=seeds)
    before = {"step": 50, "seed": 0, "train/loss": 1.0}
    many = [before] * 3000  # more than is read
    lines = [json.dumps(row | {"time/seconds": 9.0}) for row in [*many, *rows]]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 130, "se')
    run = only(folder)
    assert (run.done, run.score, run.seconds) == (120, score, 9.0)


def test_folders_of_an_older_version(tmp_path):
    """They name neither options nor subject, unit or headline."""
    folder = write(tmp_path / "a", [1.0, 2.0], learning_rate=1e-3)
    said = json.loads((folder / "config.json").read_text())
    kept = {name: said[name] for name in ("exp", "config", "run")}
    (folder / "config.json").write_text(json.dumps(kept))
    run = only(folder)
    assert (run.state, run.task, run.done, run.options) == ("finished", "CartPole-v1", 1000, None)
    assert run.headline == ("eval/return_mean", True)  # which alone has an interval
    assert settings.changed(run) == {}
    assert "settings unknown" in table.cells(run)[-1]


def test_a_sweeps_trials_are_its_runs(tmp_path):
    sweep = tmp_path / "sweep"
    write(sweep / "trials" / "0000")
    write(sweep / "trials" / "0001")
    (sweep / "sweep.json").write_text("{}")
    (sweep / "lock").touch()
    failed = sweep / "trials" / "0002"
    failed.mkdir()
    chosen = {"env": "Acrobot-v1", "n-step": "0"}
    (failed / "trial.json").write_text(json.dumps({"number": 2, "exp": "dqn", "settings": chosen}))
    ended = {"state": "failed", "why": "--n-step is 0", "step": 0, "resume": "python run.py sweep"}
    (failed / "ended.json").write_text(json.dumps(ended))
    waiting = sweep / "trials" / "0003"
    waiting.mkdir()
    (waiting / "trial.json").write_text('{"number": 3, "exp": "dqn", "settings": {}}')
    write(sweep / "confirm-5")
    confirmation, *runs = folders.find([str(tmp_path)])
    assert (confirmation.sweep, confirmation.confirms) == (None, True)
    assert [run.folder.name for run in runs] == ["0000", "0001", "0002", "0003"]
    assert {run.sweep for run in runs} == {sweep}
    assert not any(run.confirms for run in runs)
    assert (runs[2].state, runs[2].why, runs[2].exp) == ("failed", "--n-step is 0", "dqn")
    assert runs[2].task == "Acrobot-v1"
    assert settings.changed(runs[2]) == {"n-step": "0"}
    assert (settings.command(runs[2]), runs[2].resume) == ("", "python run.py sweep")
    assert runs[3].state == "not started"
    # Named by itself, a trial is still of its sweep.
    assert only(sweep / "trials" / "0001").sweep == sweep
    assert {run.sweep for run in folders.find([str(sweep / "trials")])} == {sweep}


def test_the_walk(tmp_path):
    """Runs are in the order of their numbers; below a run, in hidden folders and behind links
    nothing is looked for."""
    for name in ("run10", "run9", "deep/er/run", ".hidden/run", "run9/checkpoints/run"):
        write(tmp_path / name)
    (tmp_path / "link").symlink_to(tmp_path)
    found = [str(run.folder.relative_to(tmp_path)) for run in folders.find([str(tmp_path)])]
    assert found == ["deep/er/run", "run9", "run10"]
    pattern = [str(run.folder.name) for run in folders.find([f"{tmp_path}/run*"])]
    assert pattern == ["run9", "run10"]
    twice = folders.find([f"{tmp_path}/run10", str(tmp_path), f"{tmp_path}/deep/../run9"])
    assert [run.folder.name for run in twice] == ["run10", "run", "run9"]


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("nowhere", "there is no folder"),
        ("no*where", "there is no folder"),
        ("file", "is a file"),
        ("empty", "there are no runs"),
    ],
)
def test_places_without_runs(place, words, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=words):
        folders.find([str(tmp_path / place)])


TORN = [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"exp": "dqn"}', b"1" * 5000]


@pytest.mark.parametrize("content", TORN, ids=range(len(TORN)))
@pytest.mark.parametrize("file", ["config.json", "result.json"])
def test_a_torn_file_damages_its_run_alone(file, content, tmp_path):
    folder = write(tmp_path / "a")
    write(tmp_path / "b")
    (folder / file).write_bytes(content)
    damaged, whole = folders.find([str(tmp_path)])
    assert (damaged.state, whole.state) == ("damaged", "finished")
    assert file in damaged.why
    assert len(table.lines([damaged, whole])) == 3


@pytest.mark.parametrize("gone", ["config.json", "result.json", "lock", "metrics.jsonl"])
def test_a_half_deleted_run_is_listed(gone, tmp_path):
    folder = write(tmp_path / "a")
    (folder / gone).unlink()
    states = {"config.json": "damaged", "result.json": "killed"}
    assert only(tmp_path).state == states.get(gone, "finished")


STRANGE = [None, True, 0, -1.5, 1e400, 10**400, "<script>", "", [], [[]], [None], {}, {"a": {}}]
KEYS = {
    "config.json": ["exp", "config", "run", "options", "subject", "unit", "headline"],
    "result.json": ["env_steps", "eval/return_mean", "seeds", "missing", "devices", "versions"],
    "ended.json": ["state", "why", "step"],
    "metrics.jsonl": ["step", "seed", "eval/return_mean", "time/seconds"],
}


@pytest.mark.parametrize("file", KEYS)
def test_whatever_a_value_is_its_run_is_listed(file, tmp_path):
    """Each value of each file in turn is of every kind that JSON has."""
    for i, (key, value) in enumerate(itertools.product(KEYS[file], STRANGE)):
        folder = tmp_path / str(i)
        if file in ("config.json", "result.json"):
            write(folder, [1.0, 2.0], **{file.partition(".")[0]: {key: value}})
        elif file == "ended.json":
            ended = {"state": "failed", "why": "so", "step": 1}
            write(folder, None, ended=ended | {key: value})
        else:
            write(folder, None)
            row = {"step": 1, "seed": 0, "eval/return_mean": 1.0, "time/seconds": 1.0, key: value}
            (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    runs = folders.find([str(tmp_path)])
    assert len(runs) == len(KEYS[file]) * len(STRANGE)
    assert len(table.lines(runs)) == len(runs) + 1
    assert len(table.as_csv(runs).splitlines()) == len(runs) + 1
    for name in ("headline", "seconds", "done", "subject"):
        assert len(table.ordered(runs, name)) == len(runs)


@pytest.mark.parametrize("name", ["config.json", "lock", "metrics.jsonl", "ended.json"])
def test_pipes_are_not_waited_for(name, tmp_path):
    folder = write(tmp_path / "a", None)
    write(tmp_path / "b")
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    assert "finished" in [run.state for run in folders.find([str(tmp_path)])]


def test_a_folder_that_may_not_be_read_is_passed_over(tmp_path, monkeypatch):
    write(tmp_path / "a")
    (tmp_path / "closed").mkdir()
    scandir = os.scandir

    def refuse(path):
        if os.fspath(path).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert only(tmp_path).folder.name == "a"
    with pytest.raises(UserError, match="closed cannot be read: Permission denied"):
        folders.find([str(tmp_path / "closed")])


def test_listing_imports_no_method(root, tmp_path):
    """Nor JAX, which takes longer than all else."""
    write(tmp_path / "a")
    code = (
        "import sys; from missing_bits import run; assert run.main(['runs', sys.argv[1]]) == 0;"
        "print([name for name in ('jax', 'scipy', 'matplotlib') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
