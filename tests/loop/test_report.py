"""What a person sees of a run, and what TensorBoard reads."""

import io

import pytest

from missing_bits.loop import report
from missing_bits.plan import Plan

PLAN = Plan(12_000, "env_steps", shown=("train/episode_return", "train/loss"))
ROW = {"train/episode_return": 12.0, "train/loss": 0.5}


class Terminal(io.StringIO):
    """A terminal."""

    def isatty(self):
        return True


class Gone(Terminal):
    """A terminal or pipe that was closed by who read it."""

    def write(self, text):
        raise BrokenPipeError(32, "Broken pipe")


def make():
    return report.Report(PLAN, "eval/return_mean", 0)


@pytest.mark.parametrize("terminal", [True, False])
def test_a_run_goes_on_when_nobody_listens(terminal, monkeypatch):
    """`| head`, a terminal that was closed, a full disk behind a redirection."""
    gone = Gone()
    monkeypatch.setattr(gone, "isatty", lambda: terminal)
    monkeypatch.setattr("sys.stdout", gone)
    shown = make()
    shown.row(20, ROW, 10.0)
    shown.doing("evaluating")
    shown.say("done")
    shown.close()
    assert gone.getvalue() == ""


@pytest.mark.parametrize("stream", [None, "closed"])
def test_a_process_without_standard_output(stream, monkeypatch):
    out = io.StringIO()
    out.close()
    monkeypatch.setattr("sys.stdout", out if stream else None)
    shown = make()
    shown.row(20, ROW, 10.0)
    shown.close()


@pytest.mark.parametrize("columns", [60, 80])
def test_the_live_line_fits_and_evaluations_leave_a_line(columns, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    shown = make()
    shown.row(20, ROW, 0.25)
    shown.row(12_000, {"eval/return_mean": 499.5}, 0.25)
    shown.doing("pictures")
    text = "".join(str(column) for column in _cells(shown))
    shown.close()
    assert len(text) <= columns
    assert "pictures" in text
    assert "0.25/s" in terminal.getvalue()
    assert "return_mean 499.5" in terminal.getvalue()


def _cells(shown):
    """The live line's parts as they are drawn."""
    live = shown._live
    task = live.tasks[0]
    widths = {"BarColumn": "x" * 10}
    for column in live.columns:
        yield widths.get(type(column).__name__) or column.render(task)
        yield " "


def test_a_rate_below_one_is_shown():
    assert [report._per_second(rate) for rate in (0.031, 2.5, 1234.4)] == [
        "0.031/s",
        "2.5/s",
        "1,234/s",
    ]


def test_a_clock_that_goes_back_does_not_reorder_sessions(tmp_path, monkeypatch):
    """TensorBoard reads the files of a folder in the order of their names."""
    for now in (2_000_000_000, 1_700_000_000, 1_700_000_000):
        monkeypatch.setattr(report.time, "time", lambda now=now: now)
        report.Events(tmp_path / "seed0", 1)
    stamps = [path.name.split(".")[3] for path in (tmp_path / "seed0").iterdir()]
    assert sorted(stamps) == ["2000000000", "2000000001", "2000000002"]
