"""Statistics over seeds, and the picture of a learning curve."""

import numpy as np
import pytest
from PIL import Image

from missing_bits.eval import statistics
from missing_bits.pictures import curves


@pytest.mark.parametrize(
    ("values", "mean"),
    [
        ([1, 2, 3, 4, 5, 6, 7, 800], (3 + 4 + 5 + 6) / 4),  # two of eight are cut at each end
        ([800, 3, 7, 1, 5, 2, 6, 4], (3 + 4 + 5 + 6) / 4),  # in any order
        ([10, 20, 30, 400], (20 + 30) / 2),
        ([1, 2, 3, 40, 50], (2 + 3 + 40) / 3),  # a quarter of five is one, rounded down
        ([7], 7),
    ],
)
def test_interquartile_mean_by_hand(values, mean):
    assert statistics.interquartile_mean(values) == pytest.approx(mean)


def test_an_interval_covers_its_mean_and_narrows_with_confidence():
    values = [1.0, 2.0, 4.0, 8.0, 16.0]
    low, high = statistics.interval(values)
    narrow_low, narrow_high = statistics.interval(values, 0.5)
    assert min(values) <= low < narrow_low < np.mean(values) < narrow_high < high <= max(values)
    assert statistics.interval(values) == (low, high), "the same at every call"


def test_an_interval_covers_the_truth_about_as_often_as_it_says():
    """Of 200 experiments with 20 normal seeds each, a bootstrap interval of 90 % covers 0 in 170 to 190."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        low, high = statistics.interval(rng.normal(size=20), 0.9)
        covered += low <= 0 <= high
    assert 165 <= covered <= 192


@pytest.mark.parametrize("values", [[3.0], [500.0, 500.0, 500.0]])
def test_a_single_seed_and_equal_values_have_an_interval_of_no_width(values):
    assert statistics.interval(values) == (values[0], values[0])


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
    draw = curves.draw
    draw(rows_of([0]), "eval/return_mean", "env_steps", "dqn on CartPole-v1", tmp_path / "one.png")
    draw(
        rows_of([0, 10, 20]),
        "eval/return_mean",
        "env_steps",
        "dqn on CartPole-v1",
        tmp_path / "three.png",
    )
    assert 0.005 < ink(tmp_path / "one.png") < ink(tmp_path / "three.png"), (
        "seeds and a band, not only a line"
    )


def test_a_curve_shows_the_values_it_was_given(tmp_path, monkeypatch):
    """Mean over seeds at each step that every seed has reached, and every seed; rows of means are passed over."""
    import matplotlib.pyplot as plt

    drawn = []
    monkeypatch.setattr(plt, "close", drawn.append)
    rows = [*rows_of([0, 10]), {"step": 400, "seed": 0, "eval/return_mean": 7.0}]
    curves.draw(rows, "eval/return_mean", "env_steps", "title", tmp_path / "curve.png")
    monkeypatch.undo()
    (axes,) = drawn[0].axes
    lines = {tuple(line.get_ydata()) for line in axes.get_lines()}
    assert lines == {(10.0, 20.0, 30.0), (20.0, 30.0, 40.0), (15.0, 25.0, 35.0)}
    assert all(tuple(line.get_xdata()) == (100, 200, 300) for line in axes.get_lines())
    assert (axes.get_title(), axes.get_xlabel(), axes.get_ylabel()) == (
        "title",
        "env steps",
        "return mean",
    )
    plt.close(drawn[0])


def test_no_rows_no_picture(tmp_path):
    curves.draw(
        [{"step": 1, "seed": 0, "train/loss": 1.0}],
        "eval/return_mean",
        "updates",
        "title",
        tmp_path / "c.png",
    )
    assert not list(tmp_path.iterdir())
