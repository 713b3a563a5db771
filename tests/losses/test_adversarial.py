"""Every adversarial loss by hand, penalties against finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from missing_bits.losses import adversarial

REAL = jnp.array([0.0, np.log(3.0)])  # of probabilities 1/2 and 3/4
FAKE = jnp.array([np.log(3.0), -2.0])
LOG = np.log


@pytest.mark.parametrize(
    ("loss", "discriminator", "generator"),
    [
        # -log 1/2 and -log 3/4; -log(1 - 3/4), and log(1 + e^-2) of the logit -2.
        (
            "minimax",
            (LOG(2) + LOG(4 / 3)) / 2 + (LOG(4) + LOG(1 + np.exp(-2))) / 2,
            -(LOG(4) + LOG(1 + np.exp(-2))) / 2,
        ),
        # -log 3/4, and log(1 + e^2).
        (
            "non_saturating",
            (LOG(2) + LOG(4 / 3)) / 2 + (LOG(4) + LOG(1 + np.exp(-2))) / 2,
            (LOG(4 / 3) + LOG(1 + np.exp(2))) / 2,
        ),
        # 1 - 0, and nothing beyond 1; 1 + log 3, and nothing below -1.
        ("hinge", (1 + 0) / 2 + (1 + LOG(3)) / 2, -(LOG(3) - 2) / 2),
        ("wgan_gp", (LOG(3) - 2) / 2 - LOG(3) / 2, -(LOG(3) - 2) / 2),
    ],
)
def test_losses_by_hand(loss, discriminator, generator):
    assert adversarial.discriminator(loss, REAL, FAKE) == pytest.approx(discriminator, rel=1e-5)
    assert adversarial.generator(loss, FAKE) == pytest.approx(generator, rel=1e-5)


@pytest.mark.parametrize("loss", ["minimax", "non_saturating", "hinge", "wgan_gp"])
def test_each_network_wants_what_the_other_does_not(loss):
    of_real, of_fake = jax.grad(adversarial.discriminator, argnums=(1, 2))(loss, REAL, FAKE)
    assert (of_real <= 0).all()  # real logits should rise
    assert (of_fake >= 0).all()
    assert (jax.grad(adversarial.generator, argnums=1)(loss, FAKE) < 0).all()


def test_only_minimax_saturates():
    sure = jnp.array([-20.0])
    assert abs(jax.grad(adversarial.generator, argnums=1)("minimax", sure)) < 1e-8
    assert jax.grad(adversarial.generator, argnums=1)("non_saturating", sure) == pytest.approx(-1)


def score(params, x):
    """A discriminator of two layers that curves everywhere."""
    hidden = jnp.tanh(x.reshape(x.shape[0], -1) @ params["a"])
    return jnp.sin(hidden) @ params["b"], None


def made():
    rng = np.random.default_rng(0)
    params = {"a": rng.normal(size=(6, 5)), "b": rng.normal(size=5)}
    return params, rng.normal(size=(4, 2, 3, 1))


def test_slopes_are_those_of_each_image_by_finite_differences():
    params, x = made()
    with jax.enable_x64(True):
        found = adversarial.sloped(lambda x: score(params, x), x)
        for place in np.ndindex(2, 3):
            step = np.zeros_like(x)
            step[:, place[0], place[1]] = 1e-6
            slope = (score(params, x + step)[0] - score(params, x - step)[0]) / 2e-6
            np.testing.assert_allclose(found.slopes[:, place[0], place[1], 0], slope, rtol=1e-6)
        np.testing.assert_allclose(found.logits, score(params, x)[0])


@pytest.mark.parametrize("penalty", [adversarial.r1, adversarial.gradient_penalty])
def test_gradients_of_penalties_by_finite_differences(penalty):
    params, x = made()
    with jax.enable_x64(True):

        def value(a):
            return penalty(adversarial.sloped(lambda x: score(params | {"a": a}, x), x).slopes)

        found = jax.grad(value)(params["a"])
        for place in [(0, 0), (3, 2), (5, 4)]:
            step = np.zeros_like(params["a"])
            step[place] = 1e-6
            slope = (value(params["a"] + step) - value(params["a"] - step)) / 2e-6
            assert found[place] == pytest.approx(float(slope), rel=1e-5)


def test_penalties_by_hand():
    """Slopes (3, 4) and (0, 0): lengths 5 and 0, over all numbers of an image."""
    slopes = jnp.array([[3.0, 4.0], [0.0, 0.0]]).reshape(2, 1, 2, 1)
    assert adversarial.r1(slopes) == pytest.approx(25 / 2 / 2)
    assert adversarial.gradient_penalty(slopes) == pytest.approx((16 + 1) / 2, rel=1e-5)
    assert np.isfinite(jax.grad(adversarial.gradient_penalty)(slopes)).all()


def test_points_between_are_on_the_line():
    real = jnp.full((3, 1, 1, 1), 4.0)
    fake = jnp.zeros((3, 1, 1, 1))
    found = adversarial.between(real, fake, jnp.array([0.0, 0.25, 1.0]))
    np.testing.assert_allclose(found.ravel(), [0, 1, 4])
