"""Which tokens are drawn how often: by hand, and by the chi-square of many draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from missing_bits.eval import sampling
from missing_bits.eval.sampling import Sampling

P = np.array([0.1, 0.4, 0.05, 0.25, 0.2])
LOGITS = jnp.log(jnp.array(P))[None] + 3.0  # what is added to all changes nothing


def chances(logits=LOGITS, **how):
    return np.exp(np.asarray(sampling.log_chances(logits, Sampling(**how))))[0]


def test_all_tokens_are_drawn_by_their_probabilities():
    np.testing.assert_allclose(chances(), P, rtol=1e-5)


def test_only_the_likeliest_are_drawn():
    """The first two of 0.4, 0.25, 0.2, 0.1, 0.05, over their sum of 0.65."""
    np.testing.assert_allclose(chances(top_k=2), [0, 0.4 / 0.65, 0, 0.25 / 0.65, 0], rtol=1e-5)
    np.testing.assert_allclose(chances(top_k=5), P, rtol=1e-5)


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [(0.3, [1]), (0.41, [1, 3]), (0.6, [1, 3]), (0.8, [1, 3, 4]), (1.0, [0, 1, 2, 3, 4])],
)
def test_the_token_that_crosses_p_is_kept(top_p, kept):
    """0.4 holds 0.3 and is kept; 0.6 is in the second token, which adds 0.25 to 0.4."""
    wanted = np.where(np.isin(np.arange(5), kept), P, 0)
    np.testing.assert_allclose(chances(top_p=top_p), wanted / wanted.sum(), rtol=1e-5)


def test_temperature_comes_before_the_cut():
    """At 0.5 probabilities are squared, over 0.275: the likeliest has 0.58 and holds 0.5 alone."""
    squared = P**2 / np.sum(P**2)
    np.testing.assert_allclose(chances(temperature=0.5), squared, rtol=1e-5)
    np.testing.assert_allclose(chances(temperature=0.5, top_p=0.5), [0, 1, 0, 0, 0])
    assert (chances(top_p=0.5) > 0).sum() == 2


def test_p_is_of_the_k_likeliest():
    """0.4 of 0.65 is 0.62: it holds 0.6 alone, which it does not of all."""
    np.testing.assert_allclose(chances(top_k=2, top_p=0.6), [0, 1, 0, 0, 0])


def test_temperature_zero_takes_the_likeliest_and_of_equal_ones_the_first():
    np.testing.assert_allclose(chances(temperature=0.0), [0, 1, 0, 0, 0])
    equal = jnp.array([[0.0, 2.0, 2.0]])
    np.testing.assert_allclose(chances(equal, temperature=0.0), [0, 1, 0])
    np.testing.assert_allclose(chances(equal, top_k=1), [0, 1, 0])


def test_a_p_of_one_leaves_nothing_out():
    """The likeliest has 1 - 2e-9, which is 1 in float32."""
    assert chances(jnp.array([[0.0, -20.0]]), top_p=1.0)[1] == pytest.approx(np.exp(-20), rel=1e-4)


def test_a_temperature_near_zero_takes_the_likeliest():
    np.testing.assert_allclose(chances(50 + LOGITS, temperature=1e-37), [0, 1, 0, 0, 0])


def test_what_is_impossible_stays_so():
    logits = jnp.array([[0.0, -jnp.inf, 1.0]])
    for how in ({}, {"top_k": 2}, {"top_p": 0.999}, {"temperature": 0.0}):
        found = chances(logits, **how)
        assert found[1] == 0
        assert found.sum() == pytest.approx(1)


@pytest.mark.parametrize(
    "how", [{}, {"temperature": 0.7}, {"top_k": 3}, {"top_p": 0.6}, {"top_k": 4, "top_p": 0.9}]
)
def test_draws_follow_the_probabilities(how):
    """A chi-square of 20,000 draws; such a test fails once in a thousand seeds."""
    count = 20_000
    logits = jnp.tile(LOGITS, (count, 1))
    drawn = jax.jit(sampling.draw)(jax.random.key(1), logits, Sampling(**how))
    seen = np.bincount(np.asarray(drawn), minlength=5)
    expected = count * chances(**how).astype(np.float64)
    kept = expected > 0
    assert seen[~kept].sum() == 0
    expected = expected[kept] * (count / expected[kept].sum())
    assert scipy.stats.chisquare(seen[kept], expected).pvalue > 1e-3
