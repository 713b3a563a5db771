"""Q-value networks: shapes, the scaling of bounded features, images of all sizes and as bytes."""

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from missing_bits.errors import UserError
from missing_bits.nets import q_networks
from missing_bits.nets.q_networks import Shape


def test_bounded_features_are_scaled_and_the_others_stay():
    low = np.float32([-1.2, -0.07, -np.inf, -3.4e38])
    high = np.float32([0.6, 0.07, np.inf, 3.4e38])
    space = gym.spaces.Box(low, high, dtype=np.float32)
    observation = jnp.float32([[0.6, -0.07, 5.0, -6.0], [-0.3, 0.0, 0.0, 0.0]])
    # The middle of [-1.2, 0.6] is -0.3; ends map to +-1; features without bounds pass.
    expected = [[1.0, -1.0, 5.0, -6.0], [0.0, 0.0, 0.0, 0.0]]
    np.testing.assert_allclose(q_networks.centered(space, observation), expected, atol=1e-6)


def test_a_vector_network_is_what_its_widths_say():
    space = gym.spaces.Box(-1, 1, (3,), np.float32)
    network = q_networks.for_observations(space, Shape((5, 4), 2))
    params = network.init(jax.random.key(0), jnp.zeros((1, 3)), None)
    shapes = [layer["w"].shape for layer in params.values()]
    assert shapes == [(3, 5), (5, 4), (4, 2)]
    x = jnp.float32([[0.5, -1.0, 0.25]])
    by_hand = x
    for i, layer in enumerate(params.values()):
        by_hand = (jax.nn.relu(by_hand) if i else by_hand) @ layer["w"] + layer["b"][None]
    np.testing.assert_allclose(network.apply(params, None, x, None)[..., 0], by_hand, rtol=1e-6)


def test_the_nature_network_has_its_published_size_and_scales_bytes():
    space = gym.spaces.Box(0, 255, (84, 84, 4), np.uint8)
    network = q_networks.for_observations(space, Shape((512,), 6))
    image = np.random.default_rng(0).integers(0, 256, (2, 84, 84, 4), np.uint8)
    params = network.init(jax.random.key(0), image, None)
    # 8*8*4*32+32, 4*4*32*64+64, 3*3*64*64+64, 7*7*64*512+512, 512*6+6 (Mnih et al. 2015, methods)
    assert (
        sum(x.size for x in jax.tree.leaves(params)) == 8_224 + 32_832 + 36_928 + 1_606_144 + 3_078
    )
    values = network.apply(params, None, image, None)
    assert values.shape == (2, 6, 1)
    unit = q_networks.for_observations(gym.spaces.Box(0, 1, (84, 84, 4)), Shape((512,), 6))
    np.testing.assert_allclose(
        values, unit.apply(params, None, image.astype(np.float32) / 255, None), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        # A kernel 3*3*C*16 and 16 biases; 16 features of each of (H-2)*(W-2) places to 8; 8 to 2.
        ((3, 3, 1), [9 * 1 * 16, 16, 16 * 1 * 8, 8, 16, 2]),
        ((7, 7, 3), [9 * 3 * 16, 16, 16 * 25 * 8, 8, 16, 2]),
        ((10, 10, 4), [9 * 4 * 16, 16, 16 * 64 * 8, 8, 16, 2]),
        ((35, 35, 1), [9 * 16, 16, 16 * 33 * 33 * 8, 8, 16, 2]),
        ((3, 84, 1), [9 * 16, 16, 16 * 1 * 82 * 8, 8, 16, 2]),
        # 36 pixels are the fewest of the Nature network: 8, then 3, then 1 place of 64 features.
        ((36, 36, 1), [64 * 32, 32, 16 * 32 * 64, 64, 9 * 64 * 64, 64, 64 * 8, 8, 16, 2]),
        ((84, 36, 1), [64 * 32, 32, 16 * 32 * 64, 64, 9 * 64 * 64, 64, 7 * 64 * 8, 8, 16, 2]),
    ],
    ids=str,
)
def test_images_get_the_network_that_fits_their_size(shape, expected):
    space = gym.spaces.Box(0, 255, shape, np.uint8)
    network = q_networks.for_observations(space, Shape((8,), 2))
    images = jax.ShapeDtypeStruct((1, *shape), jnp.uint8)
    params = jax.eval_shape(network.init, jax.random.key(0), images, None)
    assert sorted(x.size for x in jax.tree.leaves(params)) == sorted(expected)


def test_the_small_network_by_hand():
    """Of an image of 3 x 3 pixels the convolution is one product of matrices; bytes are scaled."""
    space = gym.spaces.Box(0, 255, (3, 3, 2), np.uint8)
    network = q_networks.for_observations(space, Shape((5,), 4))
    image = np.random.default_rng(0).integers(0, 256, (2, 3, 3, 2), np.uint8)
    params = network.init(jax.random.key(0), image, None)
    convolution, hidden, values = jax.device_get(tuple(params.values()))
    x = image.reshape(2, 18) / np.float32(255)
    x = np.maximum(x @ convolution["w"].reshape(18, 16) + convolution["b"], 0)
    x = np.maximum(x @ hidden["w"] + hidden["b"], 0)
    expected = x @ values["w"] + values["b"]
    np.testing.assert_allclose(
        network.apply(params, None, image, None)[..., 0], expected, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    ("low", "high", "dtype"),
    [
        (0, 255, np.uint8),
        (0, 1, np.uint8),
        (0, 1, np.bool_),
        (0, 255, np.int32),
        (-20, 100, np.int8),
        (0.0, 255.0, np.float32),
        (0.0, 1.0, np.float32),
    ],
)
def test_pixels_are_scaled_by_the_bounds_that_are_declared(low, high, dtype):
    """A network that took bytes of 0 and 1 for bytes up to 255 would be next to blind."""
    space = gym.spaces.Box(low, high, (3, 3, 1), dtype)
    ends = np.array([low, high], dtype).reshape(2, 1, 1, 1)
    pixels = q_networks.fractions(space, jnp.asarray(ends))
    assert pixels.dtype == jnp.float32
    np.testing.assert_array_equal(pixels.ravel(), [0, 1])


def test_pixels_without_bounds_stay():
    space = gym.spaces.Box(-np.inf, np.inf, (3, 3, 1), np.float32)
    np.testing.assert_array_equal(q_networks.fractions(space, jnp.full((1, 3, 3, 1), 7.0)), 7.0)


@pytest.mark.parametrize("shape", [(), (0,), (10, 10), (2, 10, 1), (10, 2, 3), (9, 9, 0), (1,) * 4])
def test_observations_that_fit_no_network_are_told_in_a_line(shape):
    space = gym.spaces.Box(0, 1, shape, np.float32)
    with pytest.raises(UserError) as error:
        q_networks.for_observations(space, Shape((8,), 2))
    assert str(error.value).startswith(f"Observations of shape {shape} fit no network")
    assert "\n" not in str(error.value)


VECTOR = gym.spaces.Box(-1, 1, (3,), np.float32)
X = np.float32([[0.5, -1.0, 0.25], [0.1, 0.2, 0.3]])


def test_dueling_streams_by_hand():
    """Value plus advantage, less the mean advantage (Wang et al. 2016, equation 9), for each of K
    numbers."""
    network = q_networks.for_observations(VECTOR, Shape((5, 4), 2, outputs=3, dueling=True))
    params = network.init(jax.random.key(0), X, None)
    first, hidden, advantages, hidden_v, value = jax.device_get(tuple(params.values()))
    assert advantages["w"].shape == (4, 6)
    assert value["w"].shape == (4, 3)

    def layer(x, which):
        return x @ which["w"] + which["b"]

    x = np.maximum(layer(X, first), 0)
    a = layer(np.maximum(layer(x, hidden), 0), advantages).reshape(2, 2, 3)
    v = layer(np.maximum(layer(x, hidden_v), 0), value)
    expected = v[:, None] + a - a.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(network.apply(params, None, X, None), expected, rtol=1e-4, atol=1e-6)


def test_noise_is_drawn_with_a_key_and_there_is_none_without():
    network = q_networks.for_observations(VECTOR, Shape((4,), 2, noisy=0.5))
    params = network.init(jax.random.key(0), X, None)
    hidden, out = jax.device_get(tuple(params.values()))
    assert (np.abs(hidden["w"]) <= 3**-0.5).all()
    np.testing.assert_allclose(hidden["w_scale"], 0.5 * 3**-0.5)
    np.testing.assert_allclose(out["b_scale"], 0.5 * 4**-0.5)
    still = network.apply(params, None, X, None)
    by_hand = np.maximum(X @ hidden["w"] + hidden["b"], 0) @ out["w"] + out["b"]
    np.testing.assert_allclose(still[..., 0], by_hand, rtol=1e-5)
    keys = jax.random.split(jax.random.key(1), 2)
    drawn = [network.apply(params, key, X, None) for key in (keys[0], keys[0], keys[1])]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert (drawn[0] != drawn[2]).all()
    assert (drawn[0] != still).all()


def test_noise_is_factorized_with_signed_roots():
    """w + w_scale * f(a) f(b): of rank one, with E f(x)^2 = E |x| = sqrt(2 / pi)."""
    network = q_networks.for_observations(VECTOR, Shape((), 2, noisy=1.0))
    params = network.init(jax.random.key(0), X, None)
    ones = jax.tree.map(jnp.zeros_like, params)
    ones = {name: {**layer, "w_scale": layer["w_scale"] + 1} for name, layer in ones.items()}
    keys = jax.random.split(jax.random.key(1), 4_000)
    rows = jax.vmap(lambda key: network.apply(ones, key, jnp.eye(3), None)[..., 0])(keys)
    rank = jnp.linalg.svd(rows[:50], compute_uv=False)[:, 1:]
    assert float(jnp.max(rank)) < 1e-5
    assert float(jnp.mean(jnp.square(rows))) == pytest.approx(2 / np.pi, rel=0.05)
    assert float(jnp.mean(rows)) == pytest.approx(0, abs=0.03)


def test_the_noise_of_biases_is_that_of_the_outputs():
    """b + b_scale * f(b), with the f(b) of the weights (Fortunato et al. 2018, equation 11)."""
    network = q_networks.for_observations(VECTOR, Shape((), 2, noisy=1.0))
    params = network.init(jax.random.key(0), X, None)
    ones = jax.tree.map(jnp.zeros_like, params)
    ones = {
        name: {**layer, "w_scale": layer["w_scale"] + 1, "b_scale": layer["b_scale"] + 1}
        for name, layer in ones.items()
    }
    x = jnp.concatenate([jnp.zeros((1, 3)), jnp.eye(3)])
    keys = jax.random.split(jax.random.key(1), 4_000)
    rows = jax.vmap(lambda key: network.apply(ones, key, x, None)[..., 0])(keys)
    biases = rows[:, :1]
    factors = jnp.concatenate([biases, rows[:, 1:] - biases], axis=1)
    assert float(jnp.max(jnp.linalg.svd(factors[:50], compute_uv=False)[:, 1:])) < 1e-5
    assert float(jnp.mean(jnp.square(biases))) == pytest.approx(np.sqrt(2 / np.pi), rel=0.05)


def test_quantiles_that_are_asked_for_by_hand():
    """Features times relu(linear(cos(pi i tau))), i = 0..63 (Dabney et al. 2018b, equation 4)."""
    network = q_networks.for_observations(VECTOR, Shape((5, 4), 2))
    taus = np.float32([[0.1, 0.9, 0.5], [0.2, 0.3, 1.0]])
    params = network.init(jax.random.key(0), X, taus)
    first, embedding, hidden, out = jax.device_get(tuple(params.values()))
    cosines = np.cos(np.pi * taus[..., None] * np.arange(64))
    x = np.maximum(X @ first["w"] + first["b"], 0)[:, None]
    x = x * np.maximum(cosines @ embedding["w"] + embedding["b"], 0)
    x = np.maximum(x @ hidden["w"] + hidden["b"], 0) @ out["w"] + out["b"]
    raw = network.apply(params, None, X, taus)
    assert raw.shape == (2, 2, 3)
    np.testing.assert_allclose(raw, np.moveaxis(x, 1, 2), rtol=1e-4, atol=1e-5)
