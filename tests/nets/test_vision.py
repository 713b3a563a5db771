"""Shapes, sizes and numeric types of the encoders."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from missing_bits.errors import UserError
from missing_bits.nets import transformer, vision

# Millions of parameters as published, without the classifier: torchvision's resnet18 has 11.69 with 512 x 1000 + 1000
# = 0.513 in it, resnet50 25.56 with 2.049. The stem for small images has 27 x 64 weights for 147 x 64: 0.0077 less.
# ViT-Tiny has 5.72 and ViT-Small 22.05 with a classifier (0.193 and 0.385), learned positions of 197 tokens (0.038 and
# 0.076) and a class token, which ours have not.
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
    assert hk.data_structures.tree_size(params) / 1e6 == pytest.approx(PUBLISHED[name, side], abs=0.006)


@pytest.mark.parametrize(
    ("name", "shape", "width"),
    [
        ("convnet", (28, 28, 1), None),
        ("convnet", (8, 8, 1), None),
        ("convnet", (33, 47, 3), None),
        ("resnet18", (32, 32, 3), 512),
        ("resnet50", (64, 64, 3), 2048),
        ("vit_tiny", (28, 28, 1), 192),
    ],
)
@pytest.mark.parametrize("bfloat16", [False, True])
def test_features_are_float32_and_finite_and_so_is_all_that_is_kept(name, shape, width, bfloat16):
    network = vision.make(name, bfloat16)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(4, *shape)), jnp.float32)
    params, state = jax.jit(network.init, static_argnums=2)(jax.random.key(0), images, True)
    features, state = jax.jit(network.apply, static_argnums=4)(params, state, None, images, True)
    assert features.shape == (4, width or features.shape[1])
    assert {leaf.dtype for leaf in jax.tree.leaves((params, state, features))} == {jnp.dtype("float32")}
    assert bool(jnp.isfinite(features).all())
    assert float(jnp.std(features, axis=0).max()) > 0


def test_bfloat16_computes_something_else_but_near():
    images = jnp.asarray(np.random.default_rng(0).normal(size=(8, 32, 32, 3)), jnp.float32)
    params, state = vision.make("convnet").init(jax.random.key(0), images, True)
    wide, _ = vision.make("convnet").apply(params, state, None, images, True)
    narrow, _ = vision.make("convnet", True).apply(params, state, None, images, True)
    error = float(jnp.abs(wide - narrow).max() / jnp.abs(wide).max())
    assert 1e-5 < error < 0.1


def test_a_fresh_residual_block_is_the_identity():
    """The last scale starts at zero: with one stage, features do not depend on its convolutions."""
    net = hk.transform_with_state(lambda x: vision.ResNet((1,), bottleneck=False)(x, True))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 3)), jnp.float32)
    params, state = net.init(jax.random.key(0), x)
    before, _ = net.apply(params, state, None, x)
    for module in ("res_net/conv2_d_1", "res_net/conv2_d_2"):
        params[module]["w"] = 5 * params[module]["w"]
    np.testing.assert_array_equal(net.apply(params, state, None, x)[0], before)


def test_images_that_do_not_divide_into_patches_are_refused():
    vision.check("vit_tiny", (28, 32, 3))
    vision.check("convnet", (30, 32, 3))
    for shape, told in (((30, 32, 3), "patches of 4 x 4 pixels, but they are 30 x 32"), ((224, 100, 3), "16 x 16")):
        with pytest.raises(UserError, match=told):
            vision.check("vit_tiny", shape)


def test_positions_are_sines_and_cosines_by_row_and_column():
    """A grid of 2 x 3, width 8: frequencies 10000^0 = 1 and 10000^(-1/2) = 0.01; the last place is row 1, column 2."""
    positions = transformer.grid_positions(2, 3, 8)
    assert positions.shape == (6, 8)
    expected = [np.sin(1), np.sin(0.01), np.cos(1), np.cos(0.01), np.sin(2), np.sin(0.02), np.cos(2), np.cos(0.02)]
    np.testing.assert_allclose(positions[5], expected, rtol=1e-6)
    assert len({tuple(row) for row in positions.round(5)}) == 6


def test_attention_against_its_definition():
    """softmax(q k' / sqrt(d)) v per head (Vaswani 2017, equation 1), with the block's own parameters in numpy."""
    net = hk.without_apply_rng(hk.transform(lambda x: transformer.Block(2)(x)))
    x = np.random.default_rng(0).normal(size=(1, 5, 8)).astype(np.float32)
    params = net.init(jax.random.key(1), jnp.asarray(x))
    rng = np.random.default_rng(2)
    params = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), params)

    def linear(x, name):
        return x @ np.asarray(params[f"block/{name}"]["w"]) + np.asarray(params[f"block/{name}"]["b"])

    def norm(x, name):
        leaves = params[f"block/{name}"]
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * np.asarray(leaves["scale"]) + np.asarray(leaves["offset"])

    tokens = x[0]
    q, k, v = np.split(linear(norm(tokens, "attention_norm"), "qkv"), 3, axis=1)
    heads = []
    for h in (slice(0, 4), slice(4, 8)):
        scores = np.exp(q[:, h] @ k[:, h].T / np.sqrt(4))
        heads.append(scores / scores.sum(1, keepdims=True) @ v[:, h])
    tokens = tokens + linear(np.concatenate(heads, 1), "mix")
    hidden = np.asarray(jax.nn.gelu(linear(norm(tokens, "mlp_norm"), "widen")))
    expected = tokens + linear(hidden, "narrow")
    np.testing.assert_allclose(net.apply(params, jnp.asarray(x))[0], expected, rtol=1e-4, atol=1e-4)
