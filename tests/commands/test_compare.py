"""Comparing runs at the door: what it prints, the picture, mistakes."""

import pytest
from PIL import Image

from missing_bits import run
from missing_bits.tests.results.written import write


@pytest.fixture
def place(tmp_path):
    write(tmp_path / "a", [100.0, 200.0, 300.0])
    write(tmp_path / "b", [400.0, 500.0], learning_rate=1e-3)
    write(tmp_path / "c", None)
    for i, rate in enumerate((0.1, 0.2, 0.1)):
        write(
            tmp_path / "sweep" / "trials" / str(i),
            [i + 1.0],
            learning_rate=rate,
            task="Other-v0",
            double=i < 2,
        )
    (tmp_path / "sweep" / "sweep.json").write_text("{}")
    return tmp_path


def test_what_it_prints(place, capsys):
    assert run.main(["compare", str(place)]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    lines = [" ".join(line.split()) for line in said.out.splitlines()]
    assert lines[0] == "note: Left out of 6 runs: 1 killed."
    assert lines[1].startswith("note: A, B, C, D, E: fewer than 5 seeds")
    head = lines.index("CartPole-v1: return_mean, larger is better")
    assert lines[head + 1] == "settings seeds mean [95 %] IQM [95 %] minus B P(better)"
    # 450 - 200 = 250; all of 400 and 500 are above all of 100, 200 and 300.
    assert lines[head + 2].startswith("A learning-rate=0.001 2 450 [400, 500] 450 [400, 500] 250 [")
    assert lines[head + 2].endswith("1 [1, 1]")
    assert lines[head + 3] == "B defaults 3 200 [100, 300] 200 [100, 300] - -"
    assert lines[head + 5 : head + 8] == ["seed 0 seed 1 seed 2", "A 400 500", "B 100 200 300"]
    assert "Other-v0: return_mean, larger is better" in lines
    rates = lines.index("--learning-rate trials mean best")
    assert lines[rates - 1] == "sweep: return_mean on Other-v0"
    assert lines[rates + 1 : rates + 3] == ["0.1 2 2 3", "0.2 1 2 2"]
    assert "--double trials mean best" in lines


def test_profiles_are_told(place, capsys):
    """Normalized, 100, 200 and 300 are 0.17, 0.39 and 0.61."""
    assert run.main(["compare", str(place / "a")]) == 0
    out = capsys.readouterr().out
    assert "Performance profile: the share of runs above a normalized score." in out
    assert ["dqn", "67%", "33%", "0%", "0%"] in [line.split() for line in out.splitlines()]
    assert run.main(["compare", str(place / "sweep")]) == 0
    assert "No performance profile: it needs reference scores" in capsys.readouterr().out


def test_protocols_are_told_below_the_table(tmp_path, capsys):
    protocol = {"time_limit": 500, "epsilon": 0.05, "seeds": [0, 1]}
    write(tmp_path / "a", [1.0, 2.0], result={"protocol": protocol})
    write(tmp_path / "b", [0.0], seed=2, learning_rate=1e-3, result={"protocol": protocol})
    assert run.main(["compare", str(tmp_path / "a")]) == 0
    said = "time limit 500 steps, epsilon 0.05, seeds"
    assert f"protocol: {said} 0-1" in capsys.readouterr().out.splitlines()
    assert run.main(["compare", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {f"protocol of A: {said} 0-1", f"protocol of B: {said} 2"} <= set(lines)


def test_long_tables_are_cut_and_say_so(tmp_path, capsys):
    for i in range(33):
        write(tmp_path / "sweep" / "trials" / str(i), [float(i), i + 1.0], learning_rate=i / 100)
    (tmp_path / "sweep" / "sweep.json").write_text("{}")
    assert run.main(["compare", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "sweep: return_mean on CartPole-v1: --learning-rate has 33 values" in lines[-1]
    assert lines[-3] == "and 3 more"  # profiles
    assert not any("seed 0" in line for line in lines)
    assert sum("learning-rate=" in line for line in lines) == 33 + 30


def test_folders_and_patterns_and_a_baseline(place, capsys):
    places = [str(place / "a"), f"{place}/[bc]", f"--baseline={place / 'b'}"]
    assert run.main(["compare", *places]) == 0
    assert " minus A" in capsys.readouterr().out


def test_the_picture(place, capsys):
    out = place / "curves.png"
    assert run.main(["compare", str(place), f"--out={out}"]) == 0
    assert capsys.readouterr().out.endswith(f"\nCurves: {out}\n")
    with Image.open(out) as picture:
        assert picture.size == (2 * 720, 3 * 540)  # two tasks, profiles, two options


def refuses(capsys, arguments, *words):
    assert run.main(list(map(str, arguments))) == 2
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert line.startswith("error: ")
    for word in words:
        assert word in line, line


@pytest.mark.parametrize("command", ["compare", "report"])
def test_mistakes_of_both(command, place, capsys):
    (place / "empty").mkdir()
    refuses(capsys, [command], f"{command} needs runs: python run.py {command} RUNS...")
    refuses(capsys, [command, place / "x"], "there is no folder")
    refuses(capsys, [command, place / "empty"], "there are no runs in")
    refuses(capsys, [command, place / "a" / "lock"], "is a file")
    refuses(capsys, [command, place, "--seeds=3"], "--seeds is not an option")
    refuses(capsys, [command, place, f"--baseline={place / 'c'}"], "--baseline", "not the folder")
    refuses(capsys, [command, place, f"--out={place}"], "name a file that ends in")
    refuses(capsys, [command, place, f"--out={place}/x.exe"], "name a file that ends in")
    for kind in {"compare": ["png", "svg"], "report": ["html"]}[command]:
        (place / f"folder.{kind}").mkdir()
        refuses(capsys, [command, place, f"--out={place}/folder.{kind}"], "is a folder")
        refuses(capsys, [command, place, f"--out={place}/x/y.{kind}"], "there is no folder")
        refuses(capsys, [command, place, f"--out=/dev/full/y.{kind}"], "there is no folder")


def test_nothing_to_compare(place, capsys):
    refuses(capsys, ["compare", place / "c"], "none of 1 runs is finished", "1 killed")


@pytest.mark.parametrize("command", ["compare", "report"])
def test_a_disk_that_refuses(command, place, capsys, monkeypatch):
    """A file that cannot be written is a line; /dev/full has the ending of none."""
    kind = {"compare": "png", "report": "html"}[command]
    out = place / f"full.{kind}"
    out.symlink_to("/dev/full")
    run.main([command, str(place / "a"), f"--out={out}"])
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        line == f"error: --out={out} cannot be written: No space left on device. Free some space."
    )


def test_rows_are_needed_to_draw(place, capsys):
    (place / "sweep" / "trials" / "0" / "metrics.jsonl").unlink()
    assert run.main(["compare", str(place / "sweep" / "trials" / "0"), f"--out={place}/x.png"]) == 2
    assert "no rows of metrics to draw" in capsys.readouterr().err
