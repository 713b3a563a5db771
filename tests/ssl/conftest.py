"""How methods are built and trained here, and images of stripes."""

import jax
import numpy as np
import pytest

from missing_bits import options

SIDE = 16  # pixels


@pytest.fixture(scope="session")
def build():
    """Return the function that builds a method of a class as the loop does."""

    def build(method, config):
        options.check(config)
        method.check(config)
        return method(config, method.resources(config))

    return build


@pytest.fixture(scope="session")
def trained():
    """Return the function that tells what a method has learned after some updates."""

    def trained(method, updates):
        step = jax.jit(method.step)
        state = jax.jit(method.init)(jax.random.key(0))
        source = method.source([0])
        for update in range(updates):
            batch = jax.tree.map(lambda leaf: leaf[0], source.next(None, update))
            state, _ = step(state, batch, jax.random.key(update))
        source.close()
        return jax.device_get(method.learned(state))

    return trained


@pytest.fixture(scope="session")
def stripes(tmp_path_factory):
    """Return the value of --data for 600 images of stripes, without labels.

    They run from left to right or from top to bottom, four pixels from one to the next, so all
    patches of an image are the same: a single visible one tells what is hidden.
    """
    rng = np.random.default_rng(0)
    phase = rng.integers(0, 4, 600)[:, None]
    contrast = rng.uniform(0.5, 1, 600)[:, None]
    waves = contrast * np.sin(np.pi / 2 * (np.arange(SIDE)[None] + phase) + 0.5)  # [600, SIDE]
    images = np.repeat(waves[:, :, None], SIDE, axis=2)
    images[::2] = images[::2].swapaxes(1, 2)
    path = tmp_path_factory.mktemp("stripes") / "stripes.npz"
    np.savez(path, images=np.rint(127.5 + 127.5 * images).astype(np.uint8))
    return f"npz:{path}"
