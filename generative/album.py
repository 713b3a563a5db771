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
from jax.typing import DTypeLike

from missing_bits.pictures import generated, images

FRAMES = 20
_SAMPLES = 24
_COLUMNS = 6  # of a frame


class Album(NamedTuple):
    """Frames, evenly spaced over a run."""

    frames: jax.Array  # [F, n, H, W, C], uint8; points, which are no images, float32
    updates: jax.Array  # int32 [F], after how many updates each was made; 0 where there is none yet
    count: jax.Array  # int32, updates so far


def empty(
    image_shape: tuple[int, int, int],
    updates: int,
    samples: int = _SAMPLES,
    dtype: DTypeLike = jnp.uint8,
) -> Album:
    """An album for a run of so many updates."""
    frames = min(FRAMES, updates)
    return Album(
        jnp.zeros((frames, samples, *image_shape), dtype),
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
        classes may be made of, to images [n, H, W, C] in [0, 1], or to points.
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
        samples = album.frames.shape[1]
        z = jax.random.normal(jax.random.key(0), (samples, latent))
        frame = generate(z, jnp.arange(samples) % _COLUMNS)
        if album.frames.dtype == jnp.uint8:
            frame = jnp.round(255 * jnp.clip(frame, 0, 1)).astype(jnp.uint8)
        return album._replace(
            frames=album.frames.at[place].set(frame), updates=album.updates.at[place].set(count)
        )

    return jax.lax.cond(is_due, more, lambda album: album, album)._replace(count=count)


def made(album: Album) -> Album:
    """The frames that there are, in order, on the host."""
    updates = np.asarray(album.updates)
    there = np.flatnonzero(updates)
    return album._replace(frames=np.asarray(album.frames)[there], updates=updates[there])


def draw(album: Album, path: Path) -> None:
    """Writes the frames that there are as a GIF; nothing where there are none."""
    found = made(album)
    frames = [images.sheet(frame, _COLUMNS) for frame in found.frames]
    if frames:
        generated.growth(frames, found.updates.tolist(), path)
