"""The table of runs: what it says, which rows, in which order; mistakes; a thousand folders."""

import csv
import io
import json
import time

import pytest

from missing_bits import run
from missing_bits.commands.runs import Config, listed
from missing_bits.tests.results.written import write


@pytest.fixture
def place(tmp_path):
    """Four runs: two finished, one failed, one damaged."""
    write(tmp_path / "a", [10.0, 30.0], learning_rate=1e-3, hidden_sizes=[8, 8])
    write(tmp_path / "b", [25.0], task="Acrobot-v1", double=False, result={"wall_seconds": 3})
    ended = {"state": "failed", "why": "train/loss is nan", "step": 240}
    write(tmp_path / "c", None, ended=ended, learning_rate=0.5)
    (write(tmp_path / "d") / "config.json").write_text("{")
    return tmp_path


@pytest.fixture
def table(place, capsys):
    """Return the function that gives the table's rows below its head."""

    def table(*options):
        assert run.main(["runs", str(place), *options]) == 0
        said = capsys.readouterr()
        assert said.err == ""
        return said.out.splitlines()[1:]

    return table


def names(lines, place):
    return [line.removeprefix(f"{place}/")[0] for line in lines]


def test_a_row_says_what_a_run_is(table, place):
    rows = [" ".join(line.removeprefix(str(place)).split()) for line in table()]
    assert rows == [
        "/a dqn CartPole-v1 finished 1,000 env steps return_mean 20 [10, 30] 12 "
        "learning-rate=0.001 hidden-sizes=8,8",
        "/b dqn Acrobot-v1 finished 1,000 env steps return_mean 25 3 no-double",
        "/c dqn CartPole-v1 failed 240 of 1,000 env steps learning-rate=0.5; train/loss is nan",
        "/d damaged config.json is torn or no configuration of a run",
    ]


def test_columns_are_aligned(table, place):
    a, b = table()[:2]
    assert a.index("finished") == b.index("finished")
    assert a.index("return_mean") == b.index("return_mean")


@pytest.mark.parametrize(
    ("by", "order"),
    [
        ("folder", "abcd"),
        ("-folder", "dcba"),
        ("headline", "bacd"),  # the best first, and last what has none
        ("-headline", "abcd"),
        ("seconds", "bacd"),
        ("-seconds", "abcd"),
        ("learning-rate", "abcd"),  # 0.001, 0.002, 0.5
        ("-learning-rate", "cbad"),
        ("double", "bacd"),  # false before true
        ("state", "dcab"),
        ("subject", "bacd"),
    ],
)
def test_sorting(by, order, table, place):
    assert names(table(f"--sort={by}"), place) == list(order)


def test_less_may_be_best(tmp_path):
    for name, score in (("a", 3.0), ("b", 1.0), ("c", 2.0)):
        write(tmp_path / name, [score], metric="eval/bits", larger=False)
    lines = listed(Config(str(tmp_path), sort="headline")).splitlines()[1:]
    assert names(lines, tmp_path) == ["b", "c", "a"]


@pytest.mark.parametrize(
    ("conditions", "left"),
    [
        ("state=finished", "ab"),
        ("state!=finished", "cd"),
        ("learning-rate=1e-3", "a"),  # a number, however it is written
        ("learning-rate<=0.002", "ab"),
        ("learning-rate>0.001 state=finished", "b"),
        ("learning-rate<0.01 state=failed", ""),
        ("headline>=25", "b"),
        ("double=false", "b"),
        ("hidden-sizes=8,8", "a"),
        ("folder=*a", "a"),
        ("subject!=Acro*", "acd"),
        ("why='train/loss is nan'", "c"),
        ("run.seed=0", "abc"),
        ("", "abcd"),
    ],
)
def test_filtering(conditions, left, table, place, capsys):
    assert names(table(f"--filter={conditions}"), place) == list(left)


def test_where_none_is_left_it_says_so(place, capsys):
    assert run.main(["runs", str(place), "--filter=state=running", "--sort=seconds"]) == 0
    assert capsys.readouterr().out == "None of 4 runs meets --filter=state=running.\n"


def test_csv_has_a_column_for_each_option(place, capsys):
    assert run.main(["runs", str(place), "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["folder"] for row in rows] == [str(place / name) for name in "abcd"]
    assert (
        rows[0]
        | {
            "metric": "eval/return_mean",
            "headline": "20.0",
            "low": "10.0",
            "high": "30.0",
            "done": "1000",
            "seeds": "2",
            "learning-rate": "0.001",
            "hidden-sizes": "8,8",
            "double": "true",
        }
        == rows[0]
    )
    assert rows[1]["learning-rate"] == "0.002"  # the default, which it does not change
    assert rows[2]["why"] == "train/loss is nan"


def test_no_cell_is_a_formula_or_a_command_to_a_terminal(tmp_path, capsys):
    write(tmp_path / "a", task="=HYPERLINK()", exp="\x1b[2J\r+1", learning_rate="@x\n")
    assert run.main(["runs", str(tmp_path), "--csv"]) == 0
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (row["subject"], row["experiment"]) == ("'=HYPERLINK()", "?[2J?+1")
    assert row["learning-rate"] == "'@x?"
    assert run.main(["runs", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert len(out.splitlines()) == 2


def test_lines_are_cut_at_the_width_of_a_terminal(place):
    lines = listed(Config(str(place)), width=60).splitlines()
    assert {len(line) for line in lines} == {60}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--sort=speed"], ["--sort: speed", "Did you mean seeds?", "Columns are folder,"]),
        (["--sort="], ["--sort: ", "neither a column nor an option"]),
        (["--sort=learning-rte"], ["Did you mean learning-rate?"]),
        (["--filter=state"], ["state is no condition", "NAME=VALUE"]),
        (["--filter=stat=finished"], ["--filter: stat ", "Did you mean state?"]),
        (["--filter=seconds<fast"], ["compares with fast"]),
        (["--filter=why='a"], ["quotation mark"]),
        (["--depth=3"], ["--depth is not an option"]),
        (["--csv=yes"], ["--csv=yes", "a switch takes no value"]),
        (["elsewhere"], ["elsewhere"]),
    ],
)
def test_mistakes_are_one_line(options, words, place, capsys):
    assert run.main(["runs", str(place), *options]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert line.startswith("error: ")
    for word in words:
        assert word in line


def test_a_folder_without_runs(tmp_path, capsys):
    for folder, words in (
        (tmp_path, "there are no runs in"),
        (tmp_path / "x", "there is no folder"),
    ):
        assert run.main(["runs", str(folder)]) == 2
        assert words in capsys.readouterr().err


def test_a_thousand_folders_are_listed_at_once(tmp_path):
    """Half of them without a result. Processor time, which a busy machine does not stretch, of a
    process that has imported all before: about 0.6 seconds."""
    rows = [{"step": i, "seed": 0, "train/loss": 0.5, "eval/x": 1.0} for i in range(500)]
    metrics = "".join(json.dumps(row) + "\n" for row in rows)
    for i in range(1000):
        folder = write(tmp_path / f"run{i}", [1.0] * 5 if i % 2 else None, learning_rate=i / 1e6)
        (folder / "metrics.jsonl").write_text(metrics)
        (folder / "checkpoints" / "1000").mkdir(parents=True)
    began = time.process_time()
    lines = listed(Config(str(tmp_path), sort="headline")).splitlines()
    assert time.process_time() - began < 2
    assert len(lines) == 1001
