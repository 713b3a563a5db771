"""Masks over patches: exact counts, uniform partitions, rectangles; patches by hand and back."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from missing_bits.augment import masking
from missing_bits.errors import UserError


def partitions(seed, count, kept):
    """Draw 20,000 partitions.

    Not compiled, here and below: most operations are the same for all sizes.
    """
    keys = jax.random.split(jax.random.key(seed), 20_000)
    return tuple(map(np.asarray, jax.vmap(lambda key: masking.partition(key, count, kept))(keys)))


def blocks(seed, draws, rows, columns, low, high):
    """Draw masks [draws, rows, columns]."""
    keys = jax.random.split(jax.random.key(seed), draws)
    masks = jax.vmap(lambda key: masking.block(key, rows, columns, low, high))(keys)
    return np.asarray(masks).reshape(draws, rows, columns)


def hidden_exactly(count: int, hundredths: int) -> int:
    """Return count * hundredths / 100 in whole numbers, halves to even."""
    whole, rest = divmod(count * hundredths, 100)
    return whole + (rest > 50 or (rest == 50 and whole % 2 == 1))


def test_counts_are_exact():
    for count, hundredths in itertools.product(range(1, 401), range(101)):
        assert masking.num_kept(count, hundredths / 100) == count - hidden_exactly(
            count, hundredths
        )


@pytest.mark.parametrize(
    ("count", "ratio", "kept"),
    [
        (10, 0.9, 1),  # 10 * (1 - 0.9) is 0.9999999999999998
        (100, 0.9, 10),  # 100 * (1 - 0.9) is 9.999999999999998
        (196, 0.75, 49),
        (45, 0.7, 13),  # 31.5 to even: 32 hidden; 45 * 0.7 is 31.499999999999996
        (75, 0.14, 65),  # 10.5 to even: 10 hidden; 75 * 0.14 is 10.500000000000002
        (3, 0.5, 1),  # 1.5 to even: 2 hidden
        (5, 0.5, 3),  # 2.5 to even: 2 hidden
        (7, 1e-05, 7),
    ],
)
def test_counts_by_hand(count, ratio, kept):
    assert masking.num_kept(count, ratio) == kept


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.1, 1.5, float("nan"), float("inf")])
def test_a_ratio_that_is_no_share_is_refused(ratio):
    with pytest.raises(
        UserError, match=rf"--mask-ratio is {ratio}; it must lie above 0 and below 1\.$"
    ):
        masking.check(ratio, 196)


@pytest.mark.parametrize(
    ("ratio", "count", "message"),
    [
        (0.9, 4, "--mask-ratio is 0.9: of 4 patches none stays visible"),  # 3.6 hidden: 4
        (0.1, 5, "--mask-ratio is 0.1: of 5 patches none is hidden"),  # 0.5 to even: 0
        (0.75, 1, "--mask-ratio is 0.75: of 1 patch none stays visible"),
        (0.25, 1, "--mask-ratio is 0.25: of 1 patch none is hidden"),
    ],
)
def test_a_ratio_that_leaves_nothing_to_do_is_refused(ratio, count, message):
    with pytest.raises(UserError, match=message) as caught:
        masking.check(ratio, count)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("ratio", "count"),
    [
        (0.8, 4),
        (0.11, 5),
        (0.5, 2),
        (0.75, 196),
    ],  # hidden: 3.2, 0.55, 1 and 147, so 3, 1, 1 and 147
)
def test_a_ratio_that_hides_some_and_leaves_some_passes(ratio, count):
    masking.check(ratio, count)


@pytest.mark.parametrize(("count", "kept"), [(2, 1), (10, 1), (64, 16), (5, 0), (5, 5)])
def test_visible_and_hidden_partition_the_patches_in_order(count, kept):
    visible, hidden = partitions(0, count, kept)
    assert visible.dtype == hidden.dtype == np.int32
    assert (visible.shape, hidden.shape) == ((20_000, kept), (20_000, count - kept))
    both = np.concatenate([visible, hidden], axis=1)
    np.testing.assert_array_equal(np.sort(both, axis=1), np.tile(np.arange(count), (20_000, 1)))
    assert np.all(np.diff(visible, axis=1) > 0)
    assert np.all(np.diff(hidden, axis=1) > 0)


def test_every_patch_is_hidden_equally_often():
    """9/10 of 20,000 times, to 3 sigma."""
    hidden = partitions(1, 10, 1)[1]
    times = np.bincount(hidden.ravel(), minlength=10)
    np.testing.assert_allclose(times, 18_000, atol=3 * np.sqrt(20_000 * 0.9 * 0.1))


def test_all_partitions_are_equally_likely_and_keys_independent():
    """5 over 2 is 10; of two neighboring keys 100 pairs."""
    visible = partitions(2, 5, 2)[0]
    number = np.array([[0, 0, 1, 2, 3], [0, 0, 4, 5, 6], [0, 0, 0, 7, 8], [0, 0, 0, 0, 9]])
    drawn = number[visible[:, 0], visible[:, 1]]
    assert scipy.stats.chisquare(np.bincount(drawn, minlength=10)).pvalue > 1e-3
    pairs = np.bincount(10 * drawn[::2] + drawn[1::2], minlength=100)
    assert len(pairs) == 100
    assert scipy.stats.chisquare(pairs).pvalue > 1e-3


def test_a_partition_depends_on_its_own_key_alone():
    """One at a time and compiled, or all at once."""
    together = partitions(3, 10, 1)
    draw = jax.jit(masking.partition, static_argnums=(1, 2))
    for i, key in enumerate(jax.random.split(jax.random.key(3), 20_000)[:8]):
        for found, all_found in zip(draw(key, 10, 1), together, strict=True):
            np.testing.assert_array_equal(found, all_found[i])


def test_patches_by_hand():
    """Two rows of four pixels of two channels, counted: patches of 2x2 take two of either row."""
    image = jnp.arange(16).reshape(2, 4, 2)
    expected = [[0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7, 12, 13, 14, 15]]
    np.testing.assert_array_equal(masking.patchify(image, 2), expected)
    np.testing.assert_array_equal(masking.unpatchify(jnp.array(expected), 1, 2, 2), image)
    column = jnp.arange(8).reshape(4, 2, 1)  # patches count row by row: the upper one first
    np.testing.assert_array_equal(masking.patchify(column, 2), [[0, 1, 2, 3], [4, 5, 6, 7]])


@settings(max_examples=40, deadline=None)
@given(
    leading=st.lists(st.integers(1, 3), max_size=2),
    rows=st.integers(1, 4),
    columns=st.integers(1, 4),
    side=st.integers(1, 4), channels=st.integers(1, 4),
)  # fmt: skip
def test_unpatchify_inverts_patchify(leading, rows, columns, side, channels):
    """And each patch is the square of its row and column."""
    images = np.random.default_rng(0).random(
        (*leading, rows * side, columns * side, channels), np.float32
    )
    patches = masking.patchify(images, side)
    assert patches.shape == (*leading, rows * columns, side * side * channels)
    np.testing.assert_array_equal(masking.unpatchify(patches, rows, columns, channels), images)
    for i, j in itertools.product(range(rows), range(columns)):
        square = images[..., i * side : (i + 1) * side, j * side : (j + 1) * side, :]
        np.testing.assert_array_equal(
            patches[..., i * columns + j, :], square.reshape(*leading, -1)
        )


def test_patches_that_do_not_fit_are_an_error():
    with pytest.raises(AssertionError):
        masking.patchify(jnp.zeros((8, 9, 3)), 4)
    with pytest.raises(AssertionError):
        masking.unpatchify(jnp.zeros((6, 12)), 2, 4, 3)
    with pytest.raises(AssertionError):
        masking.unpatchify(jnp.zeros((6, 9)), 2, 3, 2)


def test_normalization_by_hand():
    """1, 2, 6: mean 3, squares 4 + 1 + 9 = 14, over 3 - 1 that is 7.

    A constant patch: 0, root of 1e-6.
    """
    found = masking.normalize(jnp.array([[1.0, 2.0, 6.0], [5.0, 5.0, 5.0]]))
    np.testing.assert_allclose(found.mean, [[3], [5]])
    np.testing.assert_allclose(found.std, [[np.sqrt(7)], [1e-3]], rtol=1e-6)
    np.testing.assert_allclose(
        found.values, [[-2 / np.sqrt(7), -1 / np.sqrt(7), 3 / np.sqrt(7)], [0, 0, 0]], rtol=1e-6
    )


def test_normalized_patches_have_unit_variance_and_come_back():
    """At a mean a hundred times the deviation, too, and along any leading axes."""
    patches = 10 + np.random.default_rng(0).normal(0, 0.1, (2, 3, 5, 48)).astype(np.float32)
    found = masking.normalize(jnp.asarray(patches))
    assert found.mean.shape == found.std.shape == (2, 3, 5, 1)
    np.testing.assert_allclose(np.mean(found.values, axis=-1), 0, atol=1e-4)
    np.testing.assert_allclose(np.var(found.values, axis=-1, ddof=1), 1, rtol=1e-3)
    np.testing.assert_allclose(found.values * found.std + found.mean, patches, rtol=1e-6)


@pytest.mark.parametrize(
    ("rows", "columns", "low", "high"),
    [
        (1, 2, 1.0, 1.0),
        (2, 1, 0.01, 1.0),
        (1, 9, 0.1, 1.0),
        (9, 1, 1.0, 1.0),
        (4, 6, 1.0, 1.0),
        (6, 4, 0.01, 0.02),
    ],
)
def test_a_block_is_a_rectangle_of_some_patches_but_never_all(rows, columns, low, high):
    masks = blocks(0, 2_000, rows, columns, low, high)
    assert masks.dtype == bool
    sizes = masks.sum(axis=(1, 2))
    assert sizes.min() >= 1
    assert sizes.max() < rows * columns
    np.testing.assert_array_equal(
        masks.any(axis=2)[:, :, None] & masks.any(axis=1)[:, None, :], masks
    )
    for inside in (
        masks.any(axis=2),
        masks.any(axis=1),
    ):  # one run: it begins at most once after the first line
        edges = np.diff(np.pad(inside, ((0, 0), (1, 1))).astype(int), axis=1)
        np.testing.assert_array_equal((edges == 1).sum(axis=1), 1)


def test_area_is_uniform_and_aspect_log_uniform_where_every_block_fits():
    """The longest is sqrt(0.25 / 0.3) = 0.91 of a side.

    On 200x200 patches rounding hardly shows.
    """
    masks = blocks(1, 2_000, 200, 200, 0.1, 0.25)
    height = masks.any(axis=2).sum(axis=1)
    width = masks.any(axis=1).sum(axis=1)
    area = height * width / 200**2
    log_aspect = np.log(height / width)
    assert scipy.stats.kstest(area, scipy.stats.uniform(0.1, 0.15).cdf).pvalue > 1e-3
    assert (
        scipy.stats.kstest(
            log_aspect, scipy.stats.uniform(np.log(0.3), -2 * np.log(0.3)).cdf
        ).pvalue
        > 1e-3
    )
    assert abs(scipy.stats.pearsonr(area, log_aspect).statistic) < 3 / np.sqrt(len(area))


def test_blocks_of_a_size_lie_anywhere_equally_often():
    """2x3 on a grid of 6x7 has 5 x 5 places."""
    masks = blocks(2, 20_000, 6, 7, 0.1, 0.2)
    masks = masks[(masks.any(axis=2).sum(axis=1) == 2) & (masks.any(axis=1).sum(axis=1) == 3)]
    assert len(masks) > 1_000
    first = masks.any(axis=2).argmax(axis=1) * 5 + masks.any(axis=1).argmax(axis=1)
    times = np.bincount(first, minlength=25)
    assert len(times) == 25
    assert scipy.stats.chisquare(times).pvalue > 1e-3
