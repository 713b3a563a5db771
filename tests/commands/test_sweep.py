"""`python run.py sweep`: what it refuses, and that it trains what it says."""

import errno
import json
import os
import pathlib
import re

import pytest

from missing_bits import run
from missing_bits.commands import sweep
from missing_bits.errors import UserError
from missing_bits.sweeps.folder import Folder

BOWLS = pathlib.Path(__file__).resolve().parents[1] / "sweeps"
BOWL = "--exp=bowl:Bowl"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Sweeps begin in an empty folder, where the bowl can be imported, by their processes too."""
    monkeypatch.syspath_prepend(BOWLS)
    path = os.pathsep.join([str(BOWLS), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "sweep needs --exp"),
        ("--dir=nowhere", "sweep needs --exp"),
        ("--dir=. --seeds=2 --step-size=1", "leave out --seeds --step-size=1, or give all"),
        (f"{BOWL} --over", "--over needs a value"),
        (f"{BOWL} --over --seeds=2", "--over needs a value"),
        (f"{BOWL} --exp=dqn --pruner=halving", "bowl and CartPole-v1 cannot be ranked together"),
        (f"{BOWL} --over data=a,b --confirm=2", "--confirm: scores on a and b cannot be ranked"),
        ("--exp=dqm", "--exp=dqm is not an experiment. Did you mean dqn?"),
        (f"{BOWL} --over sise=1,2", "--sise is not an option. Did you mean --sizes?"),
        (f"{BOWL} --step=3", "--step is not an option"),
        (f"{BOWL} --over updates=1,x", "Trial 0001 (updates=x)"),
        (f"{BOWL} --over bottom=12,13", "Trial 0001 (bottom=13): --bottom is 13"),
        (f"{BOWL} --over step-size=0.1,inf", "must be a finite number"),
        (f"{BOWL} --over bottom=1,2 --bottom=3", "--bottom is given, and varied"),
        (f"{BOWL} --over bottom=1 --over bottom=2", "--over bottom is given twice"),
        (f"{BOWL} --over bottom=1,01", "(bottom=1) and 0001 (bottom=01) are the same"),
        (f"{BOWL} --over step-size=0.1..1", "a grid needs values"),
        (f"{BOWL} --over step-size=1..0.1 --sampler=random --trials=2", "the range is empty"),
        (f"{BOWL} --over run.dir=a,b", "use --dir"),
        (f"{BOWL} --over run.seed=0,5", "all train on the same seeds"),
        (f"{BOWL} --run.num-seeds=2", "use --seeds"),
        (f"{BOWL} --run.resume", "use --dir"),
        (f"{BOWL} --sampler=random", "needs --trials"),
        (f"{BOWL} --trials=3", "--trials is for"),
        (f"{BOWL} --exp=dqn --sampler=tpe --trials=3", "give one --exp"),
        (f"{BOWL} --seeds=0", "--seeds is 0; it must be at least 1"),
        (f"{BOWL} --seeds=2 --seeds=3", "are the same option"),
        (f"{BOWL} --max-parallel=-1", "must not be negative"),
        (f"{BOWL} --pack=yes --pruner=median", "--pack=yes: trials cannot be rows of one program"),
    ],
)
def test_what_cannot_be_swept_is_refused_before_anything_begins(arguments, message, capsys):
    assert run.main(["sweep", *arguments.split()]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert list(pathlib.Path().iterdir()) == []


def test_environments_on_the_host_are_not_rows(capsys):
    assert run.main(["sweep", "--exp=dqn", "--over", "discount=0.9,0.99", "--pack=yes"]) == 2
    assert "because they act in host environments" in capsys.readouterr().err


def scores(folder):
    """The finished trials' settings, scores and seeds; nothing that depends on the clock."""
    found = {}
    for path in sorted((folder / "trials").iterdir()):
        result = json.loads((path / "result.json").read_text())
        settings = json.loads((path / "trial.json").read_text())["settings"]
        found[path.name] = (settings, result["seeds"], result["eval/height"])
    return found


GRID = ["--over", "step-size=0.05,0.2", "--over=bottom=3,5", "--seeds=2", "--updates=18"]


@pytest.mark.timeout(300)
def test_a_grid_is_trained_told_and_gone_on_with(capsys, tmp_path):
    """In processes; one trial was begun before, one fails in a way that nobody could foresee."""
    over = ["--over=bottom=3,14"]
    assert run.main(["sweep", BOWL, *over, "--updates=18", "--dir=s", "--max-parallel=2"]) == 0
    out = capsys.readouterr().out
    assert "0000 finished, eval/height" in out
    assert "0001 failed: ValueError: no bottom in sight" in out
    assert "Best of 2: 0000 (bottom=3)" in out
    standing = Folder(tmp_path / "s").standing("0001")
    assert standing.state == "failed"
    assert "no bottom in sight" in standing.why
    before = (tmp_path / "s" / "trials" / "0000" / "metrics.jsonl").read_text()

    assert run.main(["sweep", "--dir=s"]) == 2  # the file alone may not name code
    assert "what a file names is not imported" in capsys.readouterr().err
    assert run.main(["sweep", BOWL, *over, "--updates=19", "--dir=s"]) == 2
    assert "holds another sweep: fixed is ['--updates=19']" in capsys.readouterr().err
    again = ["sweep", BOWL, *over, "--updates=18", "--dir=s", "--confirm=3"]
    assert run.main(again) == 0
    out = capsys.readouterr().out
    assert "begins" not in out.partition("Best of")[0]
    found = re.search(r"Confirmed on seeds 1 to 3: eval/height (\S+) \[", out)
    confirmed = json.loads((tmp_path / "s" / "confirm-0000-3" / "result.json").read_text())
    assert float(found[1]) == pytest.approx(confirmed["eval/height"], rel=1e-3)
    assert [row["seed"] for row in confirmed["seeds"]] == [1, 2, 3]
    assert (tmp_path / "s" / "trials" / "0000" / "metrics.jsonl").read_text() == before


@pytest.mark.timeout(300)
def test_rows_of_one_program_reach_what_processes_reach(capsys, tmp_path):
    assert run.main(["sweep", BOWL, *GRID, "--dir=packed", "--pack=yes"]) == 0
    packed = scores(tmp_path / "packed")
    assert len(packed) == 4
    groups = json.loads((tmp_path / "packed" / "sweep.json").read_text())["groups"]
    assert groups == [[0, 2], [1, 3]]  # the bottom is no number of the program
    assert "Best of 4: 0003 (step-size=0.2, bottom=5)" in capsys.readouterr().out
    for name, (settings, seeds, height) in packed.items():
        alone = ["run.py", BOWL, "--updates=18", "--run.num-seeds=2", f"--run.dir=alone/{name}"]
        flags = [f"--{option}={value}" for option, value in settings.items()]
        assert run.main([*alone[1:], *flags]) == 0
        result = json.loads((tmp_path / "alone" / name / "result.json").read_text())
        assert height == pytest.approx(result["eval/height"], rel=1e-4)
        for mine, other in zip(seeds, result["seeds"], strict=True):
            assert mine == pytest.approx(other, rel=1e-4)


def test_a_group_prunes_by_halving(tmp_path):
    """In this process, as the sweep's own does it."""
    over = ["--over", "step-size=0.001,0.02,0.2,0.4,0.05,0.01", "--pruner=halving", "--pack=yes"]
    arguments = [BOWL, *over, "--dir=s"]
    mine, fixed = sweep._split(arguments)
    config = sweep.command_line.of_command("sweep", sweep.Config, mine)
    asked = sweep._asked(config, fixed)
    folder = Folder(tmp_path / "s")
    folder.write(sweep.dataclasses.replace(asked, groups=[list(range(6))]))
    assert run.main(["sweep", *arguments, "--group=0"]) == 0
    states = {name: folder.standing(name).state for name in (f"{i:04d}" for i in range(6))}
    assert list(states.values()).count("pruned") == 5  # six, two, one
    assert states["0003"] == "finished"
    assert folder.pruned_at("0000") == 10
    assert folder.pruned_at("0002") == 30


def test_a_trial_that_was_tampered_with_is_refused(tmp_path, capsys):
    folder = Folder(tmp_path / "s")
    mine, fixed = sweep._split([BOWL, "--over", "bottom=3,4", "--dir=s"])
    config = sweep.command_line.of_command("sweep", sweep.Config, mine)
    folder.write(sweep._asked(config, fixed))
    path = tmp_path / "s" / "trials" / "0000"
    path.mkdir()
    told = {"number": 0, "exp": "evil.module:Thing", "settings": {"bottom": "3"}}
    (path / "trial.json").write_text(json.dumps(told))
    assert run.main(["sweep", BOWL, "--over", "bottom=3,4", "--dir=s"]) == 2
    assert "is of another sweep, or was changed" in capsys.readouterr().err


def test_a_disk_that_is_full_is_one_line(tmp_path, capsys, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "sweep.json")

    monkeypatch.setattr(Folder, "write", full)
    assert run.main(["sweep", BOWL, "--over", "bottom=3,4", "--dir=s"]) == 2
    said = capsys.readouterr().err
    assert "--dir=s cannot be used any more" in said
    assert "Free some space" in said
    assert said.count("\n") == 1


def test_a_grid_of_another_size_is_refused(tmp_path, capsys):
    mine, fixed = sweep._split(["--exp=dqn", "--over", "n-step=1,3"])
    config = sweep.command_line.of_command("sweep", sweep.Config, mine)
    asked = sweep._asked(config, fixed)
    Folder(tmp_path / "s").write(sweep.dataclasses.replace(asked, trials=3))
    assert run.main(["sweep", "--dir=s"]) == 2
    assert "tells of 3 trials, and its grid has 2" in capsys.readouterr().err


def test_arguments_are_told_apart():
    given = ["--exp", "a", "--exp=b", "--over", "x=1,2", "--lr=3", "--sizes", "4", "5"]
    given += ["--over=y=3", "--seeds", "2", "--dir=d", "--retry"]
    mine, fixed = sweep._split(given)
    assert fixed == ["--lr=3", "--sizes", "4", "5"]
    assert mine == [
        "--seeds",
        "2",
        "--dir=d",
        "--retry",
        "--exp",
        "a",
        "b",
        "--over",
        "x=1,2",
        "y=3",
    ]


def test_code_in_a_value_is_refused_where_a_file_alone_names_it(tmp_path):
    folder = Folder(tmp_path)
    mine, fixed = sweep._split(["--exp=dqn", "--over", "env=some.module:Maze-v0,CartPole-v1"])
    config = sweep.command_line.of_command("sweep", sweep.Config, mine)
    with pytest.raises(UserError, match=r"some\.module:Maze-v0 is code"):
        sweep.sweep_trials.refuse_code(sweep._asked(config, fixed), folder.path / "sweep.json")
