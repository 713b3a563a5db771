"""Adapters start as nothing; merged they are what the paper adds to every layer's output."""

import functools

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from missing_bits.encoders import lora
from missing_bits.nets import conv
from missing_bits.nets.transformer import Transformer

SCALE = 0.7


@hk.transform
def language(tokens):
    """A transformer of width 8 between an embedding and a head: tokens [B, L] to [B, L, 5]."""
    x = hk.Embed(11, 8)(tokens)
    return hk.Linear(5, name="head")(Transformer(layers=2, heads=2)(x))


@hk.transform
def vision(x):
    """Two convolutions with strides, padding and a bias: [B, 9, 9, 3] to [B, 3, 3, 5]."""
    x = jax.nn.gelu(conv.Conv2D(6, (3, 2), stride=(2, 1), padding="VALID")(x))
    return conv.Conv2D(5, 3, stride=(2, 3))(x)


TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 11, (2, 6)))
INPUTS = {language: TOKENS, vision: jax.random.normal(jax.random.key(0), (2, 9, 9, 3))}


def moved(adapters):
    """Return the adapters with other numbers, none of them zero."""
    leaves, treedef = jax.tree.flatten(adapters)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    return treedef.unflatten(
        [jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    )


@functools.cache
def initialized(network):
    return jax.jit(network.init)(jax.random.key(0), INPUTS[network])


def started(network):
    """Return parameters, and adapters of rank 3."""
    params = initialized(network)
    return params, lora.init(jax.random.key(1), params, 3)


@pytest.mark.parametrize("network", [language, vision], ids=["transformer", "convolutions"])
def test_training_starts_from_the_original_network_bit_for_bit(network):
    params, adapters = started(network)
    merged = lora.merge(params, adapters, SCALE)
    assert jax.tree.structure(merged) == jax.tree.structure(params)
    for before, after in zip(jax.tree.leaves(params), jax.tree.leaves(merged), strict=True):
        assert np.asarray(before).tobytes() == np.asarray(after).tobytes()


@pytest.mark.parametrize("network", [language, vision], ids=["transformer", "convolutions"])
def test_merged_equals_unmerged(network):
    """Against equation 3 as it stands: every layer's output plus scale (x A) B.

    Hooks in the original network add it.
    """
    params, adapters = started(network)
    x = INPUTS[network]
    adapters = moved(adapters)
    layers = []

    def add(call, args, kwargs, context):
        y = call(*args, **kwargs)
        module = context.module
        if not isinstance(module, (hk.Linear, conv.Conv2D)) or context.method_name != "__call__":
            return y
        layers.append(module.module_name)
        a = adapters[module.module_name]["a"]
        b = adapters[module.module_name]["b"]
        if isinstance(module, hk.Linear):
            return y + SCALE * (args[0] @ a) @ b
        narrow = module._conv(
            args[0], a.reshape(*module._kernel_shape, -1, a.shape[1])
        )  # [B, H', W', rank]
        return y + SCALE * narrow @ b

    with hk.intercept_methods(add):
        unmerged = network.apply(params, None, x)
    assert sorted(layers) == sorted(adapters), "each adapter was used once"
    merged = network.apply(lora.merge(params, adapters, SCALE), None, x)
    np.testing.assert_allclose(merged, unmerged, rtol=1e-4, atol=1e-4)
    assert np.abs(merged - network.apply(params, None, x)).max() > 0.1


def test_a_merge_by_hand():
    """[1 2]^T [3 4] = [[3 4] [6 8]], half of which is added.

    What has no adapter stays the same object.
    """
    params = {"one": {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}, "two": {"w": jnp.ones((2, 2))}}
    adapters = {"one": {"a": jnp.array([[1.0], [2.0]]), "b": jnp.array([[3.0, 4.0]])}}
    merged = lora.merge(params, adapters, 0.5)
    np.testing.assert_array_equal(merged["one"]["w"], [[1 + 1.5, 1 + 2], [1 + 3, 1 + 4]])
    assert merged["one"]["b"] is params["one"]["b"]
    assert merged["two"] is params["two"]
    np.testing.assert_array_equal(params["one"]["w"], 1)


def test_the_gradient_reaches_b_first_and_a_once_b_has_moved():
    params, adapters = started(language)
    weights = jax.random.normal(jax.random.key(3), (2, 6, 5))

    @jax.jit
    def gradient(adapters):
        def loss(adapters):
            return jnp.sum(
                weights * language.apply(lora.merge(params, adapters, SCALE), None, TOKENS)
            )

        return jax.grad(loss)(adapters)

    grads = gradient(adapters)
    for module in adapters:
        assert np.abs(grads[module]["b"]).max() > 1e-3
        np.testing.assert_array_equal(grads[module]["a"], 0)
        adapters[module]["b"] -= 0.1 * grads[module]["b"]
    grads = gradient(adapters)
    for module in adapters:
        assert np.abs(grads[module]["a"]).max() > 1e-4


def test_matrices_alone_have_adapters():
    """A block of width 8 has matrices 8 x 24, 8 x 8, 8 x 32 and 32 x 8.

    That makes 32 + 16 + 40 + 40 = 128, the head 8 + 5.
    Kernels 3 x 2 x 3 x 6 and 3 x 3 x 6 x 5 count as 18 x 6 and 54 x 5: 24 + 59.
    """
    params, adapters = started(language)
    blocks = [
        f"transformer/{block}/{name}"
        for block in ("block", "block_1")
        for name in ("qkv", "mix", "widen")
    ]
    blocks += [f"transformer/{block}/narrow" for block in ("block", "block_1")]
    assert set(adapters) == {"head", *blocks}
    assert {"embed", "transformer/norm"} < set(params)
    assert hk.data_structures.tree_size(adapters) == 3 * (2 * 128 + 13)
    _, adapters = started(vision)
    assert hk.data_structures.tree_size(adapters) == 3 * (24 + 59)


def test_a_vector_called_w_has_no_adapter():
    params = {"scale": {"w": jnp.ones(4)}, "linear": {"w": jnp.ones((4, 2))}}
    assert list(lora.init(jax.random.key(0), params, 1)) == ["linear"]


def test_a_is_gaussian_and_keeps_the_scale_of_its_input():
    """Of 500 rows: deviation 1 / sqrt(500), to 3 sigma of n = 30,000 numbers; kurtosis 3.

    A sigma is 1 / sqrt(2 n) of the deviation.
    """
    params = {"one": {"w": jnp.zeros((5, 100, 7))}, "two": {"w": jnp.zeros((500, 7))}}
    adapters = lora.init(jax.random.key(0), params, 60)
    for a in (adapters["one"]["a"], adapters["two"]["a"]):
        assert a.shape == (500, 60)
        scaled = np.asarray(a, float) * np.sqrt(500)
        n = scaled.size
        assert abs(scaled.mean()) < 3 / np.sqrt(n)
        assert abs(scaled.std() - 1) < 3 / np.sqrt(2 * n)
        assert abs(np.mean(scaled**4) - 3) < 3 * np.sqrt(
            96 / n
        )  # of the fourth power: variance 105 - 9
    correlation = np.corrcoef(adapters["one"]["a"].ravel(), adapters["two"]["a"].ravel())[0, 1]
    assert abs(correlation) < 3 / np.sqrt(n)


def test_the_start_depends_on_the_key_and_not_on_the_order_of_modules():
    params, adapters = started(language)
    turned = lora.init(jax.random.key(1), dict(reversed(params.items())), 3)
    other = lora.init(jax.random.key(2), params, 3)
    for module, adapter in adapters.items():
        np.testing.assert_array_equal(adapter["a"], turned[module]["a"])
        assert not np.any(np.asarray(adapter["a"]) == np.asarray(other[module]["a"]))
