"""Pictures hold what they were given: pixels of images, colors of classes, correlations."""

import numpy as np
import pytest
from PIL import Image

from missing_bits.data.graphs import graph_set
from missing_bits.pictures import canvas
from missing_bits.pictures import features as features_pictures
from missing_bits.pictures import graphs as graph_pictures
from missing_bits.pictures import images as images_pictures

RNG = np.random.default_rng(0)
BLUE = (0x00, 0x72, 0xB2)
VERMILION = (0xD5, 0x5E, 0x00)


def read(path):
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def holds(picture, image, factor):
    """Return at how many places a picture holds an image [H, W, 3] enlarged by a factor."""
    tile = image.repeat(factor, axis=0).repeat(factor, axis=1)
    height, width = tile.shape[:2]
    found = 0
    for y, x in np.argwhere(np.all(picture == tile[0, 0], axis=-1)):
        found += np.array_equal(picture[y : y + height, x : x + width], tile)
    return found


def share(picture, color):
    return np.mean(np.all(np.abs(picture.astype(int) - color) < 12, axis=-1))


@pytest.mark.parametrize(
    ("side", "channels", "factor"), [(28, 1, 3), (32, 3, 3), (8, 1, 10), (96, 3, 1)]
)
def test_pairs_show_every_pixel_of_both_views(tmp_path, side, channels, factor):
    images = RNG.integers(0, 256, (2, 5, side, side, channels)).astype(np.uint8)
    images[:, :, 0, 0] = [[[0], [50], [100], [150], [200]]] * 2  # few places to look at
    images_pictures.pairs(images[0], images[1], tmp_path / "views.png")
    picture = read(tmp_path / "views.png")
    for image in images.reshape(10, side, side, channels):
        assert holds(picture, np.broadcast_to(image, (side, side, 3)), factor) == 1


def test_views_of_one_image_are_nearer_than_those_of_two(tmp_path):
    shades = np.linspace(0.1, 0.9, 8)  # of four images in two views, all different
    a, b = (
        np.broadcast_to(s[:, None, None, None], (4, 28, 28, 1)) for s in (shades[::2], shades[1::2])
    )
    images_pictures.pairs(a, b, tmp_path / "views.png")
    picture = read(tmp_path / "views.png")[..., 0]
    columns = [np.flatnonzero(np.any(picture == round(255 * s), axis=0)) for s in shades]
    middle = [column.mean() for column in columns]
    assert np.all(np.diff(middle) > 0)
    gaps = np.diff(middle)
    assert max(gaps[::2]) < min(gaps[1::2])


@pytest.mark.parametrize(
    ("count", "side", "channels", "factor"), [(7, 32, 3, 3), (1, 28, 1, 3), (4, 96, 3, 1)]
)
def test_reconstructions_show_every_pixel_of_all_three(tmp_path, count, side, channels, factor):
    images = RNG.integers(0, 256, (3, count, side, side, channels)).astype(np.uint8)
    images[:, :, 0, 0] = (10 * np.arange(3 * count)).reshape(3, count, 1)  # few places to look at
    original = images[0]
    masked = images[1] / 255
    restored = images[2] / np.float32(255)
    images_pictures.reconstructions(original, masked, restored, tmp_path / "restored.png")
    picture = read(tmp_path / "restored.png")
    for image in images.reshape(-1, side, side, channels):
        assert holds(picture, np.broadcast_to(image, (side, side, 3)), factor) == 1


def test_reconstructions_stand_original_masked_restored_and_three_cards_in_a_row(tmp_path):
    """Twelve shades of four images, in the order in which cards show them: 9 in a row, then 3."""
    shades = np.linspace(0.1, 0.9, 12)
    sets = (
        np.broadcast_to(s[:, None, None, None], (4, 28, 28, 1))
        for s in (shades[::3], shades[1::3], shades[2::3])
    )
    images_pictures.reconstructions(*sets, tmp_path / "restored.png")
    picture = read(tmp_path / "restored.png")[
        40:, :, 0
    ]  # below the title, whose edges have all shades
    y, x = np.array([np.argwhere(picture == round(255 * s)).mean(axis=0) for s in shades]).T
    assert np.ptp(y[:9]) == np.ptp(y[9:]) == 0
    assert y[9] > y[0]
    np.testing.assert_array_equal(x[9:], x[:3])
    gaps = np.diff(x[:9])  # between neighbors: two on a card, one between cards, two on a card, ...
    assert np.all(gaps > 0)
    assert max(gaps[[0, 1, 3, 4, 6, 7]]) < min(gaps[[2, 5]])


def test_floats_and_bytes_look_the_same(tmp_path):
    images = RNG.integers(0, 256, (3, 16, 16, 3)).astype(np.uint8)
    images_pictures.pairs(images, images, tmp_path / "bytes.png")
    images_pictures.pairs(images / 255, images / np.float32(255), tmp_path / "floats.png")
    np.testing.assert_array_equal(read(tmp_path / "bytes.png"), read(tmp_path / "floats.png"))


@pytest.mark.parametrize(("count", "k"), [(4, 7), (1, 1)])
def test_neighbors_are_framed_by_class(tmp_path, count, k):
    queries = RNG.integers(0, 256, (count, 28, 28, 1)).astype(np.uint8)
    shown = RNG.integers(0, 256, (count, k, 28, 28, 1)).astype(np.uint8)
    right = np.ones((count, k), bool)
    images_pictures.neighbors(queries, shown, right, tmp_path / "all.png")
    right[0, 0] = False
    images_pictures.neighbors(queries, shown, right, tmp_path / "one.png")
    all_right = read(tmp_path / "all.png")
    one_wrong = read(tmp_path / "one.png")
    for image in [*queries, *shown.reshape(-1, 28, 28, 1)]:
        assert holds(one_wrong, np.broadcast_to(image, (28, 28, 3)), 3) == 1
    changed = np.argwhere(np.any(all_right != one_wrong, axis=-1))
    assert len(changed) == 92**2 - 84**2, "one frame, 4 pixels wide around 84, is of another color"
    assert set(map(tuple, all_right[tuple(changed.T)])) == {BLUE}
    assert set(map(tuple, one_wrong[tuple(changed.T)])) == {VERMILION}


def drawn(monkeypatch, draw, *arguments):
    """Return the figure of a drawing function."""
    figures = []
    make = canvas.figure

    def keep(**settings):
        figures.append(make(**settings))
        return figures[-1]

    monkeypatch.setattr(canvas, "figure", keep)
    draw(*arguments)
    monkeypatch.undo()
    return figures[0]


@pytest.mark.parametrize(("size", "shown"), [(1, 1), (16, 16), (2048, 256)])
def test_the_identity_is_a_red_diagonal_on_white(tmp_path, monkeypatch, size, shown):
    figure = drawn(monkeypatch, features_pictures.correlation, np.eye(size), tmp_path / "c.png")
    image = figure.axes[0].get_images()[0]
    np.testing.assert_array_equal(image.get_array(), np.eye(shown))
    assert image.get_clim() == (-1, 1)
    red, white, blue = (image.cmap(image.norm(value)) for value in (1.0, 0.0, -1.0))
    assert red[0] > 2 * red[2]
    assert min(white[:3]) > 0.9
    assert blue[2] > 2 * blue[0]
    picture = read(tmp_path / "c.png")
    assert share(picture, [round(255 * c) for c in red[:3]]) > 0.002
    assert max(picture.shape) < 1000


def test_a_correlation_is_summed_up_in_its_title(tmp_path, monkeypatch):
    """Diagonal 0.9, 0.5: mean 0.7. Off it 0.3, -0.1: root of (0.09 + 0.01) / 2 = 0.224."""
    c = np.array([[0.9, 0.3], [-0.1, 0.5]])
    title = (
        drawn(monkeypatch, features_pictures.correlation, c, tmp_path / "c.png").axes[0].get_title()
    )
    assert "mean 0.70" in title
    assert "square 0.224" in title


def test_a_map_keeps_classes_apart_in_place_and_color(tmp_path, monkeypatch):
    labels = np.arange(60) % 3
    features = 20 * np.eye(3)[labels] + RNG.normal(size=(60, 3))
    figure = drawn(
        monkeypatch,
        features_pictures.feature_map,
        features,
        labels,
        ["cat", "dog", "emu"],
        tmp_path / "map.png",
    )
    points = [np.asarray(c.get_offsets()) for c in figure.axes[0].collections]
    assert [len(p) for p in points] == [20, 20, 20]
    centers = np.array([p.mean(axis=0) for p in points])
    for label, mine in enumerate(points):
        distances = np.linalg.norm(mine[:, None] - centers[None], axis=-1)  # [20, 3]
        np.testing.assert_array_equal(distances.argmin(axis=1), label)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["cat", "dog", "emu"]
    assert "t-SNE of 60 examples" in figure.axes[0].get_title()
    picture = read(tmp_path / "map.png")
    assert share(picture, BLUE) > 0


def test_a_map_of_many_classes_names_them_beside_it(tmp_path, monkeypatch):
    names = [f"a class of number {i}" for i in range(80)]
    labels = np.arange(160) % 80
    figure = drawn(
        monkeypatch,
        features_pictures.feature_map,
        RNG.normal(size=(160, 8)),
        labels,
        names,
        tmp_path / "map.png",
    )
    looks = {
        (tuple(c.get_facecolor()[0]), c.get_paths()[0].vertices.tobytes())
        for c in figure.axes[0].collections
    }
    assert len(looks) == 60
    assert figure.legends[0].get_title().get_text() == "first 60 of 80 classes"
    assert sum(len(c.get_offsets()) for c in figure.axes[0].collections) == 120
    legend = figure.legends[0].get_window_extent()
    axes = figure.axes[0].get_window_extent()
    assert legend.x0 > axes.x1
    assert legend.x1 <= figure.bbox.x1
    assert legend.y0 >= 0


@pytest.mark.parametrize(("n", "d"), [(1, 4), (2, 1), (5, 300), (9, 2), (10, 1), (12, 3)])
def test_a_map_of_few_features_is_drawn_all_the_same(tmp_path, n, d):
    features_pictures.feature_map(
        RNG.normal(size=(n, d)), np.arange(n) % 2, ["odd", "even"], tmp_path / "map.png"
    )
    assert share(read(tmp_path / "map.png"), BLUE) > 0


@pytest.mark.parametrize("value", [0.0, 0.1])
def test_a_map_of_collapsed_features_is_drawn_all_the_same(tmp_path, monkeypatch, value):
    features = np.full((40, 5), value)
    labels = np.arange(40) % 2
    figure = drawn(
        monkeypatch,
        features_pictures.feature_map,
        features,
        labels,
        ["odd", "even"],
        tmp_path / "map.png",
    )
    assert "principal components" in figure.axes[0].get_title()


def test_a_map_is_the_same_at_every_call_and_leaves_pyplot_alone(tmp_path, monkeypatch):
    import matplotlib.pyplot as plt

    before = plt.get_backend()
    monkeypatch.setattr(features_pictures, "_POINTS", 200)
    features = RNG.normal(size=(500, 4))
    labels = RNG.integers(0, 2, 500)
    for name in ("a.png", "b.png"):
        features_pictures.feature_map(features, labels, ["odd", "even"], tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert plt.get_fignums() == []
    assert plt.get_backend() == before


def test_a_confusion_tells_percents_of_each_class(tmp_path, monkeypatch):
    """Of four cats three are right and one is taken for an emu; both dogs are taken for cats.

    There is no emu.
    """
    labels = np.array([0, 0, 1, 0, 1, 0])
    guesses = np.array([0, 2, 0, 0, 0, 0])
    figure = drawn(
        monkeypatch,
        features_pictures.confusion,
        labels,
        guesses,
        ["cat", "dog", "emu"],
        tmp_path / "c.png",
    )
    axes = figure.axes[0]
    np.testing.assert_array_equal(
        axes.get_images()[0].get_array(), [[75, 0, 25], [100, 0, 0], [0, 0, 0]]
    )
    written = {text.get_position(): text.get_text() for text in axes.texts}  # (guess, class)
    assert written == {(0, 0): "75", (2, 0): "25", (0, 1): "100"}
    assert "50.0 % are right" in axes.get_title()  # three of six
    assert "first" not in axes.get_title()
    for ticks in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [tick.get_text() for tick in ticks] == ["cat", "dog", "emu"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("taken for", "class")
    assert read(tmp_path / "c.png").shape[0] > 100


def test_a_confusion_is_readable_dark_where_many_are(tmp_path, monkeypatch):
    """The darkest cell is a certain one, with white figures on it.

    All names lie within the picture.
    """
    names = [f"a class of number {i}" for i in range(10)]
    labels = np.arange(100) % 10
    figure = drawn(
        monkeypatch, features_pictures.confusion, labels, labels, names, tmp_path / "c.png"
    )
    axes = figure.axes[0]
    image = axes.get_images()[0]
    certain, never = (image.cmap(image.norm(share))[:3] for share in (100.0, 0.0))
    assert sum(certain) < 1 < 2.5 < sum(never)
    assert {text.get_color() for text in axes.texts} == {"white"}
    for name in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        box = name.get_window_extent()
        assert min(box.x0, box.y0) >= 0
        assert box.x1 <= figure.bbox.x1
        assert box.y1 <= figure.bbox.y1


def test_a_confusion_of_many_classes_shows_the_first_and_counts_all(tmp_path, monkeypatch):
    """Class 44 is taken for class 0: it is not shown, and 49 of 50 are right all the same."""
    labels = np.arange(50)
    guesses = np.where(labels == 44, 0, labels)
    figure = drawn(
        monkeypatch,
        features_pictures.confusion,
        labels,
        guesses,
        [str(i) for i in labels],
        tmp_path / "c.png",
    )
    np.testing.assert_array_equal(figure.axes[0].get_images()[0].get_array(), 100 * np.eye(40))
    assert "98.0 % are right; the first 40 of 50 classes" in figure.axes[0].get_title()


@pytest.mark.parametrize(("side", "shrunk"), [(168, 168), (169, 84), (224, 112), (1000, 166)])
def test_large_images_are_made_smaller(side, shrunk):
    """By whole factors: squares of pixels become their means, of 0 and 101 about half of 101."""
    image = np.zeros((1, side, side, 3), np.uint8)
    image[:, ::2, :, 1] = 101
    (tile,) = canvas.tiles(image)
    assert tile.shape == (shrunk, shrunk, 3)
    assert np.all(tile[..., [0, 2]] == 0)
    if shrunk < side:
        assert np.all(np.abs(tile[..., 1].astype(int) - 50) <= 1 + 51 * (side // shrunk % 2))


def test_an_image_of_a_few_rows_keeps_them():
    assert canvas.tiles(np.zeros((1, 2, 1000, 1), np.uint8)).shape == (1, 1, 500, 3)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tabby cat", "tabby cat"),
        ("a class of a very long name 17", "a class of ...e 17"),
        ("two\nlines\tand", "two?lines?and"),
    ],
)
def test_names_are_short_and_on_one_line(text, expected):
    assert canvas.short(text, 18) == expected


NAMES = (
    "$x^{$",
    "_hidden",
    "a" * 500,
    *(f"n{i}: a class whose name goes on for a very long time" for i in range(62)),
)


def test_names_of_classes_may_be_long_or_mean_something_to_matplotlib(tmp_path):
    """None of them takes the room of the drawing, is read as mathematics, or is left out."""
    labels = np.arange(200) % len(NAMES)
    features = RNG.normal(size=(200, 3))
    features_pictures.feature_map(features[:9], labels[:9], NAMES, tmp_path / "features.png")
    features_pictures.confusion(labels, labels, NAMES, tmp_path / "confusion.png")
    assert share(read(tmp_path / "features.png"), BLUE) > 0
    dark_blue = (0x08, 0x30, 0x6B)
    assert share(read(tmp_path / "confusion.png"), dark_blue) > 0.01


def test_a_page_is_as_wide_as_its_title(tmp_path):
    """Else the end of the title is cut off: nothing is drawn at the right edge, but much near it."""
    title = "Original, noisy, denoised; by filters: gaussian, median, nonlocal means, and so on"
    canvas.save(canvas.blank(40, 60), title, [], tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        head = np.asarray(picture.convert("L"))[:40]
    drawn = np.flatnonzero((head < 128).any(axis=0))
    assert 8 <= head.shape[1] - 1 - drawn.max() <= 40


def test_a_drawn_graph_names_all_that_it_shows(tmp_path, monkeypatch):
    """Parts that are not linked, nodes without a label, more classes than colors, odd names."""
    many = len(canvas.COLORS) + 3
    labels = np.arange(20) % many
    labels[19] = -1
    data = graph_set(
        np.eye(20, dtype=np.float32),
        np.array([0, 1, 5]),
        np.array([1, 0, 6]),
        labels=labels,
        classes=["$x^", "_hidden", *map(str, range(many - 2))],
        train=np.arange(5),
        validation=np.arange(5, 8),
        test=np.arange(8, 19),
        where="pieces",
    )
    path = tmp_path / "graph.png"
    figure = drawn(monkeypatch, graph_pictures.classes, data, labels, None, path)
    told = [text.get_text() for text in figure.legends[0].get_texts()]
    assert told[:2] == [r"\$x^", " _hidden"]
    assert told[-2:] == ["3 more in the same colors", "no label"]
    assert "20 nodes" in figure.get_suptitle()
