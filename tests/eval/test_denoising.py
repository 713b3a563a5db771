"""Denoising: decibels by hand, filters that filter, a strength that is chosen elsewhere."""

import jax
import numpy as np
import pytest
import scipy.ndimage

from missing_bits.data.images import Split, in_memory
from missing_bits.eval import denoising
from missing_bits.eval.denoising import Noisy


@pytest.fixture(scope="module")
def data():
    """Smooth images in color."""
    rng = np.random.default_rng(0)
    smooth = scipy.ndimage.gaussian_filter(rng.random((24, 16, 16, 3)), (0, 4, 4, 0))
    low = smooth.min(axis=(1, 2, 3), keepdims=True)
    high = smooth.max(axis=(1, 2, 3), keepdims=True)
    images = np.rint(255 * (smooth - low) / (high - low)).astype(np.uint8)
    split = Split(images, None)
    return in_memory(split._replace(images=images[:16]), split._replace(images=images[16:]), ())


def test_decibels_by_hand():
    """Errors of 0.1 everywhere are 20 dB, of 0.01 40 dB; what lies beyond 1 is cut."""
    clean = np.full((2, 2, 2, 1), 0.5)
    off = np.array([0.1, 0.01]).reshape(2, 1, 1, 1)
    assert denoising.psnr(clean + off, clean) == pytest.approx(30)
    assert denoising.psnr(np.full((1, 2, 2, 1), 5.0), np.ones((1, 2, 2, 1))) == pytest.approx(100)


def test_noise_is_of_its_deviation_and_always_the_same(data):
    one = denoising.with_noise(data.test, 500, 0.3, 0)
    again = denoising.with_noise(data.test, 500, 0.3, 0)
    other = denoising.with_noise(data.test, 500, 0.3, 1)
    np.testing.assert_array_equal(one.noisy, again.noisy)
    assert (one.noisy != other.noisy).any()
    assert (one.noisy - one.clean).std() == pytest.approx(0.3, rel=0.05)
    np.testing.assert_allclose(one.clean, data.test.images / 255, atol=1e-6)


def test_each_filter_removes_noise_and_leaves_colors_and_images_apart(data):
    examples = denoising.with_noise(data.train, 8, 0.3, 1)
    for name, some in denoising.filters(0.3).items():
        fn = denoising.best(some, examples)
        gained = denoising.psnr(fn(examples.noisy), examples.clean)
        assert gained > denoising.psnr(examples.noisy, examples.clean) + 3, name
        # What stands in another image or color is not looked at.
        np.testing.assert_allclose(fn(examples.noisy)[:1], fn(examples.noisy[:1]), atol=1e-5)
        if name != "nonlocal_means":  # which compares patches in all colors at once
            one = fn(examples.noisy[..., :1])
            np.testing.assert_allclose(fn(examples.noisy)[..., :1], one, atol=1e-5)


def test_the_best_filter_has_the_largest_ratio():
    clean = np.full((1, 2, 2, 1), 0.5)
    some = [lambda x, off=off: x + off for off in (0.3, 0.01, -0.2)]
    assert denoising.best(some, Noisy(clean, clean)) is some[1]


def test_scores_and_baselines_are_of_the_same_noisy_images(data, tmp_path):
    """A denoiser that does nothing reaches exactly what noisy images do."""
    evaluation = denoising.evaluation(data, lambda learned, x: learned * x, 0.3)
    baselines = evaluation.baselines(jax.random.key(0))
    assert set(baselines) == {
        f"baseline/{name}_psnr" for name in ("noisy", "gaussian", "median", "nonlocal_means")
    }
    key = jax.random.key(1)
    assert evaluation.scores(1.0, key, True)["eval/psnr"] == pytest.approx(
        baselines["baseline/noisy_psnr"], rel=1e-6
    )
    assert baselines["baseline/gaussian_psnr"] > baselines["baseline/noisy_psnr"]
    evaluation.pictures(1.0, 0, tmp_path)
    assert (tmp_path / "denoised.png").read_bytes().startswith(b"\x89PNG")
