"""Q-value networks: shapes, the scaling of bounded features, and images as bytes."""

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np

from missing_bits.nets import q_networks


def test_bounded_features_are_scaled_and_the_others_stay():
    low, high = np.float32([-1.2, -0.07, -np.inf, -3.4e38]), np.float32([0.6, 0.07, np.inf, 3.4e38])
    space = gym.spaces.Box(low, high, dtype=np.float32)
    observation = jnp.float32([[0.6, -0.07, 5.0, -6.0], [-0.3, 0.0, 0.0, 0.0]])
    # The middle of [-1.2, 0.6] is -0.3; ends map to +-1; features without bounds pass.
    expected = [[1.0, -1.0, 5.0, -6.0], [0.0, 0.0, 0.0, 0.0]]
    np.testing.assert_allclose(q_networks.centerd(space, observation), expected, atol=1e-6)


def test_a_vector_network_is_what_its_widths_say():
    space = gym.spaces.Box(-1, 1, (3,), np.float32)
    network = q_networks.for_observations(space, (5, 4), 2)
    params = network.init(jax.random.key(0), jnp.zeros((1, 3)))
    shapes = [layer["w"].shape for layer in params.values()]
    assert shapes == [(3, 5), (5, 4), (4, 2)]
    x = jnp.float32([[0.5, -1.0, 0.25]])
    by_hand = x
    for i, layer in enumerate(params.values()):
        by_hand = (jax.nn.relu(by_hand) if i else by_hand) @ layer["w"] + layer["b"][None]
    np.testing.assert_allclose(network.apply(params, x), by_hand, rtol=1e-6)


def test_the_nature_network_has_its_published_size_and_scales_bytes():
    space = gym.spaces.Box(0, 255, (84, 84, 4), np.uint8)
    network = q_networks.for_observations(space, (512,), 6)
    image = np.random.default_rng(0).integers(0, 256, (2, 84, 84, 4), np.uint8)
    params = network.init(jax.random.key(0), image)
    # 8*8*4*32+32, 4*4*32*64+64, 3*3*64*64+64, 7*7*64*512+512, 512*6+6 (Mnih et al. 2015, methods)
    assert (
        sum(x.size for x in jax.tree.leaves(params)) == 8_224 + 32_832 + 36_928 + 1_606_144 + 3_078
    )
    values = network.apply(params, image)
    assert values.shape == (2, 6)
    np.testing.assert_allclose(
        values, network.apply(params, image.astype(np.float32) / 255), rtol=1e-5, atol=1e-6
    )
