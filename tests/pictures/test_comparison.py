"""Pictures of several runs: texts stay texts, ink follows the page, nothing is silently cut."""

import xml.etree.ElementTree as ElementTree

import matplotlib.figure
import numpy as np
import pytest
from PIL import Image

from missing_bits.pictures import canvas, comparison
from missing_bits.pictures.comparison import Curve

HOSTILE = "<script>alert(1)</script> $\\frac{$ & \"'"
NAMESPACE = "{http://www.w3.org/2000/svg}"


def curve(letter="A", label="defaults", height=1.0):
    steps = np.array([0, 500, 1000])
    mean = height * np.array([0.0, 0.5, 1.0])
    return Curve(letter, label, 3, steps, mean, mean - 0.1, mean + 0.1)


def texts(svg):
    """The texts of a picture, which must be one element of well-formed SVG."""
    root = ElementTree.fromstring(svg)
    assert root.tag == f"{NAMESPACE}svg"
    return ["".join(element.itertext()) for element in root.iter(f"{NAMESPACE}text")]


def drawn(draw):
    """The axes that were drawn on."""
    axes = matplotlib.figure.Figure().subplots()
    draw(axes)
    return axes


def test_curves_name_themselves():
    draw = comparison.curves(
        [curve(), curve("B", "double")], "CartPole-v1", "eval/x_y", "env_steps"
    )
    said = texts(comparison.svg(draw))
    assert {"CartPole-v1", "env steps", "x y", "1,000"} <= set(said)
    assert {"A: defaults (3 seeds)", "B: double (3 seeds)"} <= set(said)


def test_long_names_keep_the_number_of_seeds():
    (said,) = [
        text
        for text in texts(
            comparison.svg(comparison.curves([curve(label="w" * 99)], "t", "eval/x", "updates"))
        )
        if text.startswith("A")
    ]
    assert len(said) == 44
    assert said.endswith("...wwww (3 seeds)")


def test_many_curves_are_named_in_brief():
    many = [curve(chr(65 + i), "words that are too long for it", i) for i in range(6)]
    said = texts(comparison.svg(comparison.curves(many, "t", "eval/x", "updates")))
    named = [text for text in said if "words" in text]
    assert [text[:8] for text in named] == [f"{letter}: words" for letter in "ABCDEF"]
    assert max(map(len, named)) <= 26


def test_the_same_settings_have_the_same_color_on_every_task():
    def colors(*labels):
        named = [curve(chr(65 + i), label) for i, label in enumerate(labels)]
        lines = drawn(comparison.curves(named, "t", "eval/x", "updates")).get_lines()
        return {line.get_label()[3:]: line.get_color() for line in lines}

    one = colors("dqn", "rainbow", "iqn")
    assert len(set(one.values())) == 3
    assert colors("rainbow", "iqn", "dqn") == one


@pytest.mark.parametrize(
    "draw",
    [
        comparison.curves([curve(label=HOSTILE)], HOSTILE, HOSTILE, HOSTILE),
        comparison.profiles(np.array([0.0, 1.0]), {HOSTILE: (np.ones(2),) * 3}),
        comparison.effect(HOSTILE, {HOSTILE: [1.0], "b": [2.0, 3.0]}, HOSTILE, HOSTILE),
        comparison.effect("a", {"": [1.0], "\u202e\x00\n": [1.0], "木": [1.0]}, "木", "木"),
    ],
)
def test_names_are_text_whatever_they_hold(draw):
    svg = comparison.svg(draw)
    assert texts(svg)
    assert "<script" not in svg
    assert "http://" not in svg.replace("http://www.w3.org/", "")


def test_ink_is_the_color_of_the_page():
    svg = comparison.svg(comparison.curves([curve()], "t", "eval/x", "updates"))
    assert canvas.INK not in svg
    assert "currentColor" in svg
    assert "#000000" not in svg
    assert "#ffffff" not in svg, "the background is the page's"
    assert canvas.COLORS[0] in svg


def test_the_same_picture_is_the_same_text():
    draw = comparison.curves([curve()], "t", "eval/x", "updates")
    assert comparison.svg(draw) == comparison.svg(draw)


def test_profiles_beyond_the_colors_are_told():
    thresholds = np.linspace(0, 1, 3)
    many = {f"s{i}": (np.ones(3),) * 3 for i in range(comparison.MOST + 2)}
    assert "Performance profiles (10 of 12)" in texts(
        comparison.svg(comparison.profiles(thresholds, many))
    )


@pytest.mark.parametrize(
    ("values", "scale", "places"),
    [
        (["1", "2", "4"], "linear", [1, 2, 4]),
        (["0.0001", "0.01"], "log", [0.0001, 0.01]),
        (["0", "100"], "linear", [0, 100]),  # 0 has no logarithm
        (["adam", "lars"], "linear", [0, 1]),
        (["1", "nan"], "linear", [0, 1]),
    ],
)
def test_options_stand_at_their_numbers_or_side_by_side(values, scale, places):
    points = {value: [float(i), float(i + 2)] for i, value in enumerate(values)}
    axes = drawn(comparison.effect("o", points, "eval/x", "t"))
    assert axes.get_xscale() == scale
    means = axes.lines[-1]
    if scale == "log":
        assert axes.xaxis.get_major_formatter()(0.001, 0) == "0.001"
    np.testing.assert_allclose(means.get_xdata(), places)
    np.testing.assert_allclose(means.get_ydata(), [i + 1 for i in range(len(values))])


def test_means_are_drawn_of_values_that_recur():
    once = drawn(comparison.effect("o", {"1": [1.0], "2": [3.0], "3": [2.0]}, "eval/x", "t"))
    assert [line.get_linestyle() for line in once.lines] == ["None"] * 3
    assert once.get_legend() is None


@pytest.mark.parametrize("ending", [".png", ".svg", ".pdf"])
def test_one_file_holds_them_all(ending, tmp_path):
    draw = comparison.curves([curve()], "t", "eval/x", "updates")
    path = tmp_path / f"three{ending}"
    comparison.save([draw] * 3, path)
    assert path.stat().st_size > 1000
    if ending == ".png":
        page = np.asarray(Image.open(path).convert("L"))
        height, width = page.shape
        assert page[height // 2 :, width // 2 + 10 :].min() == 255, "the fourth place is empty"
        assert page[: height // 2, width // 2 + 10 :].min() < 200
