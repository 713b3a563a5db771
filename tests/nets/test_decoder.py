"""The decoder of masked autoencoders: a transformer over the whole grid, in whatever order."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from missing_bits.nets import transformer
from missing_bits.nets.decoder import PatchDecoder

GRID = (2, 3)
NUMBERS = 5
WIDTH = 8
LAYERS = 2
HEADS = 2
D = 7
NET = hk.without_apply_rng(
    hk.transform(lambda *seen: PatchDecoder(GRID, NUMBERS, WIDTH, LAYERS, HEADS)(*seen))
)
KEPT = np.array([[0, 4], [1, 5]], np.int32)
HIDDEN = np.array([[1, 2, 3, 5], [0, 2, 3, 4]], np.int32)
TOKENS = np.random.default_rng(0).normal(size=(2, 3, D)).astype(np.float32)  # [B, 1 + K, D]


def filled():
    """Parameters, none of them zero or one: normal numbers of deviation 0.5."""
    shapes = jax.eval_shape(NET.init, jax.random.key(0), TOKENS, KEPT, HIDDEN)
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: (0.5 * rng.normal(size=leaf.shape)).astype(leaf.dtype), shapes)


PARAMS = filled()
DECODE = jax.jit(NET.apply)


def test_it_is_a_transformer_over_all_patches_in_their_places():
    """As published: mask tokens fill the grid, positions are added, hidden places read off."""
    embed = PARAMS["patch_decoder/embed"]
    head = PARAMS["patch_decoder/patches"]
    embedded = TOKENS @ embed["w"] + embed["b"].reshape(1, 1, -1)
    positions = transformer.grid_positions(*GRID, WIDTH)
    whole = np.zeros((2, 1 + len(positions), WIDTH), np.float32)
    for i in range(2):
        whole[i, 0] = embedded[i, 0]  # the class has no place
        whole[i, 1:] = PARAMS["patch_decoder"]["mask_token"][None] + positions
        for k, place in enumerate(KEPT[i]):
            whole[i, 1 + place] = embedded[i, 1 + k] + positions[place]
    stack = hk.without_apply_rng(hk.transform(lambda x: transformer.Transformer(LAYERS, HEADS)(x)))
    prefix = "patch_decoder/transformer"
    of_stack = {
        name.removeprefix("patch_decoder/"): p
        for name, p in PARAMS.items()
        if name.startswith(prefix)
    }
    through = np.asarray(jax.jit(stack.apply)(of_stack, whole))
    expected = np.stack([through[i, 1 + HIDDEN[i]] for i in range(2)]) @ head["w"] + head[
        "b"
    ].reshape(1, 1, -1)
    np.testing.assert_allclose(DECODE(PARAMS, TOKENS, KEPT, HIDDEN), expected, rtol=1e-4, atol=1e-5)


def test_the_order_of_visible_patches_means_nothing():
    swapped = DECODE(PARAMS, TOKENS[:, [0, 2, 1]], KEPT[:, ::-1], HIDDEN)
    np.testing.assert_allclose(swapped, DECODE(PARAMS, TOKENS, KEPT, HIDDEN), rtol=1e-4, atol=1e-5)


def test_predictions_come_in_the_order_of_the_hidden_patches():
    order = [2, 0, 3, 1]
    found = DECODE(PARAMS, TOKENS, KEPT, HIDDEN[:, order])
    np.testing.assert_allclose(
        found, DECODE(PARAMS, TOKENS, KEPT, HIDDEN)[:, order], rtol=1e-4, atol=1e-5
    )


def test_where_patches_lie_matters():
    """The same tokens at exchanged places, and hidden patches of one image among themselves."""
    plain = np.asarray(DECODE(PARAMS, TOKENS, KEPT, HIDDEN))
    assert np.abs(plain - np.asarray(DECODE(PARAMS, TOKENS, KEPT[:, ::-1], HIDDEN))).max() > 1e-2
    gaps = np.abs(plain[:, :, None] - plain[:, None]).max(axis=-1)  # [B, M, M]
    assert (gaps[:, ~np.eye(4, dtype=bool)] > 1e-2).all()


def test_an_image_depends_on_its_own_tokens_alone():
    other = TOKENS.copy()
    other[1] += 1
    plain, changed = (
        np.asarray(DECODE(PARAMS, tokens, KEPT, HIDDEN)) for tokens in (TOKENS, jnp.asarray(other))
    )
    np.testing.assert_array_equal(changed[0], plain[0])
    assert np.abs(changed[1] - plain[1]).max() > 1e-2
