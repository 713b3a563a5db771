"""Shapes, sizes and types of the encoders, and what a vision transformer sees of an image."""

import functools

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from missing_bits.encoders.images import ImageEncoder
from missing_bits.errors import UserError
from missing_bits.nets import vision

# Millions of parameters as published, without the classifier: torchvision's resnet18 has 11.69 with
# 512 x 1000 + 1000 = 0.513 in it, resnet50 25.56 with 2.049. The stem for small images has 27 x 64
# weights for 147 x 64: 0.0077 less. ViT-Tiny has 5.72 and ViT-Small 22.05 with a classifier (0.193
# and 0.385) and learned positions of 197 tokens (0.038 and 0.076), which ours have not.
PUBLISHED = {
    ("resnet18", 224): 11.69 - 0.513,
    ("resnet18", 32): 11.69 - 0.513 - 0.0077,
    ("resnet50", 224): 25.56 - 2.049,
    ("vit_tiny", 224): 5.72 - 0.193 - 0.038,
    ("vit_small", 224): 22.05 - 0.385 - 0.076,
}


@pytest.mark.parametrize(("name", "side"), PUBLISHED)
def test_networks_have_the_published_number_of_parameters(name, side):
    images = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
    params, _ = jax.eval_shape(lambda x: vision.make(name).init(jax.random.key(0), x, True), images)
    assert hk.data_structures.tree_size(params) / 1e6 == pytest.approx(
        PUBLISHED[name, side], abs=0.006
    )


@pytest.mark.parametrize(
    ("name", "shape", "width"),
    [
        ("convnet", (28, 28, 1), 384),
        ("resnet18", (32, 32, 3), 512),
        ("resnet50", (64, 64, 3), 2048),
        ("plain_convnet", (28, 28, 1), 256),
        ("plain_convnet", (70, 9, 3), 256),
        ("mlp", (28, 28, 1), 256),
        ("full_resolution", (28, 28, 1), 32),
        ("vit_nano", (28, 28, 1), 2 * 32),
        ("vit_tiny", (28, 28, 1), 2 * 192),
    ],
)
@pytest.mark.parametrize("bfloat16", [False, True])
def test_features_are_float32_and_so_is_all_that_is_kept(name, shape, width, bfloat16):
    """Shapes and types are known before anything is computed."""
    network = vision.make(name, bfloat16)
    images = jax.ShapeDtypeStruct((4, *shape), jnp.float32)
    params, state = jax.eval_shape(lambda x: network.init(jax.random.key(0), x, True), images)
    features, state = jax.eval_shape(
        lambda *arguments: network.apply(*arguments[:2], None, arguments[2], True),
        params,
        state,
        images,
    )
    assert features.shape == (4, width)
    assert {leaf.dtype for leaf in jax.tree.leaves((params, state, features))} == {
        jnp.dtype("float32")
    }


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("convnet", (8, 8, 1)),
        ("convnet", (33, 47, 3)),
        ("resnet18", (32, 32, 3)),
        ("vit_nano", (28, 28, 1)),
    ],
)
@pytest.mark.parametrize("bfloat16", [False, True])
def test_features_are_finite_and_differ(name, shape, bfloat16):
    """Other sizes of these networks are made of the same blocks."""
    network = vision.make(name, bfloat16)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(4, *shape)), jnp.float32)
    params, state = jax.jit(network.init, static_argnums=2)(jax.random.key(0), images, True)
    features, state = jax.jit(network.apply, static_argnums=4)(params, state, None, images, True)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves((features, state)))
    assert float(jnp.std(features, axis=0).max()) > 0


def test_bfloat16_computes_something_else_but_near():
    images = jnp.asarray(np.random.default_rng(0).normal(size=(8, 32, 32, 3)), jnp.float32)
    params, state = jax.jit(vision.make("convnet").init, static_argnums=2)(
        jax.random.key(0), images, True
    )

    def features(bfloat16):
        apply = jax.jit(vision.make("convnet", bfloat16).apply, static_argnums=4)
        return apply(params, state, None, images, True)[0]

    wide = features(bfloat16=False)
    narrow = features(bfloat16=True)
    error = float(jnp.abs(wide - narrow).max() / jnp.abs(wide).max())
    assert 1e-5 < error < 0.1


@pytest.mark.parametrize(("bottleneck", "convolutions"), [(False, 2), (True, 3)])
def test_a_fresh_residual_block_is_the_identity(bottleneck, convolutions):
    """The last scale starts at zero: with one stage, features do not depend on its convolutions."""
    net = hk.transform_with_state(lambda x: vision.ResNet((1,), bottleneck)(x, True))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 3)), jnp.float32)
    params, state = net.init(jax.random.key(0), x)
    before, _ = net.apply(params, state, None, x)
    assert bool(jnp.isfinite(before).all())
    for number in range(convolutions):
        module = params[f"res_net/conv2_d_{number + 1}"]
        module["w"] = 5 * module["w"]
    np.testing.assert_array_equal(net.apply(params, state, None, x)[0], before)


def test_images_that_do_not_divide_into_patches_are_refused():
    vision.check("vit_tiny", (28, 32, 3))
    vision.check("convnet", (30, 32, 3))
    for shape, told in (
        ((30, 32, 3), "patches of 4 x 4 pixels, but they are 30 x 32"),
        ((224, 100, 3), "16 x 16"),
    ):
        with pytest.raises(UserError, match=told):
            vision.check("vit_tiny", shape)


@pytest.mark.parametrize(
    ("name", "shape", "patch", "told"),
    [
        ("vgg", (28, 28, 1), 0, "--network=vgg is unknown; it is one of convnet, resnet18,"),
        ("convnet", (0, 28, 1), 0, r"\(0, 28, 1\) hold no pixels"),
        ("resnet18", (28, 28, 0), 0, r"\(28, 28, 0\) hold no pixels"),
        ("vit_tiny", (516, 512, 3), 4, "into 16,512 patches; attention takes at most 16,384"),
    ],
)
def test_images_that_no_network_can_take_are_refused(name, shape, patch, told):
    with pytest.raises(UserError, match=told):
        vision.check(name, shape, patch)
    vision.check("vit_tiny", (512, 512, 3), 4)


def test_networks_that_normalize_over_the_batch():
    """They are those whose state holds moving averages."""
    for name in vision.NAMES:
        encoder = ImageEncoder(name, (8, 8, 1), (0.5,), (0.2,))
        state = jax.eval_shape(encoder.init, jax.random.key(0)).state
        assert vision.has_batch_norm(name) == bool(state), name


def test_patches_have_the_side_that_is_asked_for():
    """Of 28 x 28 pixels in patches of 7, the sixth is rows and columns 7 to 13; it is seen."""
    encoder = ImageEncoder("vit_nano", (28, 28, 1), (0.5,), (0.2,), patch=7)
    images = np.random.default_rng(0).random((1, 28, 28, 1)).astype(np.float32)
    variables = jax.jit(encoder.init)(jax.random.key(0))
    tokens = jax.jit(encoder.tokens)
    assert tokens(variables, images).shape == (1, 1 + 16, 32)
    alone = np.zeros_like(images)
    alone[:, 7:14, 7:14] = images[:, 7:14, 7:14]
    kept = np.array([[5]])
    np.testing.assert_array_equal(
        tokens(variables, images, kept=kept), tokens(variables, alone, kept=kept)
    )
    for patch, told in (
        (-1, "--patch is -1"),
        (5, "patches of 5 x 5 pixels, but they are 28 x 28"),
    ):
        with pytest.raises(UserError, match=told):
            ImageEncoder("vit_nano", (28, 28, 1), (0.5,), (0.2,), patch=patch)


# Tokens of a vision transformer: images of 3 x 4 patches of 4 x 4 pixels.

VIT = ImageEncoder("vit_nano", (12, 16, 3), (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
PATCHES = 12
WIDTH = 32
KEPT = 5
IMAGES = np.random.default_rng(0).random((2, 12, 16, 3)).astype(np.float32)
MASK_TOKEN = np.random.default_rng(1).normal(size=WIDTH).astype(np.float32)
TOKENS = jax.jit(VIT.tokens)


@functools.cache
def variables():
    return jax.jit(VIT.init)(jax.random.key(0))


@functools.cache
def plain():
    """Tokens [2, 1 + 12, WIDTH] of all that there is."""
    return np.asarray(TOKENS(variables(), IMAGES))


def pixels(patches):
    """Bool [2, 12, 16, 3] from bool [2, 12]: the pixels of some patches.

    Patch i is in row i // 4, column i % 4.
    """
    where = np.zeros(IMAGES.shape, bool)
    for image, i in np.argwhere(patches):
        top = 4 * (i // 4)
        left = 4 * (i % 4)
        where[image, top : top + 4, left : left + 4] = True
    return where


def hidden_from(kept):
    """Bool [2, 12], the patches that are not among [2, K]."""
    return ~(kept[:, :, None] == np.arange(PATCHES)).any(axis=1)


def gradient(**masking):
    """The gradient of a number that every token has part in, with respect to pixels."""
    weights = np.random.default_rng(2).normal(size=WIDTH).astype(np.float32)
    found = jax.jit(jax.grad(lambda x: jnp.sum(VIT.tokens(variables(), x, **masking) @ weights)))(
        IMAGES
    )
    return np.asarray(found)


def orders(count):
    """Some patches of each of two images, in any order: int [2, count]."""
    order = st.permutations(range(PATCHES)).map(lambda order: order[:count])
    return st.tuples(order, order).map(lambda both: np.array(both, np.int32))


def test_features_are_the_class_token_beside_the_mean_over_patches():
    features, state = jax.jit(VIT.apply)(variables(), IMAGES)
    assert features.shape == (2, VIT.num_features) == (2, 2 * WIDTH)
    np.testing.assert_allclose(features[:, :WIDTH], plain()[:, 0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        features[:, WIDTH:], plain()[:, 1:].mean(axis=1), rtol=1e-5, atol=1e-5
    )
    assert state == {}


def test_a_summary_by_hand():
    """Of tokens (1, 2), (3, 5) and (5, 9): the first beside ((3 + 5) / 2, (5 + 9) / 2)."""
    np.testing.assert_array_equal(
        vision.summary(jnp.array([[[1.0, 2.0], [3.0, 5.0], [5.0, 9.0]]])), [[1, 2, 4, 7]]
    )


@settings(max_examples=20, deadline=None)
@given(orders(PATCHES))
def test_all_patches_in_any_order_are_the_plain_tokens_in_that_order(kept):
    tokens = np.asarray(TOKENS(variables(), IMAGES, kept=kept))
    np.testing.assert_allclose(tokens[:, 0], plain()[:, 0], rtol=1e-4, atol=1e-4)
    expected = np.take_along_axis(plain()[:, 1:], kept[:, :, None], axis=1)
    np.testing.assert_allclose(tokens[:, 1:], expected, rtol=1e-4, atol=1e-4)


@settings(max_examples=20, deadline=None)
@given(orders(KEPT))
def test_some_patches_in_another_order_are_the_same_tokens_in_that_order(kept):
    tokens = np.asarray(TOKENS(variables(), IMAGES, kept=kept))
    turned = np.asarray(TOKENS(variables(), IMAGES, kept=kept[:, ::-1]))
    np.testing.assert_allclose(turned[:, 0], tokens[:, 0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(turned[:, 1:], tokens[:, :0:-1], rtol=1e-4, atol=1e-4)
    # A token tells of all that is seen: fewer patches make other tokens.
    assert np.abs(tokens[:, 0] - plain()[:, 0]).max() > 1e-3


@settings(max_examples=20, deadline=None)
@given(orders(KEPT))
def test_no_bit_of_a_dropped_patch_is_seen(kept):
    before = np.asarray(TOKENS(variables(), IMAGES, kept=kept))
    hidden = hidden_from(kept)
    assert hidden.sum() == 2 * (PATCHES - KEPT)
    after = TOKENS(variables(), np.where(pixels(hidden), 1 - IMAGES, IMAGES), kept=kept)
    np.testing.assert_array_equal(after, before)
    # In each image one that is seen: all tokens change.
    one = np.arange(PATCHES)[None] == kept[:, :1]
    after = TOKENS(variables(), np.where(pixels(one), 1 - IMAGES, IMAGES), kept=kept)
    assert np.abs(after - before).max(axis=2).min() > 1e-4


@settings(max_examples=20, deadline=None)
@given(st.lists(st.booleans(), min_size=2 * PATCHES, max_size=2 * PATCHES))
def test_no_bit_under_the_mask_is_seen(drawn):
    mask = np.array(drawn).reshape(2, PATCHES)
    before = np.asarray(TOKENS(variables(), IMAGES, mask=mask, mask_token=MASK_TOKEN))
    assert before.shape == plain().shape
    changed = np.where(pixels(mask), 1 - IMAGES, IMAGES)
    np.testing.assert_array_equal(
        TOKENS(variables(), changed, mask=mask, mask_token=MASK_TOKEN), before
    )
    # An image without a masked patch is encoded as ever, and one with any is not.
    same = np.abs(before - plain()).max(axis=(1, 2)) < 1e-4
    np.testing.assert_array_equal(same, ~mask.any(axis=1))


def test_pixels_that_are_not_seen_have_no_gradient():
    kept = np.array([[7, 0, 3, 11, 4], [1, 2, 10, 9, 5]], np.int32)
    hidden = hidden_from(kept)
    for found in (
        gradient(kept=kept),
        gradient(mask=jnp.asarray(hidden), mask_token=jnp.asarray(MASK_TOKEN)),
    ):
        np.testing.assert_array_equal(found[pixels(hidden)], 0)
        assert (found[pixels(~hidden)] != 0).mean() > 0.99


def test_masked_patches_keep_their_places():
    """With all patches masked, what distinguishes tokens are their positions."""
    everything = np.ones((2, PATCHES), bool)
    tokens = np.asarray(TOKENS(variables(), IMAGES, mask=everything, mask_token=MASK_TOKEN))
    np.testing.assert_allclose(tokens[0], tokens[1], rtol=1e-4, atol=1e-4)
    apart = np.abs(tokens[0, 1:, None] - tokens[0, None, 1:]).max(axis=2)
    assert apart[~np.eye(PATCHES, dtype=bool)].min() > 1e-3


def test_tokens_of_bytes_and_in_bfloat16():
    levels = (255 * IMAGES).astype(np.uint8)
    exact = np.asarray(TOKENS(variables(), (levels / 255).astype(np.float32)))
    np.testing.assert_allclose(TOKENS(variables(), levels), exact, rtol=1e-4, atol=1e-4)
    narrow = ImageEncoder(VIT.network, VIT.image_shape, VIT.mean, VIT.std, bfloat16=True)
    found = jax.jit(narrow.tokens)(variables(), levels)
    assert found.dtype == jnp.float32
    assert 1e-4 < np.abs(found - exact).max() / np.abs(exact).max() < 0.05


def test_features_of_full_resolution_are_the_means_of_its_maps():
    network = vision.make("full_resolution")
    x = jax.random.normal(jax.random.key(0), (2, 6, 5, 3))
    params, state = network.init(jax.random.key(1), x, True)
    maps = vision.maps_of("full_resolution")(params, x)
    assert maps.shape == (2, 6, 5, 32)
    features, _ = network.apply(params, state, None, x, False)
    np.testing.assert_allclose(features, maps.mean(axis=(1, 2)), atol=1e-5)
