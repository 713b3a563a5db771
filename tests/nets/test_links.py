"""Links: sums by row and by column, laid out or scattered, and their gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from missing_bits.nets import links
from missing_bits.nets.links import Links

ROWS, COLUMNS, ENTRIES = 30, 21, 400


@pytest.fixture(scope="module")
def pairs():
    """Rows with none, one and 120 entries, some of them double."""
    draw = np.random.default_rng(0)
    rows = np.concatenate([draw.integers(0, ROWS - 4, ENTRIES - 121), np.full(120, 7), [ROWS - 1]])
    columns = draw.integers(0, COLUMNS, ENTRIES)
    columns[:3] = columns[0]
    rows[:3] = 5
    order = draw.permutation(ENTRIES)
    return rows[order], columns[order]


def both(pairs):
    """Laid out, and to be scattered with three entries of padding."""
    rows, columns = (part.astype(np.int32) for part in pairs)
    padded = Links(
        np.concatenate([rows, np.full(3, ROWS, np.int32)]),
        np.concatenate([columns, np.full(3, COLUMNS, np.int32)]),
    )
    return links.linked(rows, columns, ROWS, COLUMNS), padded


def padded(of, values):
    """Values of all entries: padding holds some too."""
    missing = len(of.rows) - len(values)
    return jnp.concatenate([values, jnp.full((missing, *values.shape[1:]), 7.0)])


@pytest.mark.parametrize("which", [0, 1])
def test_sums_and_gradients_are_those_of_dense_matrices(pairs, which):
    of = both(pairs)[which]
    rows, columns = pairs
    draw = np.random.default_rng(1)
    weights = draw.normal(size=ENTRIES).astype(np.float32)
    x = draw.normal(size=(COLUMNS, 5)).astype(np.float32)
    dense = np.zeros((ROWS, COLUMNS))
    np.add.at(dense, (rows, columns), weights)
    upstream = draw.normal(size=(ROWS, 5)).astype(np.float32)

    @jax.jit
    def found(weights, x):
        y = links.product(of, padded(of, weights), x, ROWS)
        sums = links.total(of, padded(of, weights), ROWS)
        return jnp.sum(y * upstream), (y, sums)

    grads, (y, sums) = jax.grad(found, (0, 1), has_aux=True)(weights, x)
    np.testing.assert_allclose(y, dense @ x, atol=1e-4)
    np.testing.assert_allclose(sums, dense.sum(axis=1), atol=1e-4)
    np.testing.assert_allclose(grads[0], (upstream[rows] * x[columns]).sum(axis=1), atol=1e-4)
    np.testing.assert_allclose(grads[1], dense.T @ upstream, atol=1e-4)


@pytest.mark.parametrize("which", [0, 1])
def test_what_stands_at_ends_flows_back_to_them(pairs, which):
    of = both(pairs)[which]
    rows, columns = pairs
    weights = np.random.default_rng(2).normal(size=ENTRIES).astype(np.float32)

    @jax.jit
    def found(r, c):
        own = jnp.concatenate([jnp.asarray(weights), jnp.zeros(len(of.rows) - ENTRIES)])
        return jnp.sum(own * (links.at_rows(of, r) + 2 * links.at_columns(of, c)))

    by_row, by_column = jax.grad(found, (0, 1))(jnp.ones(ROWS), jnp.ones(COLUMNS))
    np.testing.assert_allclose(by_row, np.bincount(rows, weights, ROWS), atol=1e-4)
    np.testing.assert_allclose(by_column, 2 * np.bincount(columns, weights, COLUMNS), atol=1e-4)


@pytest.mark.parametrize("which", [0, 1])
def test_largest_and_counts(pairs, which):
    of = both(pairs)[which]
    values = np.random.default_rng(3).normal(size=ENTRIES).astype(np.float32)
    wanted = np.full(ROWS, -np.inf)
    np.maximum.at(wanted, pairs[0], values)
    np.testing.assert_array_equal(links.largest(of, padded(of, values), ROWS), wanted.astype("f"))
    np.testing.assert_array_equal(links.counts(of, ROWS), np.bincount(pairs[0], minlength=ROWS))


def test_heads_have_weights_of_their_own(pairs):
    draw = np.random.default_rng(4)
    weights = draw.normal(size=(ENTRIES, 2)).astype(np.float32)
    x = draw.normal(size=(COLUMNS, 2, 3)).astype(np.float32)
    laid, scattered = both(pairs)
    y = links.product(laid, weights, x, ROWS)
    np.testing.assert_allclose(
        y, links.product(scattered, padded(scattered, weights), x, ROWS), atol=1e-4
    )
    assert y.shape == (ROWS, 2, 3)


def test_no_entries_are_zeros():
    nothing = links.linked(np.zeros(0, int), np.zeros(0, int), 3, 2)
    assert links.product(nothing, jnp.zeros(0), jnp.ones((2, 4)), 3).tolist() == [[0] * 4] * 3
    assert links.largest(nothing, jnp.zeros(0), 3).tolist() == [-np.inf] * 3


@pytest.mark.parametrize("which", [0, 1])
def test_bfloat16_is_added_in_float32(which):
    """Ones of 4,096 entries: in bfloat16 a sum of ones stays at 256."""
    count = 4_096
    rows = np.zeros(count, np.int32)
    columns = np.arange(count, dtype=np.int32)
    of = (links.linked(rows, columns, 1, count), Links(rows, columns))[which]
    ones = jnp.ones(count, jnp.bfloat16)

    @jax.jit
    def found(x, row):
        sums = links.product(of, ones, x, 1), links.total(of, ones[:, None], 1)
        return jnp.sum(links.at_rows(of, row).astype(jnp.float32)), sums

    row = jnp.ones((1, 1), jnp.bfloat16)
    gradient, sums = jax.grad(found, argnums=1, has_aux=True)(ones[:, None], row)
    for one in (*sums, gradient):
        assert one.dtype == jnp.bfloat16
        assert one.tolist() == [[count]]
