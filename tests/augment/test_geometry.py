"""Crops, resampling, shifts: torchvision's stored results, and how random boxes are distributed."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from missing_bits.augment import geometry

STORED = dict(np.load(pathlib.Path(__file__).with_name("reference.npz")))
resized_crop = jax.jit(geometry.resized_crop, static_argnums=(3, 4))
random_shift = jax.jit(geometry.random_shift, static_argnums=2)
NO = jnp.array(False)
YES = jnp.array(True)


def box(*numbers) -> geometry.Box:
    return geometry.Box(*map(jnp.float32, numbers))


def boxes(seed, height, width, scale, ratio) -> geometry.Box:
    """Draw 20,000 boxes. Not compiled: the operations are the same for all sizes."""
    uniforms = jax.random.uniform(jax.random.key(seed), (20_000, geometry.CROP_DRAWS))
    return jax.vmap(lambda u: geometry.crop_box(u, height, width, scale, ratio))(uniforms)


def test_resized_crops_equal_torchvision():
    """The same size, larger and smaller (which needs antialiasing).

    Of square and oblong images and of single rows of pixels.
    """
    crops = [name.split("/") for name in STORED if "/crop/" in name]
    assert len(crops) == 9
    for image, _, numbers in crops:
        *where, height, width = map(int, numbers.split("_"))
        expected = STORED[f"{image}/crop/{numbers}"]
        found = resized_crop(STORED[f"{image}/input"], box(*where), NO, height, width)
        np.testing.assert_allclose(found, expected, atol=2e-6)
        flipped = resized_crop(STORED[f"{image}/input"], box(*where), YES, height, width)
        np.testing.assert_allclose(flipped, expected[..., ::-1], atol=2e-6)


@pytest.mark.parametrize("image", ["color", "odd", "gray"])
def test_a_flip_of_the_whole_image_equals_torchvision_exactly(image):
    x = STORED[f"{image}/input"]
    height, width = x.shape[1:]
    np.testing.assert_array_equal(
        resized_crop(x, box(0, 0, height, width), YES, height, width), STORED[f"{image}/flip"]
    )


def test_by_hand():
    """Two pixels to four: centers at 0.25, 0.75, 1.25, 1.75 of [0, 2), pixels' own at 0.5 and 1.5.

    Four to two: triangles two wide at 1 and 3; pixels 0.5, 0.5, 1.5 away weigh 3/4, 3/4, 1/4,
    together 7/4.
    """
    x = jnp.array([[[7.0, 4.0, 8.0, 9.0]]])
    np.testing.assert_allclose(resized_crop(x, box(0, 1, 1, 2), NO, 1, 4)[0, 0], [4, 5, 7, 8])
    halved = [(3 * 7 + 3 * 4 + 8) / 7, (4 + 3 * 8 + 3 * 9) / 7]
    np.testing.assert_allclose(resized_crop(x, box(0, 0, 1, 4), NO, 1, 2)[0, 0], halved, rtol=1e-6)
    np.testing.assert_allclose(
        resized_crop(x, box(0, 0, 1, 4), YES, 1, 2)[0, 0], halved[::-1], rtol=1e-6
    )


@settings(max_examples=40, deadline=None)
@given(data=st.data(), flip=st.booleans())
def test_a_crop_blends_the_pixels_inside_it_alone(data, flip):
    """Constant inside, anything outside: constant.

    Linear inside: linear, but for half a pixel at the edges.
    """
    top = data.draw(st.integers(0, 8))
    left = data.draw(st.integers(0, 10))
    height = data.draw(st.integers(1, 9 - top))
    width = data.draw(st.integers(1, 11 - left))
    where = box(top, left, height, width)
    flip = jnp.array(flip)
    constant = np.random.default_rng(0).random((2, 9, 11), np.float32)
    constant[:, top : top + height, left : left + width] = 0.25
    np.testing.assert_allclose(resized_crop(constant, where, flip, 9, 11), 0.25, atol=1e-6)
    y, x = np.mgrid[:9, :11].astype(np.float32)
    found = resized_crop((2 * y + 3 * x)[None] / 50, where, flip, 9, 11)[0]
    rows = top + np.clip((np.arange(9) + 0.5) * height / 9 - 0.5, 0, height - 1)
    columns = left + np.clip((np.arange(11) + 0.5) * width / 11 - 0.5, 0, width - 1)
    expected = (2 * rows[:, None] + 3 * (columns[::-1] if flip else columns)[None, :]) / 50
    np.testing.assert_allclose(found, expected, atol=1e-5)


@settings(max_examples=10, deadline=None)
@given(
    height=st.integers(1, 40), width=st.integers(1, 40),
    scale=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)),
    ratio=st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)),
)  # fmt: skip
def test_boxes_are_whole_pixels_inside_the_image(height, width, scale, ratio):
    found = boxes(0, height, width, tuple(sorted(scale)), tuple(sorted(ratio)))
    for numbers, least in zip(found, (0, 0, 1, 1), strict=True):
        assert np.all(numbers == np.round(numbers))
        assert np.all(numbers >= least)
    assert np.all(found.top + found.height <= height)
    assert np.all(found.left + found.width <= width)


def test_area_is_uniform_and_ratio_log_uniform_where_every_box_fits():
    """The widest is sqrt(0.5 * 4/3) = 0.82 of the side. On 4,000 pixels rounding does not show."""
    found = boxes(1, 4000, 4000, (0.1, 0.5), (3 / 4, 4 / 3))
    area = np.float64(found.height) * np.float64(found.width) / 4000**2
    log_ratio = np.log(np.float64(found.width) / np.float64(found.height))
    assert scipy.stats.kstest(area, scipy.stats.uniform(0.1, 0.4).cdf).pvalue > 1e-3
    assert (
        scipy.stats.kstest(
            log_ratio, scipy.stats.uniform(np.log(3 / 4), 2 * np.log(4 / 3)).cdf
        ).pvalue
        > 1e-3
    )
    assert abs(scipy.stats.pearsonr(area, log_ratio).statistic) < 3 / np.sqrt(len(area))
    for start, room in ((found.top, 4000 - found.height), (found.left, 4000 - found.width)):
        assert scipy.stats.kstest(start / (room + 1), "uniform").pvalue > 1e-3


def test_area_and_ratio_stay_within_their_bounds():
    """But for the rounding of either side: at most 1/2 of at least 0.24 * 32 = 7.8, or 6.4 %."""
    found = boxes(2, 32, 32, (0.08, 1.0), (3 / 4, 4 / 3))
    area = found.height * found.width / 32**2
    ratio = found.width / found.height
    assert 0.08 * 0.936**2 < area.min() < 0.09
    assert 0.99 < area.max() <= 1
    assert 3 / 4 * 0.87 < ratio.min() < 0.76
    assert 1.32 < ratio.max() < 4 / 3 * 1.14


def test_places_are_uniform():
    """A quarter of 8x8 is 4x4, which has 5 places along each axis."""
    found = boxes(3, 8, 8, (0.25, 0.25), (1.0, 1.0))
    np.testing.assert_array_equal(found.height, 4)
    np.testing.assert_array_equal(found.width, 4)
    times = np.bincount(np.int32(5 * found.top + found.left), minlength=25)
    assert len(times) == 25
    assert scipy.stats.chisquare(times).pvalue > 1e-3


def test_boxes_that_do_not_fit_are_drawn_again():
    """The first area that fits counts: large ones are rarer, as many ratios do not fit them."""
    found = boxes(4, 100, 100, (0.9, 1.0), (3 / 4, 4 / 3))
    rng = np.random.default_rng(0)
    area = rng.uniform(0.9, 1, (20_000, 10))
    log_ratio = rng.uniform(np.log(3 / 4), np.log(4 / 3), (20_000, 10))
    widths = np.round(100 * np.sqrt(area * np.exp(log_ratio)))
    heights = np.round(100 * np.sqrt(area / np.exp(log_ratio)))
    fits = (widths <= 100) & (heights <= 100)
    first = np.arange(20_000), np.argmax(fits, axis=1)
    some = fits.any(axis=1)
    expected = np.where(some, widths[first], 100), np.where(some, heights[first], 100)
    for drawn, same in zip((found.width, found.height), expected, strict=True):
        assert scipy.stats.ks_2samp(np.asarray(drawn), same).pvalue > 1e-3


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (10, 100, (0, 43, 10, 13)),  # 10 * 4/3 = 13.3 wide, (100 - 13) // 2 = 43
        (100, 10, (43, 0, 13, 10)),  # 10 / (3/4) = 13.3 high
    ],
)
def test_where_nothing_fits_the_center_is_taken(height, width, expected):
    """The whole area of an oblong image in a ratio near 1 is higher or wider than the image."""
    found = boxes(0, height, width, (1.0, 1.0), (3 / 4, 4 / 3))
    for numbers, number in zip(found, expected, strict=True):
        np.testing.assert_array_equal(numbers, number)


@pytest.mark.parametrize("side", [1, 28, 31, 224])
def test_scale_1_and_ratio_1_take_a_square_image_whole(side):
    found = boxes(0, side, side, (1.0, 1.0), (1.0, 1.0))
    for numbers, number in zip(found, (0, 0, side, side), strict=True):
        np.testing.assert_array_equal(numbers, number)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_random_shift_repeats_edges_and_is_uniform(dtype):
    """Each of the (2 * 2 + 1)^2 shifts; expected values from a padded copy."""
    image = np.arange(5 * 6 * 2).reshape(5, 6, 2).astype(dtype)
    count = 5000
    pad = 2
    keys = jax.random.split(jax.random.key(0), count)
    images = np.broadcast_to(image, (count, *image.shape))
    found = np.asarray(random_shift(keys, images, pad))
    assert found.dtype == dtype
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), mode="edge")
    crops = [padded[y : y + 5, x : x + 6] for y in range(5) for x in range(5)]
    times = np.array([np.sum(np.all(found == crop, axis=(1, 2, 3))) for crop in crops])
    assert times.sum() == count
    assert scipy.stats.chisquare(times).pvalue > 1e-3


def test_random_shift_depends_on_an_images_own_key():
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 4), np.uint8)
    keys = jax.random.split(jax.random.key(1), 6)
    whole = random_shift(keys, images, 3)
    np.testing.assert_array_equal(random_shift(keys[2:4], images[2:4], 3), whole[2:4])
    np.testing.assert_array_equal(random_shift(keys, images, 0), images)
