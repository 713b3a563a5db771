"""Colors: torchvision's stored results, what an operation leaves alone, the jitter's order."""

import itertools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from missing_bits.augment import color

STORED = dict(np.load(pathlib.Path(__file__).with_name("reference.npz")))
BLENDS = {
    "brightness": color.brightness,
    "contrast": color.contrast,
    "saturation": color.saturation,
}
blend = jax.jit(color.blend)
hue = jax.jit(color.hue)
jitter = jax.jit(color.jitter)
images = npst.arrays(np.uint8, (3, 5, 4)).map(lambda image: image.astype(np.float32) / 255)


def stored(operation: str) -> list[tuple[str, str]]:
    """List the stored results of an operation as (name of the image, parameters)."""
    names = (name.split("/") for name in STORED)
    return [(name[0], name[2]) for name in names if name[1] == operation]


@pytest.mark.parametrize("operation", BLENDS)
def test_brightness_contrast_and_saturation_equal_torchvision(operation):
    assert len(stored(operation)) == 9
    for image, factor in stored(operation):
        found = blend(STORED[f"{image}/input"], BLENDS[operation](jnp.float32(factor)))
        np.testing.assert_allclose(found, STORED[f"{image}/{operation}/{factor}"], atol=1e-6)


def test_hue_equals_torchvision():
    """The image holds all corners of the color cube: black, white and the pure colors too."""
    assert len(stored("hue")) == 8
    for image, shift in stored("hue"):
        found = hue(STORED[f"{image}/input"], jnp.float32(shift))
        np.testing.assert_allclose(found, STORED[f"{image}/hue/{shift}"], atol=2e-6)


@pytest.mark.parametrize("image", ["color", "odd", "gray"])
def test_solarize_equals_torchvision(image):
    np.testing.assert_allclose(
        color.solarize(STORED[f"{image}/input"]), STORED[f"{image}/solarize"], atol=1e-7
    )


@pytest.mark.parametrize("image", ["color", "odd"])
def test_luma_and_normalize_equal_torchvision(image):
    x = STORED[f"{image}/input"]
    np.testing.assert_allclose(color.luma(x), STORED[f"{image}/luma"], atol=1e-6)
    last = np.moveaxis(x, 0, -1)
    found = color.normalize(last, [0.4, 0.5, 0.6], [0.2, 0.3, 0.25])
    np.testing.assert_allclose(np.moveaxis(found, -1, 0), STORED[f"{image}/normalize"], atol=1e-6)
    batch = color.normalize(jnp.stack([last, last]), (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
    np.testing.assert_array_equal(batch[1], found)


@pytest.mark.parametrize("image", ["color", "odd"])
def test_a_chain_of_the_four_equals_torchvision(image):
    order = jnp.array([color.HUE, color.CONTRAST, color.SATURATION, color.BRIGHTNESS])
    found = jitter(STORED[f"{image}/input"], jnp.array([1.4, 1.4, 0.8, 0.1]), order)
    np.testing.assert_allclose(found, STORED[f"{image}/chain"], atol=3e-6)


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_jitter_is_its_operations_in_any_order(order):
    x = STORED["color/input"]
    factors = np.array([1.35, 0.6, 1.7, 0.13], np.float32)
    found = jitter(x, factors, jnp.array(order))
    expected = x
    for operation in order:
        if operation == color.HUE:
            expected = hue(expected, factors[3])
        else:
            expected = blend(
                expected, list(BLENDS.values())[operation](jnp.asarray(factors)[operation])
            )
    np.testing.assert_allclose(found, expected, atol=3e-6)
    others = jitter(x, factors, jnp.array(order[::-1]))
    assert np.abs(found - others).max() > 0.01, "the order matters"


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_jitter_of_a_gray_image_has_brightness_and_contrast_alone(order):
    x = STORED["gray/input"]
    factors = jnp.array([1.3, 0.6, 0.1, 0.4])
    mean = np.mean(x if order[0] == 1 else np.clip(1.3 * x, 0, 1))
    expected = np.clip(0.6 * x + 0.4 * mean, 0, 1) if order[0] == 1 else np.clip(1.3 * x, 0, 1)
    expected = np.clip(1.3 * expected, 0, 1) if order[0] == 1 else 0.6 * expected + 0.4 * mean
    np.testing.assert_allclose(jitter(x, factors, jnp.array(order)), expected, atol=1e-6)


def test_by_hand():
    """One pixel (0.8, 0.4, 0.2) beside a black one.

    Its luma is 0.2989 * 0.8 + 0.587 * 0.4 + 0.114 * 0.2 = 0.49672, their mean luma half of that,
    0.24836.
    """
    x = jnp.array([[[0.8, 0.0]], [[0.4, 0.0]], [[0.2, 0.0]]])
    half = jnp.float32(0.5)
    twice = jnp.float32(2)
    np.testing.assert_allclose(color.luma(x)[0, 0], [0.49672, 0], atol=1e-6)
    pixels = {
        "brightness": [0.4, 0.2, 0.1],
        "contrast": [0.52418, 0.32418, 0.22418],  # 0.5 * 0.8 + 0.5 * 0.24836, and so on
        "saturation": [0.64836, 0.44836, 0.34836],  # 0.5 * 0.8 + 0.5 * 0.49672, and so on
    }
    for name, expected in pixels.items():
        np.testing.assert_allclose(blend(x, BLENDS[name](half))[:, 0, 0], expected, atol=1e-6)
    np.testing.assert_allclose(
        blend(x, color.brightness(twice))[:, 0, 0], [1, 0.8, 0.4]
    )  # 1.6 is clipped
    # Value 0.8, chroma 0.6, hue (0.4 - 0.2) / 0.6 = 1/3 of a sixth. A sixth on, red falls by 1/3 of
    # the chroma.
    np.testing.assert_allclose(hue(x, jnp.float32(1 / 6))[:, 0, 0], [0.6, 0.8, 0.2], atol=1e-6)


@settings(max_examples=50, deadline=None)
@given(
    image=images,
    factor=st.floats(0, 2, width=32),
    shift=st.floats(-0.5, 0.5, width=32),
    operation=st.integers(0, 3),
)
def test_values_stay_between_0_and_1(image, factor, shift, operation):
    done = (
        hue(image, shift)
        if operation == 3
        else blend(image, list(BLENDS.values())[operation](jnp.float32(factor)))
    )
    assert float(done.min()) >= 0
    assert float(done.max()) <= 1


@settings(max_examples=30, deadline=None)
@given(image=images)
def test_factors_of_1_and_a_shift_of_0_change_nothing_at_all(image):
    for weights in BLENDS.values():
        np.testing.assert_array_equal(blend(image, weights(jnp.float32(1))), image)
    np.testing.assert_array_equal(hue(image, jnp.float32(0)), image)
    np.testing.assert_array_equal(
        jitter(image, jnp.array([1.0, 1, 1, 0]), jnp.array([2, 3, 0, 1])), image
    )


@settings(max_examples=30, deadline=None)
@given(image=images, factor=st.floats(0, 1, width=32), shift=st.floats(-0.5, 0.5, width=32))
def test_each_operation_leaves_alone_what_it_should(image, factor, shift):
    """With factors up to 1 nothing is clipped."""
    factor = jnp.float32(factor)
    luma = color.luma(image)
    np.testing.assert_allclose(
        color.luma(blend(image, color.saturation(factor))), luma, atol=2e-4
    )  # weights: 0.9999
    contrasted = blend(image, color.contrast(factor))
    np.testing.assert_allclose(color.luma(contrasted).mean(), luma.mean(), atol=2e-4)
    turned = hue(image, shift)
    np.testing.assert_allclose(turned.max(axis=0), image.max(axis=0), atol=1e-6)
    np.testing.assert_allclose(turned.min(axis=0), image.min(axis=0), atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(image=images)
def test_a_third_of_a_turn_hands_each_channel_to_the_next(image):
    np.testing.assert_allclose(hue(image, jnp.float32(1 / 3)), np.roll(image, 1, axis=0), atol=2e-6)


@settings(max_examples=30, deadline=None)
@given(image=images)
def test_half_a_turn_is_the_same_either_way(image):
    np.testing.assert_allclose(
        hue(image, jnp.float32(0.5)), hue(image, jnp.float32(-0.5)), atol=2e-6
    )


def test_solarize_inverts_from_128_of_255_up():
    levels = np.arange(256, dtype=np.float32).reshape(1, 16, 16) / 255
    expected = (
        np.where(np.arange(256) >= 128, 255 - np.arange(256), np.arange(256)).reshape(1, 16, 16)
        / 255
    )
    np.testing.assert_allclose(color.solarize(levels), expected, atol=1e-6)
