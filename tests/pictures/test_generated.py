"""Pictures of what was generated."""

import numpy as np
from PIL import Image

from missing_bits.pictures import canvas, generated


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def test_samples_stand_beside_their_nearest(tmp_path):
    """Black samples on the left of white neighbors, a row for each."""
    samples = np.zeros((2, 28, 28, 1), np.uint8)
    shown = np.full((2, 3, 28, 28, 1), 200, np.uint8)
    generated.nearest(samples, shown, tmp_path / "nearest.png")
    page = pixels(tmp_path / "nearest.png")
    row = page[66 + 30]  # through the first row, below the heads
    left = np.flatnonzero((row == 0).all(axis=1))
    right = np.flatnonzero((row == 200).all(axis=1))
    assert len(left) == 84
    assert len(right) == 3 * 84
    assert left.max() + 30 < right.min()


def test_a_film_has_a_frame_for_each(tmp_path):
    frames = [np.full((40, 60, 3), level, np.uint8) for level in (0, 100, 250)]
    generated.growth(frames, [10, 20, 3_000], tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as film:
        assert film.n_frames == 3
        for number, level in enumerate((0, 100, 250)):
            film.seek(number)
            shown = np.asarray(film.convert("L"))
            assert abs(int(shown[40, 30]) - level) < 8
            assert (shown[:18] < 250).any()  # it says after how many updates


def test_a_film_of_points_says_which_are_which(tmp_path):
    """In the very colors of the points, within the picture."""
    frames = [generated.points(np.zeros((5, 2)), np.full((5, 2), 0.5), reach=1.0)] * 2
    generated.growth(frames, [1, 150_000], tmp_path / "a.gif", generated.POINTS)
    with Image.open(tmp_path / "a.gif") as film:
        film.seek(1)
        head = np.asarray(film.convert("RGB"))[:18].astype(int)
    for words, end in zip(generated.POINTS, (generated.POINTS[1].x, 360), strict=True):
        color = np.asarray(canvas.rgb(words.color), int)
        like = (np.abs(head - color).max(axis=2) < 40).any(axis=0)  # of each column
        assert like[words.x : end - 10].sum() > 20
        assert not like[end - 10 : end].any()


def test_points_are_where_they_are():
    """Samples in the upper right corner, real ones in the lower left."""
    frame = generated.points(np.full((5, 2), 0.5), np.full((5, 2), -0.5), reach=1.0)
    height, width = frame.shape[:2]
    marked = (frame < 250).any(axis=2)
    places = np.argwhere(marked) / (height, width)
    assert (np.abs(places - 0.25).max(axis=1) < 0.03).sum() == 0
    upper = np.abs(places - (0.25, 0.75)).max(axis=1) < 0.03
    lower = np.abs(places - (0.75, 0.25)).max(axis=1) < 0.03
    assert upper.any()
    assert lower.any()
    assert (upper | lower).all()
