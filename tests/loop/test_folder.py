"""The run folder: readable at any moment, held by one process, rows neither lost nor doubled."""

import fcntl
import json

import numpy as np
import pytest

from missing_bits.errors import UserError
from missing_bits.loop.folder import RunFolder, is_held, read_rows


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / "run", resume=False)
    yield folder
    folder.close()


ROWS = [
    {"step": step, "seed": seed, "train/loss": step + seed / 10}
    for step in (10, 20, 30)
    for seed in (0, 1)
]


def test_rows_come_back_as_they_were_written(folder):
    folder.append(ROWS[:2])
    folder.append(ROWS[2:])
    assert read_rows(folder.path).rows == ROWS
    assert [
        json.loads(line) for line in (folder.path / "metrics.jsonl").read_text().splitlines()
    ] == ROWS


@pytest.mark.parametrize(("step", "kept"), [(0, 0), (9, 0), (10, 2), (25, 4), (30, 6), (99, 6)])
@pytest.mark.parametrize("torn", ["", '{"step": 10, "se', '{"step": 10', "\n", "{"])
def test_keep_rows_drops_what_will_be_made_again_and_a_torn_line(folder, step, kept, torn):
    folder.append(ROWS)
    with (folder.path / "metrics.jsonl").open("a") as file:
        file.write(torn)
    folder.keep_rows(step, kept)
    assert folder.rows == kept
    assert (folder.path / "metrics.jsonl").read_text() == "".join(
        json.dumps(row) + "\n" for row in ROWS[:kept]
    )
    folder.append(ROWS[kept:])  # a session goes on from there
    assert read_rows(folder.path).rows == ROWS


DAMAGE = {
    "deleted": (lambda text: "", 0, 0),
    "first line torn": (lambda text: text[8:], 3, 1),
    "a line of NULs": (lambda text: "\0" * 40 + "\n" + text, 4, 1),
    "foreign rows": (lambda text: '[1]\n{"step": "ten"}\n"text"\n3\n' + text, 4, 4),
    "not text": (lambda text: "\udcff\udcfe\n" + text, 4, 1),
    "absurdly nested": (lambda text: "[" * 100_000 + "\n" + text, 4, 1),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_damaged_rows_are_told_of_and_cost_no_others(how, folder):
    """Rows whose lines are whole stay, in order, whatever stands between them."""
    change, left, strange = DAMAGE[how]
    folder.append(ROWS)
    file = folder.path / "metrics.jsonl"
    file.write_bytes(change(file.read_text()).encode(errors="surrogateescape"))
    told = f"{4 - left} of 4 rows up to step 20 are lost, {strange} lines are no rows"
    with pytest.warns(UserWarning, match=told):
        folder.keep_rows(20, 4)
    assert read_rows(folder.path) == (ROWS[4 - left : 4], 0)


def test_what_is_not_finite_is_null(folder):
    """JSON has no NaN: other readers must not stumble."""
    row = {"step": 1, "train/loss": float("nan"), "eval/x": float("inf"), "deep": [{"y": -np.inf}]}
    folder.append([row])
    folder.write_json("result.json", row)
    expected = {"step": 1, "train/loss": None, "eval/x": None, "deep": [{"y": None}]}
    assert read_rows(folder.path).rows == [expected]
    refuse = {"parse_constant": pytest.fail}
    assert json.loads((folder.path / "metrics.jsonl").read_text(), **refuse) == expected
    assert json.loads((folder.path / "result.json").read_text(), **refuse) == expected


def test_keep_rows_without_any(folder):
    folder.keep_rows(10, 0)
    assert read_rows(folder.path).rows == []


def test_no_rows_yet(tmp_path):
    assert read_rows(tmp_path).rows == []


def test_a_refused_write_leaves_the_file_before(folder, monkeypatch):
    """JSON files are replaced whole: a disk that refuses while the new one is written costs nothing."""
    folder.write_json("result.json", {"digest": "old"})

    def refuse(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", refuse)
        with pytest.raises(OSError, match="No space left"):
            folder.write_json("result.json", {"digest": "new"})
        with pytest.raises(OSError, match="No space left"):
            folder.keep_rows(0, 0)
    assert json.loads((folder.path / "result.json").read_text()) == {"digest": "old"}


def test_one_run_at_a_time(folder):
    with pytest.raises(UserError, match="in use by a live run"):
        RunFolder(folder.path, resume=False)
    folder.close()
    RunFolder(folder.path, resume=False).close()


@pytest.mark.parametrize("names", [(), ("lock",), ("lock", ".config.json.partial")])
def test_a_run_killed_before_its_configuration_stood_leaves_a_free_folder(names, tmp_path):
    for name in names:
        (tmp_path / name).touch()
    RunFolder(tmp_path, resume=False).close()


@pytest.mark.parametrize("name", ["config.json", "notes.txt", "checkpoints"])
def test_anything_else_is_not_overwritten(name, tmp_path):
    (tmp_path / name).touch()
    helps = "--run.resume" if name == "config.json" else "no run can go on there"
    with pytest.raises(UserError, match=f"not empty.*{helps}"):
        RunFolder(tmp_path, resume=False)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot be used: Not a directory\. Something else"):
        RunFolder(tmp_path / "file" / "run", resume=False)


def test_a_folder_is_held_from_its_start_to_its_end(tmp_path):
    """Asking changes nothing, and does not hold it."""
    path = tmp_path / "run"
    assert not is_held(path)
    folder = RunFolder(path, resume=False)
    assert is_held(path)
    assert is_held(path)
    folder.close()
    assert not is_held(path)
    RunFolder(path, resume=False).close()


def test_who_asks_does_not_keep_a_run_from_beginning(tmp_path, monkeypatch):
    """The question holds the lock for a moment; a run that wants it then waits and tries again."""
    (tmp_path / "lock").touch()
    with (tmp_path / "lock").open() as asked:
        fcntl.flock(asked, fcntl.LOCK_SH)
        monkeypatch.setattr("time.sleep", lambda _: fcntl.flock(asked, fcntl.LOCK_UN))
        RunFolder(tmp_path, resume=False).close()
