"""The picture of a learning curve."""

import numpy as np
import pytest
from PIL import Image

from missing_bits.eval import statistics
from missing_bits.pictures import canvas, curves


def draw(rows, path, metric="eval/return_mean", beside=None):
    title = "dqn on CartPole-v1"
    curves.draw(rows, metric, "env_steps", title, path, statistics.interval, beside or {})


def rows_of(seeds, steps=(100, 200, 300)):
    rows = [
        {"step": step, "seed": seed, "eval/return_mean": seed + step / 10}
        for step in steps
        for seed in seeds
    ]
    return [
        *rows,
        {"step": 100, "eval/return_mean": 1.0},
        {"step": 50, "seed": 0, "train/loss": 1.0},
    ]


def ink(path):
    """Return the picture's pixels that are not white, as a share."""
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return float(np.mean(np.asarray(picture.convert("L")) < 250))


def test_a_learning_curve_is_drawn_for_one_and_for_several_seeds(tmp_path):
    draw(rows_of([0]), tmp_path / "one.png")
    draw(rows_of([0, 10, 20]), tmp_path / "three.png")
    one = ink(tmp_path / "one.png")
    assert 0.005 < one < ink(tmp_path / "three.png"), "seeds and a band, not only a line"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("txt:/home/me/my poems.txt", "txt:my poems.txt"),
        ("folder:pictures/", "folder:pictures"),
        ("csv:" + "a/" * 60 + "b" * 200 + ".csv", "csv:" + "b" * 33 + "....csv"),
        ("npz:costs $5 or $6.npz", r"npz:costs \$5 or \$6.npz"),
        ("txt:", "txt:"),
        ("CartPole-v1", "CartPole-v1"),
        ("my.module:Env/Name-v0", "my.module:Env/Name-v0"),
    ],
)
def test_a_title_names_a_file_and_not_its_folders(data, expected):
    assert canvas.subject(data) == expected


def test_a_curve_shows_the_values_it_was_given(tmp_path, monkeypatch):
    """Every seed, and their mean where all have got to; rows of means are passed over."""
    drawn = []
    make = canvas.figure

    def keep(**settings):
        drawn.append(make(**settings))
        return drawn[-1]

    monkeypatch.setattr(canvas, "figure", keep)
    rows = [*rows_of([0, 10]), {"step": 400, "seed": 0, "eval/return_mean": 7.0}]
    draw(rows, tmp_path / "curve.png")
    monkeypatch.undo()
    (axes,) = drawn[0].axes
    lines = {tuple(line.get_ydata()) for line in axes.get_lines()}
    assert lines == {(10.0, 20.0, 30.0), (20.0, 30.0, 40.0), (15.0, 25.0, 35.0)}
    assert all(tuple(line.get_xdata()) == (100, 200, 300) for line in axes.get_lines())
    assert axes.get_title() == "dqn on CartPole-v1"
    assert axes.get_xlabel() == "env steps"
    assert axes.get_ylabel() == "return mean"


def test_a_curve_stands_beside_what_simpler_methods_reach(tmp_path, monkeypatch):
    """Accuracies from 0 to 1, whatever they are; level lines with their names."""
    drawn = []
    make = canvas.figure
    monkeypatch.setattr(canvas, "figure", lambda **how: drawn.append(make(**how)) or drawn[-1])
    rows = [{"step": step, "seed": 0, "eval/knn_accuracy": 0.7} for step in (0, 10)]
    rows += [{"step": 20, "seed": 0, "eval/knn_accuracy": None}]  # was not finite
    draw(rows, tmp_path / "curve.png", "eval/knn_accuracy", {"pixels": 0.5, "random": 0.4})
    monkeypatch.undo()
    (axes,) = drawn[0].axes
    assert axes.get_ylim() == (0, 1)
    levels = {line.get_label(): set(line.get_ydata()) for line in axes.get_lines()}
    assert levels == {"seed 0": {0.7}, "pixels": {0.5}, "random": {0.4}}


def test_no_rows_no_picture(tmp_path):
    draw([{"step": 1, "seed": 0, "train/loss": 1.0}], tmp_path / "curve.png")
    assert not list(tmp_path.iterdir())


def test_panels_are_of_the_metrics_that_there_are(tmp_path, monkeypatch):
    """Three in a row; each with its own values and level lines."""
    drawn = []
    make = canvas.figure

    def keep(**settings):
        drawn.append(make(**settings))
        return drawn[-1]

    monkeypatch.setattr(canvas, "figure", keep)
    rows = [
        {"step": step, "seed": 0, "eval/a": step / 10, "train/b": 3.0, "eval/c": 1, "eval/d": 2}
        for step in (1, 2)
    ]
    metrics = ["eval/a", "eval/missing", "train/b", "eval/c", "eval/d"]

    def panels(rows, path):
        curves.panels(
            rows,
            metrics,
            "updates",
            "gan on digits",
            path,
            statistics.interval,
            lambda metric: {"real": 0.5} if metric == "eval/a" else {},
        )

    panels(rows, tmp_path / "curves.png")
    (figure,) = drawn
    seen = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_ylabel() for axes in seen] == ["a", "b", "c", "d"]
    first, second = (axes.get_lines() for axes in seen[:2])
    assert list(first[0].get_ydata()) == [0.1, 0.2]
    assert first[1].get_ydata()[0] == 0.5
    assert len(second) == 1
    assert ink(tmp_path / "curves.png") > 0.005
    panels([{"step": 1, "seed": 0, "eval/other": 1.0}], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
