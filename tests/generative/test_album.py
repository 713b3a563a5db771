"""Albums: frames at even distances, each after its update, the last at the end; drawn as a GIF."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from missing_bits.generative import album

SHAPE = (4, 4, 1)


def fill(updates):
    """An album of a run whose images are as bright as the share of updates that are made."""

    def step(frames, _):
        share = (frames.count + 1) / updates

        def generate(z, numbers):
            return jnp.full((len(z), *SHAPE), share)

        return album.filled(frames, generate, 3, updates), None

    start = album.empty(SHAPE, updates)
    return jax.jit(lambda frames: jax.lax.scan(step, frames, length=updates)[0])(start)


@pytest.mark.parametrize("updates", [1, 7, 20, 33, 5_000])
def test_frames_are_spread_evenly_to_the_end(updates):
    found = fill(updates)
    frames = min(updates, album.FRAMES)
    expected = np.round(np.arange(1, frames + 1) * updates / frames)
    np.testing.assert_allclose(found.updates, expected, atol=1)
    assert found.updates[-1] == updates == found.count
    assert (np.diff(found.updates) > 0).all()
    brightness = np.asarray(found.frames[:, 0, 0, 0, 0])
    np.testing.assert_allclose(brightness, 255 * found.updates / updates, atol=1)


def test_the_latents_are_the_same_in_all_frames():
    seen = []

    def generate(z, numbers):
        seen.append(np.asarray(z))
        return jnp.zeros((len(z), *SHAPE))

    frames = album.empty(SHAPE, 2)
    with jax.disable_jit():
        for _ in range(2):
            frames = album.filled(frames, generate, 3, 2)
    np.testing.assert_array_equal(seen[0], seen[1])
    assert np.ptp(seen[0]) > 1


def test_what_there_is_becomes_a_gif(tmp_path):
    album.draw(fill(7), tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as picture:
        assert picture.n_frames == 7
    album.draw(album.empty(SHAPE, 7), tmp_path / "none.gif")
    assert not (tmp_path / "none.gif").exists()
