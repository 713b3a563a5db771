"""Modes of known mixtures: true samples, a missing mode, one that is alone."""

import jax
import numpy as np
import pytest

from missing_bits.data import points
from missing_bits.eval import modes

RING = points.load("ring")
GRID = points.load("grid")


@pytest.mark.parametrize(("mixture", "count"), [(RING, 8), (GRID, 25)])
def test_true_samples_find_all(mixture, count):
    samples = np.asarray(mixture.draw(jax.random.key(0), 2_500))
    found = modes.count(samples, mixture.centers, mixture.deviation)
    assert found.modes == count
    # Within three deviations on the plane: 1 - exp(-9 / 2).
    assert found.share_near == pytest.approx(1 - np.exp(-4.5), abs=0.01)
    assert found.mode_deviation == pytest.approx(0.974, abs=0.02)
    assert found.mode_kl < 0.02
    assert len(mixture.centers) == count


def test_half_of_the_modes():
    """Equal shares of 4 of 8: the divergence is log 2."""
    rng = np.random.default_rng(0)
    samples = RING.centers[:4].repeat(100, axis=0) + 0.005 * rng.normal(size=(400, 2))
    found = modes.count(samples, RING.centers, RING.deviation)
    assert found.modes == 4
    assert found.share_near == 1
    assert found.mode_deviation == pytest.approx(0.5, abs=0.05)
    assert found.mode_kl == pytest.approx(np.log(2))


def test_nineteen_samples_are_too_few_and_far_ones_count_nowhere():
    samples = np.concatenate([GRID.centers[:1].repeat(19, axis=0), np.full((1, 2), 100.0)])
    found = modes.count(samples, GRID.centers, GRID.deviation)
    assert found.modes == 0
    assert found.share_near == 19 / 20
    assert found.mode_deviation == 0
    more = np.concatenate([samples, GRID.centers[:1]])
    assert modes.count(more, GRID.centers, GRID.deviation).modes == 1


def test_metrics_have_their_names():
    assert modes.Modes(3, 0.5, 1.0, 0.1).metrics["eval/modes"] == 3.0


def test_digests_tell_mixtures_apart():
    assert RING.digest != GRID.digest
    assert RING.digest == points.load("ring").digest
