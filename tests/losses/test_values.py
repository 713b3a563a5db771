"""Value heads against values by hand and against loops; the Munchausen policy by numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from missing_bits.errors import UserError
from missing_bits.losses import values

B = 6
RNG = np.random.default_rng(0)
R = RNG.normal(size=B).astype(np.float32)
DISCOUNT = np.float32([0.9, 0.0, 0.81, 0.9, 0.0, 0.5])
BONUS = np.float32([0.0, 0.3, -0.2, 0.0, 0.1, 0.5])
ZERO = np.zeros(B, np.float32)


def test_the_scalar_head_by_hand():
    chosen = np.float32([[1.0], [0.0]])
    mixed = np.float32([[5.0], [7.0]])
    r_t = np.float32([1.0, -3.0])
    discount = np.float32([0.9, 0.0])
    bonus = np.zeros(2, np.float32)
    # Errors 1 + 0.9 * 5 - 1 = 4.5 and -3 - 0 = -3.
    errors = values.scalar(huber=False).errors(chosen, None, mixed, bonus, r_t, discount)
    np.testing.assert_allclose(errors.loss, [4.5**2 / 2, 4.5], rtol=1e-6)
    np.testing.assert_allclose(errors.surprise, [4.5, 3.0], rtol=1e-6)
    errors = values.scalar(huber=True).errors(chosen, None, mixed, bonus, r_t, discount)
    np.testing.assert_allclose(errors.loss, [4.0, 2.5], rtol=1e-6)


def project(probabilities, r, discount, bonus, returns):
    """Algorithm 1 of Bellemare et al. 2017, atom by atom."""
    low, high = returns[0], returns[-1]
    gap = (high - low) / (len(returns) - 1)
    found = np.zeros(len(returns))
    for p, z in zip(probabilities, returns, strict=True):
        b = (np.clip(r + discount * (z + bonus), low, high) - low) / gap
        lower, upper = int(np.floor(b)), int(np.ceil(b))
        if lower == upper:
            found[lower] += p
        else:
            found[lower] += p * (upper - b)
            found[upper] += p * (b - lower)
    return found


def test_the_categorical_head_is_its_algorithm():
    head = values.categorical(-2.0, 3.0, 6)
    returns = np.linspace(-2, 3, 6)
    raw = RNG.normal(size=(B, 4, 6)).astype(np.float32)
    policy = jax.nn.one_hot(jnp.arange(B) % 4, 4)
    exponents = np.exp(raw.astype(float))
    softmax = exponents / exponents.sum(-1, keepdims=True)
    np.testing.assert_allclose(head.mean(raw), softmax @ returns, rtol=1e-5)
    mixed = head.mix(raw, policy)
    np.testing.assert_allclose(mixed, softmax[np.arange(B), np.arange(B) % 4], rtol=1e-5)
    chosen = RNG.normal(size=(B, 6)).astype(np.float32)
    errors = head.errors(chosen, None, mixed, BONUS, R, DISCOUNT)
    for b in range(B):
        target = project(np.asarray(mixed[b], float), R[b], DISCOUNT[b], BONUS[b], returns)
        assert target.sum() == pytest.approx(1)
        log = chosen[b] - np.log(np.exp(chosen[b]).sum())
        assert errors.loss[b] == pytest.approx(-(target * log).sum(), rel=1e-4)
        some = target > 0
        divergence = (target[some] * (np.log(target[some]) - log[some])).sum()
        assert errors.surprise[b] == pytest.approx(divergence, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("drawn", [False, True])
def test_quantile_losses_are_double_loops(drawn):
    """Equation 10 of Dabney et al. 2018a: summed over predictions, averaged over targets."""
    head = values.implicit(5) if drawn else values.quantile(5)
    chosen = RNG.normal(size=(B, 5)).astype(np.float32)
    mixed = 2 * RNG.normal(size=(B, 3)).astype(np.float32)
    fixed = np.broadcast_to((np.arange(5) + 0.5) / 5, (B, 5))
    taus = RNG.uniform(size=(B, 5)).astype(np.float32) if drawn else fixed
    errors = head.errors(chosen, taus if drawn else None, mixed, BONUS, R, DISCOUNT)
    for b in range(B):
        loss = 0.0
        for i in range(5):
            for j in range(3):
                u = R[b] + DISCOUNT[b] * (mixed[b, j] + BONUS[b]) - chosen[b, i]
                huber = 0.5 * u**2 if abs(u) <= 1 else abs(u) - 0.5
                loss += abs(taus[b, i] - (u < 0)) * huber / 3
        assert errors.loss[b] == pytest.approx(loss, rel=1e-4)


def test_quantiles_are_found_by_descent():
    """Those of the numbers 1 to 8."""
    head = values.quantile(4)
    targets = np.float32([[1, 2, 3, 4, 5, 6, 7, 8]])

    def loss(theta):
        return head.errors(theta, None, targets, ZERO[:1], ZERO[:1], np.ones(1, np.float32)).loss[0]

    @jax.jit
    def descend():
        return jax.lax.fori_loop(0, 3_000, lambda _, x: x - 0.02 * jax.grad(loss)(x), first)

    first = jnp.zeros((1, 4))
    theta = descend()
    # Quantiles at 1/8, 3/8, 5/8, 7/8 of eight numbers; Huber's rounding blurs them by less than 1.
    np.testing.assert_allclose(theta[0], [1.5, 3.5, 5.5, 7.5], atol=0.6)
    assert (np.diff(theta[0]) > 0.5).all()


def test_drawn_quantiles_differ_by_key_and_are_even_without():
    head = values.implicit(8)
    keys = jax.random.split(jax.random.key(0), 2)
    assert (head.taus(keys[0], 3) != head.taus(keys[1], 3)).all()
    assert head.taus(keys[0], 4000).mean() == pytest.approx(0.5, abs=0.01)
    np.testing.assert_allclose(head.taus(None, 2)[1], (np.arange(8) + 0.5) / 8)


@pytest.mark.parametrize(
    "head",
    [values.scalar(False), values.categorical(-1, 1, 3), values.quantile(3), values.implicit(3)],
)
def test_no_gradient_reaches_the_target(head):
    size = head.outputs if head.outputs > 1 else 3 if head.taus(None, 1) is not None else 1
    mixed = jnp.full((2, size), 1 / size)
    chosen = jnp.ones((2, size))
    taus = None if head.taus(None, 2) is None else jnp.full((2, size), 0.5)

    def loss(mixed):
        errors = head.errors(chosen, taus, mixed, ZERO[:2], R[:2], DISCOUNT[:2])
        return jnp.sum(errors.loss)

    assert not np.any(jax.grad(loss)(mixed))


def test_munchausen_is_its_equation():
    q_tm1 = RNG.normal(size=(B, 3)).astype(np.float32)
    q_t = RNG.normal(size=(B, 3)).astype(np.float32)
    a = np.arange(B) % 3
    found = values.munchausen(q_tm1, a, q_t, 0.5, 0.9, -1.0)

    def softmax(q):
        e = np.exp(q / 0.5)
        return e / e.sum(-1, keepdims=True)

    policy = softmax(q_t)
    np.testing.assert_allclose(found.policy, policy, rtol=1e-5)
    np.testing.assert_allclose(found.bonus, -0.5 * (policy * np.log(policy)).sum(-1), rtol=1e-5)
    log = np.log(softmax(q_tm1)[np.arange(B), a])
    np.testing.assert_allclose(found.reward, 0.9 * np.clip(0.5 * log, -1, 0), rtol=1e-5)


def test_munchausens_reward_is_clipped_and_certain_policies_have_no_entropy():
    """Gaps of 100 at a temperature of 0.03: log probabilities of 0 and -3333, scaled 0 and -100."""
    q = np.float32([[0.0, -100.0], [0.0, -100.0]])
    found = values.munchausen(q, np.array([0, 1]), q, 0.03, 0.9, -1.0)
    np.testing.assert_allclose(found.reward, [0.0, -0.9], atol=1e-6)
    np.testing.assert_array_equal(found.policy, [[1, 0], [1, 0]])
    np.testing.assert_array_equal(found.bonus, [0, 0])


@pytest.mark.parametrize("atoms", [51, 201])
def test_no_surprise_is_below_zero(atoms):
    """Predictions that are their own targets: rounding must not make a root of it NaN."""
    head = values.categorical(-10.0, 10.0, atoms)
    raw = np.random.default_rng(0).normal(size=(200, atoms)).astype(np.float32)
    mixed = jax.nn.softmax(raw)
    zero = np.zeros(200, np.float32)
    surprise = head.errors(raw, None, mixed, zero, zero, np.ones(200, np.float32)).surprise
    assert (surprise >= 0).all()
    np.testing.assert_allclose(surprise, 0, atol=1e-5)


@pytest.mark.parametrize(
    ("low", "high", "atoms"),
    [(0, 1e-40, 5), (5e8, 5e8 + 1, 5), (1, 2, 1 << 24)],
)
def test_returns_that_float32_does_not_tell_apart_are_refused(low, high, atoms):
    with pytest.raises(UserError, match="float32 does not tell apart"):
        values.check_categorical(low, high, atoms)
    values.check_categorical(-1e6, 1e6, 51)


@pytest.mark.parametrize("high", [1.1e9, 3e38, float("inf")])
def test_returns_that_no_card_would_hold_are_refused(high):
    with pytest.raises(UserError, match="must lie within 1,000,000,000 of 0; scale the rewards"):
        values.check_categorical(0, high, 51)


@pytest.mark.parametrize(("low", "high", "atoms"), [(1, 1, 5), (2, 1, 5), (0, 1, 1)])
def test_returns_that_make_no_sense_are_refused(low, high, atoms):
    with pytest.raises(UserError, match="describe no range of returns"):
        values.check_categorical(low, high, atoms)
