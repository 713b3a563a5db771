"""A sweep's folder: what stands in it, and who may work on a trial."""

import dataclasses
import json
import os
import signal
import subprocess
import sys

import pytest

from missing_bits.errors import UserError
from missing_bits.sweeps.folder import Folder, Standing, Sweep, Trial
from missing_bits.sweeps.proposals import Proposals
from missing_bits.sweeps.space import Axis
from missing_bits.sweeps.table import table

SWEEP = Sweep(
    ["dqn"], ["--env-steps=9"], {"n-step": "1,3"}, 2, "grid", 2, "none", 0, "auto", [[0, 1]]
)


def write(path, name, value):
    path.mkdir(parents=True, exist_ok=True)
    (path / name).write_text(value if isinstance(value, str) else json.dumps(value))


def test_what_is_swept_is_read_back(tmp_path):
    folder = Folder(tmp_path)
    assert folder.read() is None
    folder.write(SWEEP)
    assert folder.read() == SWEEP


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "{",
        "[]",
        "[" * 100_000,
        {"exps": "dqn"},
        {"exps": []},
        {"exps": [1]},
        {"fixed": {}},
        {"over": {"n-step": 3}},
        {"trials": -1},
        {"trials": True},
        {"seeds": "2"},
        {"groups": [[0, 0]]},
        {"groups": [[7]]},
        {"groups": ["x"]},
        {"groups": [0]},
        {"groups": [[0.0, 1]]},
        {"groups": [{}]},
        {"sampler": "guess"},
        {"pruner": "shears"},
        {"version": 3},
    ],
)
def test_a_damaged_description_is_refused_in_one_line(tmp_path, damage):
    folder = Folder(tmp_path)
    folder.write(SWEEP)
    if isinstance(damage, dict):
        damage = {**json.loads((tmp_path / "sweep.json").read_text()), **damage}
    write(tmp_path, "sweep.json", damage)
    with pytest.raises(UserError, match=r"sweep\.json is damaged"):
        folder.read()


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match="holds something else"):
        Folder(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(UserError, match="is no path"):
        Folder(tmp_path / "a\0b")
    with pytest.raises(UserError, match="is a file"):
        Folder(tmp_path / "notes.txt")


def test_trials_are_read_back(tmp_path):
    folder = Folder(tmp_path)
    trial = Trial(3, "dqn", {"n-step": "1"})
    assert folder.trial(3) is None
    folder.propose(trial)
    assert folder.trial(3) == trial
    for damage in (
        "{",
        "[]",
        "[" * 100_000,
        '{"exp": 1, "settings": {}}',
        '{"exp": "a", "settings": {"b": 2}}',
    ):
        write(folder.trial_path("0003"), "trial.json", damage)
        with pytest.raises(UserError, match=r"trial\.json is damaged"):
            folder.trial(3)


def test_a_claim_excludes_others_until_its_holders_die(tmp_path):
    folder = Folder(tmp_path)
    mine = folder.claim("0000")
    assert folder.claim("0000") is None
    folder.claim("0001").close()
    wait = [sys.executable, "-c", "input()"]
    child = subprocess.Popen(wait, stdin=subprocess.PIPE, pass_fds=[mine.fileno()])
    mine.close()  # as if this process had been killed: its trial goes on
    assert folder.claim("0000") is None
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    folder.claim("0000").close()


CONFIG = {
    "run": {"num_seeds": 1},
    "headline": {"name": "eval/x", "larger_is_better": False},
    "budget": 90,
}


def test_a_curve_is_of_means_and_ends_where_a_trial_was_pruned(tmp_path):
    folder = Folder(tmp_path)
    path = folder.trial_path("0000")
    write(path, "config.json", CONFIG)
    rows = [{"step": 0, "seed": 7, "eval/x": 4}, {"step": 5, "seed": 7, "train/loss": 1.0}]
    rows += [{"step": 10, "seed": 7, "eval/x": None}, {"step": 20, "seed": 7, "eval/x": 2.5}]
    write(path, "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows) + '{"step": 30')
    assert folder.curve("0000") == {0: 4.0, 20: 2.5}
    assert folder.step("0000") == 20
    assert folder.budget("0000") == 90
    assert not folder.headline().larger_is_better
    folder.end("0000", "pruned", "why", 0, "command")
    assert folder.curve("0000") == {0: 4.0}
    assert folder.standing("0000") == Standing("pruned", 4.0, "why")

    other = folder.trial_path("0001")
    write(other, "config.json", {**CONFIG, "run": {"num_seeds": 2}})
    rows = [{"step": 5, "seed": 0, "eval/x": 1.0}, {"step": 5, "seed": 1, "eval/x": 2.0}]
    write(other, "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    assert folder.curve("0001") == {}  # their mean has not been written yet
    with (other / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 5, "eval/x": 1.5}) + "\n")
    assert folder.curve("0001") == {5: 1.5}


def test_how_far_a_trial_is(tmp_path):
    folder = Folder(tmp_path)
    path = folder.trial_path("0000")
    assert folder.standing("0000").state == "open"
    write(path, "config.json", CONFIG)
    assert folder.standing("0000").state == "open"
    folder.end("0000", "stopped", "stopped by SIGTERM", 5, "command")
    assert folder.standing("0000") == Standing("stopped", None)
    folder.end("0000", "failed", "out of luck", 5, "command")
    assert folder.standing("0000") == Standing("failed", None, "out of luck")
    folder.reopen("0000")
    result = {"eval/x": 1.5, "wall_seconds": 9.0, "compile_seconds": 2.0}
    write(path, "result.json", {**result, "finishing": True})  # pictures are being made
    assert folder.standing("0000").state == "open"
    write(path, "result.json", {**result, "eval/x_low": 1.0, "eval/x_high": 2.0})
    assert folder.standing("0000") == Standing("finished", 1.5, "", (1.0, 2.0), 9.0, 2.0)


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("config.json", {"headline": "eval/x"}),
        ("config.json", {"headline": {"name": 5, "larger_is_better": True}}),
        ("config.json", {"run": "x"}),
        ("result.json", {"eval/x": "<b>", "eval/x_low": [1], "wall_seconds": {}}),
        ("result.json", {"eval/x": None, "steps_per_second": "fast"}),
        ("ended.json", {"state": "pruned", "step": "x", "why": 5}),
    ],
)
def test_a_trial_whose_files_make_no_sense_can_be_told(tmp_path, file, change):
    folder = Folder(tmp_path)
    path = folder.trial_path("0000")
    files = {"config.json": CONFIG, "result.json": {"eval/x": 1.5}, "ended.json": {}}
    for name, value in files.items():
        write(path, name, {**value, **(change if name == file else {})})
    write(path, "metrics.jsonl", json.dumps({"step": 5, "seed": 0, "eval/x": 2.0}) + "\n")
    standing = folder.standing("0000")
    assert standing.state in ("finished", "pruned")
    assert folder.curve("0000") in ({5: 2.0}, {})
    assert folder.rate("0000") is None
    told = table([Trial(0, "dqn", {})], {"0000": standing}, {}, [], "x")
    assert told.row_count == 1


def test_a_trial_that_lost_its_file_is_known_by_its_run(tmp_path):
    folder = Folder(tmp_path)
    axes = {"dqn": [Axis("n-step", ("1", "3"))]}
    write(folder.trial_path("0001"), "config.json", CONFIG)
    assert Proposals(SWEEP, axes, folder).known() == [Trial(1, "dqn", {"n-step": "3"})]
    drawn = dataclasses.replace(SWEEP, sampler="tpe")
    with pytest.raises(UserError, match=r"0001 has lost its trial\.json"):
        Proposals(drawn, axes, folder).known()
