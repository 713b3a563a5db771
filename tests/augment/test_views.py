"""Views: the rate of every operation, their order, each image by itself, sizes, bad settings."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from missing_bits.augment import color, geometry, views
from missing_bits.errors import UserError

OFF = views.Views(
    crop_scale=(1.0, 1.0),
    crop_ratio=(1.0, 1.0),
    flip=0.0,
    jitter=0.0,
    gray=0.0,
    solarize=(0.0, 0.0),
)
PUBLISHED = views.Views(blur=(1.0, 0.1))
COUNT = 4000
draw = jax.jit(views.draw, static_argnums=2)


def two_views(keys, images, config):
    """Draw the first and the second view of every image."""
    return draw(keys, images, (config.first, config.second))


def off_but(**settings) -> views.Views:
    return dataclasses.replace(OFF, **settings)


def keys_of(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def random_images(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def scaled(images):
    return images.astype(np.float32) / 255


def many(config, image):
    """Draw both views of COUNT copies of an image; two arrays [COUNT, H, W, C]."""
    found = two_views(keys_of(COUNT), np.broadcast_to(image, (COUNT, *image.shape)), config)
    return [np.asarray(x) for x in found]


def assert_rate(happened, probability):
    """Insist on 3 sigma, and on never and always."""
    count = len(happened)
    sigma = np.sqrt(count * probability * (1 - probability))
    assert abs(np.sum(happened) - count * probability) <= 3 * sigma


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (OFF, (32, 32, 3)),
        (OFF, (9, 9, 1)),
        (off_but(jitter=1.0, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0), (7, 7, 3)),
        (off_but(jitter=1e-30, blur=(1e-30, 1e-30)), (32, 32, 3)),
        (off_but(jitter=1e-30, blur=(1e-30, 1e-30)), (28, 28, 1)),
    ],
    ids=["off", "off, gray", "no strength", "never", "never, gray"],
)
def test_what_is_off_changes_nothing(config, shape):
    """All but the first two compute what they never apply."""
    images = random_images(5, *shape)
    for found in two_views(keys_of(5), images, config):
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, scaled(images), rtol=2e-7, atol=0)


def test_an_oblong_image_stays_whole_at_its_own_ratio():
    images = random_images(3, 24, 40, 3)
    config = off_but(crop_ratio=(40 / 24, 40 / 24))
    np.testing.assert_allclose(
        two_views(keys_of(3), images, config)[0], scaled(images), rtol=2e-7, atol=0
    )


def test_rate_of_flips():
    image = random_images(4, 4, 3)
    for found in many(off_but(flip=0.3), image):
        flipped = np.abs(found - scaled(image[:, ::-1])).max(axis=(1, 2, 3)) < 1e-6
        same = np.abs(found - scaled(image)).max(axis=(1, 2, 3)) < 1e-6
        assert np.all(flipped ^ same)
        assert_rate(flipped, 0.3)


def test_rate_of_the_jitter():
    image = random_images(4, 4, 3)
    for found in many(off_but(jitter=0.8), image):
        assert_rate(np.abs(found - scaled(image)).max(axis=(1, 2, 3)) > 1e-6, 0.8)


def test_the_four_of_the_jitter_come_all_or_none(monkeypatch):
    factors, _ = drawn_jitter(monkeypatch, 3, off_but(jitter=0.8))
    changed = np.abs(factors - [1, 1, 1, 0]) > 1e-6
    np.testing.assert_array_equal(changed.any(axis=1), changed.all(axis=1))
    assert_rate(changed[:, 0], 0.8)


def test_rate_of_gray():
    image = random_images(4, 4, 3)
    for found in many(off_but(gray=0.2), image):
        gray = np.all(np.ptp(found, axis=3) == 0, axis=(1, 2))
        assert_rate(gray, 0.2)
        np.testing.assert_allclose(
            found[~gray], np.broadcast_to(scaled(image), found[~gray].shape), rtol=2e-7
        )
        luma = np.tensordot(scaled(image), [0.2989, 0.587, 0.114], 1)[None, ..., None]
        np.testing.assert_allclose(found[gray], np.broadcast_to(luma, found[gray].shape), atol=1e-6)


@pytest.mark.parametrize(("name", "rates"), [("blur", (1.0, 0.1)), ("solarize", (0.0, 0.2))])
def test_the_views_differ_in_their_rates_of_blur_and_solarize(name, rates):
    image = random_images(4, 4, 3)
    for found, rate in zip(
        many(off_but(**{name: rates}, blur_sigma=(1.0, 2.0)), image), rates, strict=True
    ):
        assert_rate(np.abs(found - scaled(image)).max(axis=(1, 2, 3)) > 1e-6, rate)


def test_every_operation_happens_independently_of_the_others_and_of_the_other_view():
    """A white stripe on gray: solarized, black; flipped, on the other side."""
    image = np.full((4, 4, 1), 64, np.uint8)
    image[:, 0] = 255
    found = many(off_but(flip=0.5, solarize=(0.5, 0.5)), image)
    flipped = [np.abs(x[:, 0, 0, 0] - 64 / 255) < 1e-6 for x in found]  # stripe on the right
    solarized = [x.min(axis=(1, 2, 3)) == 0 for x in found]  # a black stripe
    for one, other in itertools.combinations(flipped + solarized, 2):
        table = np.histogram2d(one, other, bins=2)[0]
        assert scipy.stats.chi2_contingency(table).pvalue > 1e-3


def drawn_jitter(monkeypatch, channels, config):
    """Return what `color.jitter` was given: factors [COUNT, 4], order [COUNT, 4 or 2].

    They are written into the image, scaled into [0, 1].
    """

    def write(image, factors, order):
        numbers = jnp.concatenate([(factors + 1) / 4, order / 4])
        return jnp.broadcast_to(
            jnp.pad(numbers, (0, 16 - len(numbers))).reshape(1, 4, 4), image.shape
        )

    monkeypatch.setattr(color, "jitter", write)
    images = random_images(COUNT, 4, 4, channels)
    found = jax.jit(functools.partial(views.view, how=config.first))(keys_of(COUNT), images)
    numbers = np.asarray(found[..., 0]).reshape(COUNT, 16)
    return 4 * numbers[:, :4] - 1, np.int32(np.round(4 * numbers[:, 4 : 8 if channels == 3 else 6]))


@pytest.mark.parametrize(("channels", "operations"), [(3, 4), (1, 2)])
def test_every_order_of_the_jitter_is_equally_likely(monkeypatch, channels, operations):
    _, order = drawn_jitter(monkeypatch, channels, off_but(jitter=1.0))
    found, times = np.unique(order, axis=0, return_counts=True)
    assert sorted(map(tuple, found.tolist())) == sorted(itertools.permutations(range(operations)))
    assert scipy.stats.chisquare(times).pvalue > 1e-3


def test_factors_of_the_jitter_are_uniform_in_their_ranges(monkeypatch):
    factors, order = drawn_jitter(monkeypatch, 3, off_but(jitter=1.0))
    for i, (middle, strength) in enumerate([(1, 0.4), (1, 0.4), (1, 0.2), (0, 0.1)]):
        law = scipy.stats.uniform(middle - strength, 2 * strength)
        assert scipy.stats.kstest(factors[:, i], law.cdf).pvalue > 1e-3
        assert abs(scipy.stats.pearsonr(factors[:, i], order[:, 0]).statistic) < 3 / np.sqrt(COUNT)


def test_crops_cover_the_stated_areas():
    """Of an image whose columns rise from left to right, the slope tells the width."""
    image = np.broadcast_to((np.arange(64, dtype=np.uint8) * 4)[None, :, None], (64, 64, 1))
    found = many(off_but(crop_scale=(0.25, 0.25), crop_ratio=(2.0, 2.0)), image)[0]
    # Pixels of the image per pixel of the view.
    slope = (found[:, 0, 40, 0] - found[:, 0, 24, 0]) * 255 / 4 / 16
    np.testing.assert_allclose(slope, 45 / 64, atol=1e-3)  # round(64 * sqrt(0.25 * 2)) = 45


@pytest.mark.parametrize("shape", [(12, 12, 3), (9, 13, 1)])
def test_values_stay_between_0_and_1(shape):
    @settings(max_examples=20, deadline=None)
    @given(
        seed=st.integers(0, 2**31 - 1), level=st.sampled_from(["any", 0, 127, 128, 255, "corners"])
    )
    def hold(seed, level):
        images = random_images(8, *shape, seed=seed)
        if level == "corners":
            images = np.where(images > 127, 255, 0).astype(np.uint8)
        elif level != "any":
            images = np.full_like(images, level)
        for found in two_views(keys_of(8, seed), images, PUBLISHED):
            assert found.shape == images.shape
            assert float(found.min()) >= 0
            assert float(found.max()) <= 1

    hold()


THREE = (
    PUBLISHED.first,
    PUBLISHED.second,
    views.View(crop_scale=(0.05, 0.25), blur=0.5, size=(6, 8)),
)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_each_of_several_views_is_a_single_one_with_a_key_of_its_own(count):
    images = random_images(6, 12, 12, 3)
    keys = keys_of(6)
    several = draw(keys, images, THREE[:count])
    assert [x.shape for x in several] == [(6, 12, 12, 3), (6, 12, 12, 3), (6, 6, 8, 3)][:count]
    own = jax.vmap(functools.partial(jax.random.split, num=count))(keys)
    for i, found in enumerate(several):
        single = jax.jit(functools.partial(views.view, how=THREE[i]))(own[:, i], images)
        np.testing.assert_allclose(found, single, atol=1e-6)


def test_the_pair_differs_in_blur_and_solarize_alone():
    config = views.Views(blur=(1.0, 0.1), solarize=(0.3, 0.2), flip=0.4, hue=0.05)
    assert config.first == views.View(blur=1.0, solarize=0.3, flip=0.4, hue=0.05)
    assert config.second == dataclasses.replace(config.first, blur=0.1, solarize=0.2)


def test_a_view_of_another_size_is_the_crop_resized_to_it():
    images = random_images(3, 28, 28, 1)
    whole = geometry.Box(*jnp.float32([0, 0, 28, 28]))
    small = dataclasses.replace(OFF.first, size=(16, 16))
    found = views.view(keys_of(3), images, small)
    for image, view in zip(images, found, strict=True):
        channel_first = jnp.asarray(scaled(image).transpose(2, 0, 1))
        expected = geometry.resized_crop(channel_first, whole, jnp.array(False), 16, 16)
        np.testing.assert_allclose(view, expected.transpose(1, 2, 0), rtol=2e-6)


def test_the_crop_is_drawn_on_the_image_whatever_the_size_of_the_view():
    """Of an image whose columns rise by 4, the slope tells how wide the crop was."""
    image = np.broadcast_to((np.arange(60, dtype=np.uint8) * 4)[None, :, None], (60, 60, 1))
    cropped = dataclasses.replace(OFF.first, crop_scale=(0.25, 0.25))
    for size in (60, 15):
        how = dataclasses.replace(cropped, size=(size, size))
        found = views.view(keys_of(5), np.broadcast_to(image, (5, 60, 60, 1)), how)
        middle = np.asarray(found[:, 0, size // 4 : -size // 4, 0])
        slope = np.diff(middle, axis=1) * 255 / 4  # pixels of the image per pixel of the view
        np.testing.assert_allclose(slope, 30 / size, atol=1e-3)


def test_an_image_depends_on_nothing_but_itself_and_its_key():
    images = random_images(6, 12, 12, 3)
    keys = keys_of(6)
    found = two_views(keys, images, PUBLISHED)
    other_image = images.copy()
    other_image[2] = 255 - other_image[2]
    other_key = keys.at[2].set(jax.random.key(99))
    for changed in (
        two_views(keys, other_image, PUBLISHED),
        two_views(other_key, images, PUBLISHED),
    ):
        for before, after in zip(found, changed, strict=True):
            different = np.any(np.asarray(before != after), axis=(1, 2, 3))
            np.testing.assert_array_equal(different, np.arange(6) == 2)


def test_parts_of_a_batch_equal_the_whole():
    images = random_images(6, 12, 12, 3)
    keys = keys_of(6)
    whole = two_views(keys, images, PUBLISHED)
    for part in (slice(0, 3), slice(3, 6)):
        for x, y in zip(two_views(keys[part], images[part], PUBLISHED), whole, strict=True):
            np.testing.assert_allclose(x, y[part], atol=1e-6)


def test_views_of_one_image_differ_from_each_other_and_from_key_to_key():
    images = np.broadcast_to(random_images(12, 12, 3), (6, 12, 12, 3))
    rows = np.concatenate(two_views(keys_of(6), images, PUBLISHED)).reshape(12, -1)
    assert len(np.unique(rows, axis=0)) == 12


def test_compiled_or_not_is_the_same():
    images = random_images(6, 12, 12, 3)
    keys = keys_of(6)
    plain = views.draw(keys, images, (PUBLISHED.first, PUBLISHED.second))
    for x, y in zip(plain, two_views(keys, images, PUBLISHED), strict=True):
        np.testing.assert_allclose(x, y, atol=2e-6)


def test_gray_images_are_distorted_in_all_ways_but_color():
    """Saturation, hue and gray have no say: with these alone nothing changes."""
    images = random_images(20, 10, 10, 1)
    color_only = off_but(
        jitter=1.0, brightness=0.0, contrast=0.0, saturation=0.9, hue=0.5, gray=1.0
    )
    for found in two_views(keys_of(20), images, color_only):
        np.testing.assert_allclose(found, scaled(images), rtol=2e-7, atol=0)
    for found in two_views(keys_of(20), images, off_but(jitter=1.0)):
        assert np.all(np.abs(found - scaled(images)).max(axis=(1, 2, 3)) > 1e-4)


def test_the_defaults_are_fit():
    views.Views().check("views.")
    PUBLISHED.check("views.")
    OFF.check("views.")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"crop_scale": (0.9, 0.1)}, "--views.crop-scale is 0.9 0.1"),
        ({"crop_scale": (0.0, 1.0)}, "--views.crop-scale is 0.0"),
        ({"crop_scale": (0.5, 1.5)}, "--views.crop-scale ends at 1.5"),
        ({"crop_scale": (float("nan"), 1.0)}, "--views.crop-scale is nan"),
        ({"crop_ratio": (0.0, 1.0)}, "--views.crop-ratio is 0.0"),
        ({"crop_ratio": (2.0, 1.0)}, "--views.crop-ratio is 2.0 1.0"),
        ({"crop_ratio": (1.0, float("inf"))}, "--views.crop-ratio is 1.0 inf"),
        ({"flip": -0.1}, "--views.flip is -0.1"),
        ({"flip": float("nan")}, "--views.flip is nan"),
        ({"jitter": 1.1}, "--views.jitter is 1.1"),
        ({"brightness": -0.4}, "--views.brightness is -0.4"),
        ({"contrast": 1.5}, "--views.contrast is 1.5"),
        ({"saturation": -1.0}, "--views.saturation is -1.0"),
        ({"hue": 0.6}, "--views.hue is 0.6"),
        ({"gray": 2.0}, "--views.gray is 2.0"),
        ({"blur": (1.0, -0.1)}, "--views.blur is 1.0 -0.1"),
        ({"blur_sigma": (0.0, 2.0)}, "--views.blur-sigma is 0.0"),
        ({"blur_sigma": (2.0, 0.1)}, "--views.blur-sigma is 2.0 0.1"),
        ({"solarize": (0.0, 1.2)}, "--views.solarize is 0.0 1.2"),
    ],
    ids=str,
)
def test_bad_settings_are_named(setting, message):
    with pytest.raises(UserError) as error:
        views.Views(**setting).check("views.")
    assert str(error.value).startswith(message)
