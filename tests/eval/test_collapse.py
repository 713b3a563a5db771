"""Effective rank and feature deviation, from full spread to collapse."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from missing_bits import collectives
from missing_bits.eval import collapse


def test_effective_rank_by_hand():
    """Singular values 3, 1 have shares 3/4, 1/4.

    exp(-3/4 log 3/4 - 1/4 log 1/4) = (4/3)^(3/4) 4^(1/4) = 1.7548.
    """
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))[0]
    features = rotation[:, :2] @ np.diag([3.0, 1.0]) @ rotation[:2]  # [5, 5]
    assert collapse.effective_rank(jnp.array(features)) == pytest.approx(1.7548, abs=1e-3)


@pytest.mark.parametrize("shape", [(64, 16), (16, 64)])
def test_effective_rank_counts_dimensions_whatever_the_scale(shape):
    orthogonal = np.linalg.qr(np.random.default_rng(0).normal(size=(64, 16)))[0]
    features = jnp.array(orthogonal if shape == (64, 16) else orthogonal.T)
    for scale in (1e-8, 1.0, 1e8):
        assert collapse.effective_rank(scale * features) == pytest.approx(16, rel=1e-4)
    assert collapse.effective_rank(features[:, :4]) <= 16


@pytest.mark.parametrize("value", [0.0, 1e-20, 3.0])
def test_features_that_are_all_the_same_have_rank_one_and_no_deviation(value):
    features = jnp.full((50, 300), value)
    assert collapse.effective_rank(features) == pytest.approx(1, abs=1e-3)
    assert collapse.feature_deviation(features) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("magnitude", [1e-30, 1e-12, 1.0, 1e12, 1e30])
def test_neither_measure_depends_on_the_magnitude(magnitude):
    """Squares of float32 overflow above 1e19, and those below 1e-23 vanish."""
    spread = np.random.default_rng(0).normal(size=(200, 16)).astype(np.float32)
    same = np.repeat(spread[:1], 200, axis=0)
    scaled = np.float32(magnitude) * spread
    for measure in (collapse.feature_deviation, collapse.effective_rank):
        assert measure(scaled) == pytest.approx(float(measure(spread)), rel=1e-4)
    scaled = np.float32(magnitude) * same
    assert collapse.feature_deviation(scaled) == pytest.approx(0, abs=1e-5)
    assert collapse.effective_rank(scaled) == pytest.approx(1, abs=1e-3)


def test_noise_about_one_feature_is_still_a_collapse():
    rng = np.random.default_rng(0)
    features = jnp.array(rng.normal(size=(1, 64)) + 1e-4 * rng.normal(size=(500, 64)))
    assert collapse.effective_rank(features) < 1.1
    assert collapse.feature_deviation(features) < 1e-3


def test_multiples_of_one_feature_have_rank_one():
    rng = np.random.default_rng(0)
    features = jnp.array(rng.normal(size=(200, 1)) * rng.normal(size=(1, 512)))
    assert collapse.effective_rank(features) == pytest.approx(1, abs=1e-2)


def test_deviation_by_hand():
    """(3, 4) and (4, -3) have directions (0.6, 0.8), (0.8, -0.6).

    They deviate by 0.1 and 0.7: mean 0.4, times sqrt(2).
    """
    deviation = collapse.feature_deviation(jnp.array([[3.0, 4.0], [4.0, -3.0]]))
    assert deviation == pytest.approx(0.4 * np.sqrt(2))


def test_isotropic_features_fill_the_sphere():
    features = jax.random.normal(jax.random.key(0), (4000, 64))
    assert collapse.feature_deviation(features) == pytest.approx(1, abs=0.01)
    assert collapse.feature_deviation(features.astype(jnp.bfloat16)).dtype == jnp.float32
    lengths = jnp.geomspace(1e-3, 1e3, 4000)[:, None]
    assert collapse.feature_deviation(lengths * features) == pytest.approx(1, abs=0.01)
    assert 60 < collapse.effective_rank(features) <= 64


@pytest.mark.skipif(jax.device_count() < 4, reason="needs four devices")
def test_the_deviation_is_one_over_all_devices():
    """Each device has one direction: no deviation on any of them alone, full deviation over all."""
    lengths = jax.random.uniform(jax.random.key(0), (4, 6, 1), minval=0.5)
    features = jnp.eye(4)[:, None, :] * lengths  # [devices, N, D]
    alone = jax.vmap(collapse.feature_deviation)(features)
    together = jax.pmap(collapse.feature_deviation, axis_name=collectives.AXIS)(features)
    np.testing.assert_allclose(alone, 0, atol=1e-6)
    whole = collapse.feature_deviation(features.reshape(24, 4))
    np.testing.assert_allclose(together, np.full(4, whole), rtol=1e-6)
    one_among_zeros = np.sqrt(1 / 4 * 3 / 4)
    assert whole == pytest.approx(one_among_zeros * np.sqrt(4))


def test_spread_of_features_that_fill_the_sphere_tells_both_measures_without_a_warning():
    features = np.random.default_rng(0).normal(size=(200, 16)).astype(np.float32)
    assert collapse.spread(features) == {
        "eval/effective_rank": collapse.effective_rank(features),
        "eval/feature_deviation": float(collapse.feature_deviation(jnp.asarray(features))),
    }


@pytest.mark.parametrize(("deviation", "warns"), [(0.09, True), (0.12, False)])
def test_spread_warns_below_a_tenth_of_full_deviation(deviation, warns):
    """Directions (cos a, +-sin a) deviate by 0 and by sin a.

    The mean sin(a) / 2, times sqrt(2), is sin(a) / sqrt(2): the sine is chosen such that this is
    `deviation`.
    """
    sine = deviation * np.sqrt(2)
    features = np.array([[np.sqrt(1 - sine**2), sign * sine] for sign in (1, -1)] * 3, np.float32)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        scores = collapse.spread(features)
    assert scores["eval/feature_deviation"] == pytest.approx(deviation, rel=1e-4)
    assert len(caught) == warns
    assert not warns or "collapsed: their deviation is 0.090" in str(caught[0].message)
