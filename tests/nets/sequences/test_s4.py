"""S4D against a direct discretization in float64; its kernel against its recurrence."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from missing_bits.nets.sequences import blocks, s4

D = 3
HALF = 4  # N / 2
RULES = ("zero_order_hold", "bilinear")


def continuous():
    """A [D, N / 2], steps [D], C [D, N / 2], in float64."""
    rng = np.random.default_rng(0)
    a = -rng.uniform(0.1, 1, (D, HALF)) + 1j * rng.uniform(0, 20, (D, HALF))
    step = np.exp(rng.uniform(np.log(0.001), np.log(0.1), D))
    return a, step, rng.normal(size=(D, HALF)) + 1j * rng.normal(size=(D, HALF))


def system(rule):
    a, step, c = continuous()
    parts = (a.real, a.imag, step[:, None], c.real, c.imag)
    return s4.discrete(*(jnp.asarray(part, jnp.float32) for part in parts), rule)


def directly(rule, feature):
    """A' and B' of one feature, as matrices [N / 2, N / 2] and [N / 2], of matrix functions."""
    a, step, _ = continuous()
    matrix = np.diag(a[feature])
    ones = np.ones(HALF)
    eye = np.eye(HALF)
    if rule == "zero_order_hold":  # the exponential of [[A, B], [0, 0]] dt holds both
        both = np.zeros((HALF + 1, HALF + 1), complex)
        both[:HALF, :HALF] = matrix
        both[:HALF, HALF] = ones
        found = scipy.linalg.expm(step[feature] * both)
        return found[:HALF, :HALF], found[:HALF, HALF]
    half = step[feature] / 2 * matrix
    inverse = np.linalg.inv(eye - half)
    return inverse @ (eye + half), step[feature] * inverse @ ones


@functools.cache
def answers(rule, length=200):
    """The direct models' answers [length, D] to random inputs [length, D]."""
    u = np.random.default_rng(1).normal(size=(length, D))
    c = continuous()[2]
    y = np.zeros((length, D))
    for feature in range(D):
        a, b = directly(rule, feature)
        x = np.zeros(HALF, complex)
        for t in range(length):
            x = a @ x + b * u[t, feature]
            y[t, feature] = 2 * (c[feature] @ x).real
    return u, y


CONVOLVED = jax.jit(s4.convolved)
RECURRENT = jax.jit(s4.recurrent, static_argnames="way")


def near(found, expected, share=1e-5):
    np.testing.assert_allclose(found, expected, atol=share * np.abs(expected).max(), rtol=0)


@pytest.mark.parametrize("rule", RULES)
def test_both_forms_are_the_direct_model(rule):
    u, y = answers(rule)
    given = jnp.asarray(u[None], jnp.float32)
    zeros = jnp.zeros((1, D, 2 * HALF))
    by_convolution, last = CONVOLVED(system(rule), given, None)
    near(by_convolution[0], y, 3e-5)
    for way in ("auto", "serial", "associative", "chunked"):
        by_recurrence, state = RECURRENT(system(rule), given, None, zeros, way=way)
        near(by_recurrence[0], y, 3e-5)
        near(state, last, 3e-5)


@pytest.mark.parametrize("rule", RULES)
def test_the_kernel_is_the_answer_to_one(rule):
    for length in (1, 17):
        one = jnp.zeros((1, length, D)).at[:, 0].set(1)
        zeros = jnp.zeros((1, D, 2 * HALF))
        answer, _ = RECURRENT(system(rule), one, None, zeros, way="serial")
        near(jax.jit(s4.kernel, static_argnums=1)(system(rule), length), answer[0])


@pytest.mark.parametrize("way", ["auto", "serial"])
def test_a_kernel_in_several_blocks_of_steps(way, monkeypatch):
    """The recurrence keeps the states of a few steps at a time."""
    monkeypatch.setattr(blocks, "ELEMENTS", 7 * D * 2 * HALF)  # 7 steps, which do not divide 200
    monkeypatch.setattr(blocks, "IN_CACHE", 7 * D * 2 * HALF)
    u, y = answers("bilinear")
    given = jnp.asarray(u[None], jnp.float32)
    found, _ = s4.recurrent(system("bilinear"), given, None, jnp.zeros((1, D, 2 * HALF)), way)
    near(found[0], y, 3e-5)


def test_eigenvalues_of_legs():
    """Those of the matrix of HiPPO-LegS plus its low-rank part are the normal matrix's."""
    states = 16
    n = np.arange(states)
    root = np.sqrt(2 * n + 1)
    hippo = -np.tril(np.outer(root, root), -1) - np.diag(n + 1)
    p = np.sqrt(n + 0.5)
    eigenvalues = np.linalg.eigvals(hippo + np.outer(p, p))
    above = eigenvalues[eigenvalues.imag > 0]
    expected = above[np.argsort(-above.imag)]
    np.testing.assert_allclose(s4.legs_eigenvalues(states), expected, rtol=1e-9)


def test_factors_stay_below_one_whatever_is_learned():
    big = jnp.full((1, 1), 30.0)
    for rule in RULES:
        for rate in (-20.0, 0.0, 3.0):
            for im in (0.0, 1.0, 1e3):
                found = s4.discrete(
                    -jnp.exp(jnp.full((1, 1), rate)),
                    jnp.full((1, 1), im),
                    0.1 * big / 30,
                    big,
                    big,
                    rule,
                )
                assert float(found.log_factor[0, 0]) < 0
                assert bool(jnp.all(jnp.isfinite(jnp.stack(found))))


@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize("steps", [23, 5])  # of a block
def test_the_recurrences_own_gradient_is_that_of_a_plain_loop(steps, resets, monkeypatch):
    """With respect to the model, the inputs and the state before, of y and of the last state."""
    monkeypatch.setattr(blocks, "IN_CACHE", steps * D * 2 * HALF)
    rng = np.random.default_rng(0)
    u = jnp.asarray(rng.normal(size=(2, 23, D)), jnp.float32)
    start = jnp.asarray(rng.normal(size=(2, D, 2 * HALF)), jnp.float32)
    reset = jnp.zeros((2, 23), bool).at[1, jnp.array([0, 4, 5, 11])].set(True)

    def own(it, u, start):
        return s4.recurrent(it, u, reset if resets else None, start, "auto")

    def plain(it, u, start):
        x = start
        y = []
        for t in range(23):
            if resets:
                x = jnp.where(reset[:, t, None, None], 0, x)
            out, x = s4._step(it, u[:, t], x)
            y.append(out)
        return jnp.stack(y, axis=1), x

    weights = [jnp.asarray(rng.normal(size=leaf.shape), jnp.float32) for leaf in (u, start)]

    def gradients(form):
        def total(*arguments):
            return sum(jnp.sum(w * x) for w, x in zip(weights, form(*arguments), strict=True))

        return jax.jit(jax.grad(total, argnums=(0, 1, 2)))(system("bilinear"), u, start)

    both = zip(jax.tree.leaves(gradients(own)), jax.tree.leaves(gradients(plain)), strict=True)
    for one, other in both:
        near(one, other)


def test_gradients_of_both_forms_agree():
    u, _ = answers("zero_order_hold")
    given = jnp.asarray(u[None], jnp.float32)
    zeros = jnp.zeros((1, D, 2 * HALF))

    def gradient(form):
        loss = jax.jit(jax.grad(lambda it: jnp.sum(form(it)[0] ** 2)))
        return loss(system("zero_order_hold"))

    by_convolution = gradient(lambda it: s4.convolved(it, given, None))
    by_recurrence = gradient(lambda it: s4.recurrent(it, given, None, zeros, "serial"))
    for mine, other in zip(by_convolution, by_recurrence, strict=True):
        near(mine, other, 1e-4)
