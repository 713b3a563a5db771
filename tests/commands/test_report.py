"""The report at the door: the file that it writes. Mistakes it shares with compare are there."""

import pytest

from missing_bits import run
from missing_bits.tests.results.written import PNG, write


def test_the_file(tmp_path, capsys, monkeypatch):
    write(tmp_path / "runs" / "a", [1.0, 2.0])
    (tmp_path / "runs" / "a" / "picture.png").write_bytes(PNG)
    monkeypatch.chdir(tmp_path)
    assert run.main(["report", "runs"]) == 0
    assert capsys.readouterr().out == "1 run: report.html\n"
    text = (tmp_path / "report.html").read_text()
    assert text.startswith("<!DOCTYPE html>")
    assert text.endswith("</html>")
    assert "picture.png" in text
    assert "<svg" in text
    assert run.main(["report", "runs", "--no-pictures", "--out=other.html"]) == 0
    assert "picture.png" not in (tmp_path / "other.html").read_text()


def test_runs_of_which_none_is_finished_are_reported(tmp_path, capsys):
    write(tmp_path / "a", None, ended={"state": "stopped", "why": "stopped by SIGINT", "step": 5})
    out = tmp_path / "report.html"
    assert run.main(["report", str(tmp_path), f"--out={out}"]) == 0
    assert "stopped by SIGINT" in out.read_text()


def test_names_that_are_no_utf8(tmp_path, capsys):
    """Of a folder, and of an environment: the page is UTF-8 all the same."""
    place = tmp_path / "a\udcff"
    write(place, task="b\udcff")
    out = tmp_path / "report.html"
    assert run.main(["report", str(tmp_path), f"--out={out}"]) == 0
    assert "a?" in out.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("runs", ["FOLDER", "--sort", "--filter", "--csv"]),
        ("compare", ["RUNS...", "--baseline", "--out"]),
        ("report", ["RUNS...", "--out", "--baseline", "--pictures"]),
    ],
)
def test_help_names_every_option(command, options, capsys):
    with pytest.raises(SystemExit) as stopped:
        run.main([command, "--help"])
    assert not stopped.value.code
    said = capsys.readouterr().out
    assert f"python run.py {command}" in said
    for option in options:
        assert option in said
