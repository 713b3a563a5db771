"""Simple densities: a mixture that was drawn from is found again, histograms by hand."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from missing_bits.data.images import Split
from missing_bits.eval import densities
from missing_bits.eval.densities import Mixture


def test_the_likelihood_of_a_mixture_by_hand():
    """Two components, of probabilities 3/4 and 1/4 for both of two pixels."""
    log3 = np.log(3)
    mixture = Mixture(jnp.log(jnp.array([0.5, 0.5])), jnp.array([[log3, log3], [-log3, -log3]]))
    found = mixture.log_likelihood(jnp.array([[1.0, 1.0], [1.0, 0.0]]))
    expected = np.log([0.5 * (9 + 1) / 16, 3 / 16])
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_mixture_finds_what_images_were_drawn_from():
    """Its likelihood of others is that of the truth, and one component's is far below."""
    rng = np.random.default_rng(0)
    probabilities = np.where(rng.random((3, 40)) < 0.5, 0.9, 0.1)
    x = (rng.random((900, 40)) < probabilities[np.arange(900) % 3]).astype(np.float32)
    truth = Mixture(jnp.log(jnp.full(3, 1 / 3)), jax.scipy.special.logit(probabilities))
    found = densities.fit(jnp.asarray(x[:600]), 5, 30)
    one = densities.fit(jnp.asarray(x[:600]), 1, 30)
    of_truth, of_found, of_one = (
        float(jnp.mean(m.log_likelihood(x[600:]))) for m in (truth, found, one)
    )
    assert abs(of_found - of_truth) < 0.7
    assert of_one < of_truth - 5


def test_iterations_never_lower_the_likelihood_of_the_training_images():
    x = jnp.asarray(np.random.default_rng(1).integers(0, 2, (50, 12)), jnp.float32)
    values = [float(jnp.mean(densities.fit(x, 4, n).log_likelihood(x))) for n in (1, 3, 10, 30)]
    assert all(b > a - 1e-2 for a, b in itertools.pairwise(values))


def test_histograms_by_hand():
    """Pixels of 0, 0, 0 and 7: a further 0 has (3 + 1/2) / (4 + 128) of the mass."""
    train = np.array([[0], [0], [0], [7]], np.uint8).reshape(4, 1, 1, 1)
    test = np.array([0, 9], np.uint8).reshape(2, 1, 1, 1)
    found = densities.separate_pixels(Split(train, None), Split(test, None), 10)
    assert found == pytest.approx(-(np.log2(3.5 / 132) + np.log2(0.5 / 132)) / 2)
