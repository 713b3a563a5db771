"""Images of stripes."""

import numpy as np
import pytest

SIDE = 16  # pixels


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
