"""The transformer against loops in numpy; what masks hide has no influence; what dropout drops."""

import functools

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from missing_bits.nets import transformer

SHAPES = [(1, 3, 1), (2, 8, 5), (3, 12, 4)]  # heads, width, length; each is compiled once


def filled(network, *inputs):
    """Parameters of a network, none of them zero or one: normal numbers of deviation 0.5."""
    shapes = jax.eval_shape(network.init, jax.random.key(0), *inputs)
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: jnp.asarray(0.5 * rng.normal(size=leaf.shape), leaf.dtype), shapes
    )


def transformed(network):
    """A Haiku transform without random keys."""
    return hk.without_apply_rng(hk.transform(network))


@functools.cache
def block_of(heads, width, reach=0, causal=False):
    """Parameters of a block, and the compiled function of them, tokens and perhaps a mask."""
    net = transformed(lambda *inputs: transformer.Block(heads, 0.0, reach, causal)(*inputs))
    return filled(net, jnp.zeros((1, 1, width))), jax.jit(net.apply)


def gelu(x):
    """The tanh form (Hendrycks and Gimpel 2016, section 2)."""
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def reference(params, tokens, mask, heads, reach=0):
    """A block for one example [L, D] with a mask [L, L], in float64."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)

    def linear(x, name):
        return x @ params[f"block/{name}"]["w"] + params[f"block/{name}"]["b"]

    def norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * params[f"block/{name}"]["scale"] + params[f"block/{name}"]["offset"]

    q, k, v = np.split(linear(norm(tokens, "attention_norm"), "qkv"), 3, axis=1)
    size = tokens.shape[1] // heads
    mixed = np.zeros_like(tokens)
    for head in range(heads):
        own = slice(head * size, (head + 1) * size)
        for query in range(len(tokens)):
            allowed = np.flatnonzero(mask[query])
            scores = np.array([q[query, own] @ k[key, own] / np.sqrt(size) for key in allowed])
            if reach:
                distances = [min(max(key - query, -reach), reach) for key in allowed]
                scores += params["block"]["by_distance"][[d + reach for d in distances], head]
            weights = np.exp(scores)
            mixed[query, own] = weights / weights.sum() @ v[allowed, own]
    tokens = tokens + linear(mixed, "mix")
    return tokens + linear(gelu(linear(norm(tokens, "mlp_norm"), "widen")), "narrow")


@st.composite
def attended(draw, shapes):
    """Draws a number of heads, tokens [2, L, D], a mask [2, L, L] that leaves each token itself."""
    heads, width, length = draw(st.sampled_from(shapes))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x = rng.normal(size=(2, length, width)).astype(np.float32)
    mask = (rng.random((2, length, length)) < draw(st.floats(0, 1))) | np.eye(length, dtype=bool)
    return heads, x, mask


@settings(max_examples=25, deadline=None)
@given(attended(SHAPES))
def test_a_block_is_softmax_attention_and_an_mlp(case):
    """softmax(q k' / sqrt(d)) v over the allowed keys, per head and query.

    Vaswani et al. 2017, equation 1. A causal block allows those up to the query, where a mask does.
    """
    heads, x, mask = case
    everywhere = np.ones_like(mask)
    for causal, past in ((False, everywhere), (True, np.tril(everywhere))):
        params, apply = block_of(heads, x.shape[2], causal=causal)
        for inputs, allowed in (((x, mask), mask & past), ((x,), past)):
            expected = [
                reference(params, *example, heads)
                for example in zip(x.astype(float), allowed, strict=True)
            ]
            np.testing.assert_allclose(apply(params, *inputs), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("reach", [0, 2])
def test_a_causal_token_depends_on_no_later_one(reach):
    """The gradient of each token of a stack with respect to each: zero above the diagonal."""
    x = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    everywhere = np.ones((5, 5), bool)

    def dependence(causal):
        """Bool [L, L], whether a token's first feature depends on another token."""
        net = transformed(lambda x: transformer.Transformer(2, 2, 0.0, reach, causal)(x))
        params = filled(net, x[None])
        gradient = jax.jit(jax.jacobian(lambda x: net.apply(params, x[None])[0, :, 0]))(x)
        return np.abs(gradient).max(axis=2) > 1e-6

    np.testing.assert_array_equal(dependence(causal=True), np.tril(everywhere))
    np.testing.assert_array_equal(dependence(causal=False), everywhere)


@settings(max_examples=25, deadline=None)
@given(attended(SHAPES[1:]), st.sampled_from([1, 3, 9]))
def test_distances_are_added_to_scores_as_far_as_they_reach(case, reach):
    """A number for each head and distance from query to key; those beyond the reach are one."""
    heads, x, mask = case
    params, apply = block_of(heads, x.shape[2], reach)
    expected = [
        reference(params, *example, heads, reach)
        for example in zip(x.astype(float), mask, strict=True)
    ]
    np.testing.assert_allclose(apply(params, x, mask), expected, rtol=1e-4, atol=1e-4)


def test_heads_begin_by_looking_at_what_is_near_on_one_side():
    """By hand for a reach of 2: slopes 1/2 and 1/4, 4 less on the other side.

    Even heads look to the left, odd ones to the right; those of a causal block all to the left.
    """
    left = [-1, -0.5, 0, -4.5, -5]
    right = [-5, -4.5, 0, -0.5, -1]
    flatter = [-0.5, -0.25, 0, -4.25, -4.5]
    for causal, heads in ((False, [left, right, flatter]), (True, [left, left, flatter])):
        block = functools.partial(transformer.Block, 3, reach=2, causal=causal)
        net = transformed(lambda x, block=block: block()(x))
        table = net.init(jax.random.key(0), jnp.zeros((1, 4, 6)))["block"]["by_distance"]
        np.testing.assert_array_equal(table, np.transpose(heads))


@settings(max_examples=40, deadline=None)
@given(attended(SHAPES[1:]), st.data())
def test_a_masked_key_has_no_influence(case, data):
    """Other tokens in place of some change no bit of those that do not attend to them."""
    heads, x, mask = case
    length = x.shape[1]
    changed = np.array(data.draw(st.lists(st.booleans(), min_size=length, max_size=length)))
    params, apply = block_of(heads, x.shape[2])
    before = np.asarray(apply(params, x, mask))
    after = np.asarray(apply(params, np.where(changed[None, :, None], 2 - x, x), mask))
    sees = (mask & changed[None, None]).any(2)  # [B, L]; a changed token sees itself
    np.testing.assert_array_equal(before[~sees], after[~sees])
    assert (before[:, changed] != after[:, changed]).any(axis=-1).all()


def test_segments_attend_within_themselves():
    mask = transformer.same_segment(jnp.array([[1, 1, 2, 0]]))
    np.testing.assert_array_equal(mask, [[[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]])


def test_a_mask_reaches_every_block():
    """Through two blocks a token could see another by way of a third.

    A mask of the first block alone would leak.
    """
    net = transformed(lambda x, mask: transformer.Transformer(2, 2)(x, mask))
    x = np.random.default_rng(0).normal(size=(1, 6, 8)).astype(np.float32)
    mask = transformer.same_segment(jnp.array([[1, 2, 1, 2, 2, 0]]))
    params = filled(net, x, mask)
    apply = jax.jit(net.apply)
    others = x + np.array([0, 1, 0, -2, 3, 5], np.float32)[None, :, None] * x[:, ::-1]
    before = np.asarray(apply(params, x, mask))[0]
    after = np.asarray(apply(params, others, mask))[0]
    np.testing.assert_array_equal(before[[0, 2]], after[[0, 2]])
    assert (np.abs(before - after)[[1, 3, 4, 5]].max(axis=1) > 1e-3).all()


@functools.cache
def dropping(rate):
    """Parameters of a block of width 8, and the compiled function of them, tokens and keys."""
    net = transformed(lambda x, keys: transformer.Block(2, rate)(x, None, keys))
    return filled(net, jnp.zeros((1, 1, 8)), None), jax.jit(net.apply)


def test_dropout_drops_only_at_a_rate_and_with_keys():
    x = np.random.default_rng(0).normal(size=(3, 5, 8)).astype(np.float32)
    keys = jax.random.split(jax.random.key(1), 3)
    params, never = dropping(0.0)
    _, sometimes = dropping(0.3)
    plain = never(params, x, None)
    np.testing.assert_array_equal(sometimes(params, x, None), plain)
    np.testing.assert_array_equal(never(params, x, keys), plain)
    dropped = np.asarray(sometimes(params, x, keys))
    assert (np.abs(dropped - np.asarray(plain)).max(axis=(1, 2)) > 0.1).all()


def test_what_is_dropped_of_an_example_depends_on_its_own_key_alone():
    x = np.random.default_rng(0).normal(size=(3, 5, 8)).astype(np.float32)
    keys, other_keys = jax.random.split(jax.random.key(1), (2, 3))
    params, apply = dropping(0.3)
    together = np.asarray(apply(params, x, keys))
    turned = np.asarray(apply(params, x[[2, 0, 1]], keys[np.array([2, 0, 1])]))
    np.testing.assert_allclose(turned, together[[2, 0, 1]], rtol=1e-5, atol=1e-5)
    other_mates = np.concatenate([x[:1], x[1:] + x[:1]])
    mates = apply(params, other_mates, jnp.concatenate([keys[:1], other_keys[1:]]))
    np.testing.assert_allclose(np.asarray(mates)[0], together[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(apply(params, x[:1], keys[:1]), together[:1], rtol=1e-5, atol=1e-5)
    # One example under three keys is three examples, and under one key it is one.
    same = np.stack([x[0]] * 3)
    three = np.asarray(apply(params, same, keys))
    one = np.asarray(apply(params, same, keys[np.array([0, 0, 0])]))
    assert all(np.abs(three[a] - three[b]).max() > 0.1 for a, b in ((0, 1), (0, 2), (1, 2)))
    np.testing.assert_allclose(one, np.stack([three[0]] * 3), rtol=1e-5, atol=1e-5)


def constant(params, *added):
    """Parameters of layers that add these constants, whatever they get.

    The first is that of attention, the second that of the MLP, and so on for each block.
    """
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), params)
    # "block" is before "block_1".
    layers = sorted(name for name in params if name.endswith(("mix", "narrow")))
    for layer, number in zip(layers, added, strict=True):
        params[layer]["b"] += number
    return params


def test_the_rate_of_dropout_and_the_mean_it_keeps():
    """Of attention that adds 1 to zeros and an MLP that adds 2, 0 to 3 is left, times 1 / stay.

    A rate of 0.2 is 51 of 256. Independent of each other the two stay with probability 1 - rate
    each; the mean is 3. The squares of what is left have the means 1 / stay and 4 / stay: the
    variance of an entry is 5 rate / stay.
    """
    rate = 51 / 256
    stay = 205 / 256
    net = transformed(lambda x, keys: transformer.Block(3, 0.2)(x, None, keys))
    x = jnp.zeros((8, 50, 42))
    keys = jax.random.split(jax.random.key(0), 8)
    params = constant(filled(net, x, keys), 1.0, 2.0)
    y = np.asarray(jax.jit(net.apply)(params, x, keys), np.float64)
    kinds = np.round(y * stay)
    np.testing.assert_allclose(y * stay, kinds, atol=1e-6)

    def assert_share(events, share):
        assert abs(events.mean() - share) < 3 * np.sqrt(share * (1 - share) / events.size)

    for kind, share in enumerate((rate * rate, stay * rate, rate * stay, stay * stay)):
        assert_share(kinds == kind, share)
    assert abs(y.mean() - 3) < 3 * np.sqrt(5 * rate / stay / y.size)
    # Entries of a token are independent too, whichever byte of a random number decides on each.
    attention = kinds % 2 == 1
    for first in range(4):
        assert_share(attention[:, :, first::4], stay)
        for second in range(first):
            assert_share(attention[:, :, first:40:4] & attention[:, :, second:40:4], stay * stay)


def test_each_layer_drops_other_entries():
    """Four layers add 1, 2, 4 and 8: of 256 entries of a token, all 16 sums remain.

    Shared masks would leave 4 or 2. The last normalization keeps what is equal equal.
    """
    net = transformed(lambda x, keys: transformer.Transformer(2, 4, 0.5)(x, None, keys))
    x = jnp.zeros((1, 1, 256))
    keys = jax.random.split(jax.random.key(0), 1)
    params = constant(filled(net, x, keys), 1.0, 2.0, 4.0, 8.0)
    params["transformer/norm"] = {"scale": jnp.ones(256), "offset": jnp.zeros(256)}
    assert len(np.unique(np.asarray(jax.jit(net.apply)(params, x, keys)).round(4))) == 16


def test_bfloat16_stays_bfloat16():
    """Normalization computes in float32 and gives back the type it got."""
    net = transformed(lambda x: transformer.Transformer(1, 2)(x))
    x = np.random.default_rng(0).normal(size=(2, 5, 8)).astype(np.float32)
    params = filled(net, x)
    apply = jax.jit(net.apply)
    narrow = apply(*jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), (params, x)))
    assert narrow.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(narrow, np.float32), apply(params, x), atol=0.1)


def test_positions_are_sines_and_cosines_by_row_and_column():
    """A grid of 2 x 3, width 8: frequencies 10000^0 = 1 and 10000^(-1/2) = 0.01.

    The last place is row 1, column 2.
    """
    positions = transformer.grid_positions(2, 3, 8)
    assert positions.shape == (6, 8)
    row = [np.sin(1), np.sin(0.01), np.cos(1), np.cos(0.01)]
    column = [np.sin(2), np.sin(0.02), np.cos(2), np.cos(0.02)]
    np.testing.assert_allclose(positions[5], row + column, rtol=1e-6)
    assert len({tuple(row) for row in positions.round(5)}) == 6
