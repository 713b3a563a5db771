"""Samples over training: what the same latents give after more and more updates, kept in the state.

An album is a part of the state like any other, and so outlives kills and comes with every seed.
Shapes: F frames, n samples in each, H, W, C of an image.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from missing_bits.pictures import generated, images

FRAMES = 20
_SAMPLES = 24
_COLUMNS = 6  # of a frame


class Album(NamedTuple):
    """Frames, evenly spaced over a run."""

    frames: jax.Array  # uint8 [F, n, H, W, C]
    updates: jax.Array  # int32 [F], after how many updates each was made; 0 where there is none yet
    count: jax.Array  # int32, updates so far


def empty(image_shape: tuple[int, int, int], updates: int) -> Album:
    """An album for a run of so many updates."""
    frames = min(FRAMES, updates)
    return Album(
        jnp.zeros((frames, _SAMPLES, *image_shape), jnp.uint8),
        jnp.zeros(frames, jnp.int32),
        jnp.zeros((), jnp.int32),
    )


def filled(
    album: Album,
    generate: Callable[[jax.Array, jax.Array], jax.Array],
    latent: int,
    updates: int,
) -> Album:
    """The album after one more update, with another frame if it is time for one.

    Args:
      album: before.
      generate: maps latents [n, Z], drawn once from a standard normal, and numbers [n], which
        classes may be made of, to images [n, H, W, C] in [0, 1].
      latent: Z.
      updates: of the run.
    """
    frames = len(album.updates)
    count = album.count + 1
    parts = count * jnp.float32(frames / updates)  # not in integers, which large runs overflow
    place = jnp.clip(jnp.round(parts).astype(jnp.int32) - 1, 0, frames - 1)
    # The update that is the nearest to the end of a frame's part of the run.
    is_due = count == jnp.round((place + 1) * jnp.float32(updates / frames)).astype(jnp.int32)

    def more(album: Album) -> Album:
        z = jax.random.normal(jax.random.key(0), (_SAMPLES, latent))
        made = generate(z, jnp.arange(_SAMPLES) % _COLUMNS)
        frame = jnp.round(255 * jnp.clip(made, 0, 1)).astype(jnp.uint8)
        return album._replace(
            frames=album.frames.at[place].set(frame), updates=album.updates.at[place].set(count)
        )

    return jax.lax.cond(is_due, more, lambda album: album, album)._replace(count=count)


def draw(album: Album, path: Path) -> None:
    """Writes the frames that there are as a GIF; nothing where there are none."""
    updates = np.asarray(album.updates)
    there = np.flatnonzero(updates)
    frames = [images.sheet(frame, _COLUMNS) for frame in np.asarray(album.frames)[there]]
    if frames:
        generated.growth(frames, updates[there].tolist(), path)
