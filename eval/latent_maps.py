"""The plane of two latents: where test images of each class lie, and what a decoder makes of it.

Shapes: B images, H, W, C of an image.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from missing_bits.data.images import ImageSet
from missing_bits.eval import subsets
from missing_bits.eval.evaluation import Pictures
from missing_bits.pictures import latents as pictures_of_latents

_SEEN = 5_000  # test images, at most
_PLACES = 16  # on each axis


def pictures(
    data: ImageSet,
    encode: Callable[[Any, jax.Array], jax.Array],
    decode: Callable[[Any, jax.Array], jax.Array],
) -> Pictures:
    """Draws `latent_map.png`, where there are labels, and `latent_grid.png`.

    Args:
      data: images.
      encode: maps (learned, images [B, H, W, C] in [0, 1]) to latents [B, 2].
      decode: maps (learned, latents [B, 2]) to images [B, H, W, C].
    """
    encode = jax.jit(encode)
    decode = jax.jit(decode)

    def draw(learned: Any, seed: int, folder: Path) -> None:
        found = [encode(learned, x) for _, x in subsets.batches(data.test, _SEEN)]
        latents = np.concatenate([np.asarray(some) for some in found])
        labels = data.test.labels
        if labels is not None:
            mine = labels[subsets.chosen(data.test, _SEEN)]
            pictures_of_latents.plane(latents, mine, data.classes, folder / "latent_map.png")
        places = pictures_of_latents.grid(latents, _PLACES)
        made = np.asarray(decode(learned, places))
        pictures_of_latents.decoded(made, places, folder / "latent_grid.png")

    return draw
