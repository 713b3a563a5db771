"""Convolutions by 3 x 3 kernels that take a quarter of the products, on a CPU.

Winograd 1980, as Lavin and Gray 2016 apply him: F(4 x 4, 3 x 3) of section 4.3. Of an image [B, H,
W, C] each square of 6 x 6 pixels, 4 apart, is mapped to 36 numbers by V = B^T x B, the kernel by U
= G w G^T; in each of the 36 places the products over channels are one of matrices, and A^T (U V) A
are 4 x 4 pixels of the result: 36 products where the sums themselves take 144. Rounding errors are
some twenty times those of the sums, up to 2e-5 of the largest value.

Few images are transformed at once, so that they stay in the cache. Arrays are float32; what fits is
said by `gains`, and not checked again.
Shapes: images B, sides H x W, channels C in and O out, squares N of all images.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from missing_bits.numeric import ceil_div

TILE = 4  # pixels of the result along a side of a square
_REACH = TILE + 2  # pixels that these depend on
_FEWEST_CHANNELS = 24  # with fewer the transforms cost what the products save
_MOST_PIXELS = 1 << 14  # of an image, of which one is transformed at once
_CHUNK = 2048  # pixels at once, of small images

# Lavin and Gray 2016, section 4.3.
_B_T = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
    np.float32,
)
_G = (
    np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]], np.float32)
    / 24
)
_A_T = np.array(
    [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]], np.float32
)
_A_T_OF_BOTH = np.kron(_A_T, _A_T)  # [16, 36], along rows and columns at once


def gains(x_shape: tuple[int, ...], w_shape: tuple[int, ...]) -> bool:
    """Whether images of a shape [B, H, W, C] are convolved faster so by kernels [3, 3, C, O]."""
    count, height, width, _ = x_shape
    return (
        w_shape[:2] == (3, 3)
        and min(w_shape[2:]) >= _FEWEST_CHANNELS
        and height % TILE == 0
        and width % TILE == 0
        and height * width <= _MOST_PIXELS
        and count * height * width >= _CHUNK
    )


def convolve(x: jax.Array, w: jax.Array) -> jax.Array:
    """The convolution [B, H, W, O] with padding "SAME" of x [B, H, W, C] and w [3, 3, C, O]."""
    u = _of_kernel(w)
    return _in_chunks(lambda x: _to_image(jnp.einsum("knc,kco->kno", _squares(x), u), x), x)


def to_x(dy: jax.Array, w: jax.Array) -> jax.Array:
    """Its gradient [B, H, W, C] to x, of gradients dy [B, H, W, O]: one with the turned kernel."""
    u = _of_kernel(w[::-1, ::-1])
    return _in_chunks(lambda dy: _to_image(jnp.einsum("kno,kco->knc", _squares(dy), u), dy), dy)


def to_w(x: jax.Array, dy: jax.Array) -> jax.Array:
    """Its gradient [3, 3, C, O] to w, of x [B, H, W, C] and gradients dy [B, H, W, O]."""

    def add(du: jax.Array, chunk: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        x, dy = chunk
        return du + jnp.einsum("knc,kno->kco", _squares(x), _of_image(dy)), None

    none = jnp.zeros((_REACH**2, x.shape[3], dy.shape[3]))
    du, _ = lax.scan(add, none, (_chunks(x), _chunks(dy)))
    du = du.reshape(_REACH, _REACH, *du.shape[1:])
    return jnp.einsum("ai,bj,abco->ijco", _G, _G, du, precision="highest")


def _chunks(x: jax.Array) -> jax.Array:
    """Images in chunks [chunks, images, H, W, C]; a few of zeros are added at the end."""
    most = max(1, _CHUNK // (x.shape[1] * x.shape[2]))
    chunks = ceil_div(len(x), most)
    images = ceil_div(len(x), chunks)
    x = jnp.pad(x, ((0, chunks * images - len(x)), (0, 0), (0, 0), (0, 0)))
    return x.reshape(chunks, images, *x.shape[1:])


def _in_chunks(function: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    y = lax.map(function, _chunks(x))
    return y.reshape(-1, *y.shape[2:])[: len(x)]


def _of_kernel(w: jax.Array) -> jax.Array:
    """G w G^T [36, C, O] of kernels [3, 3, C, O]."""
    u = jnp.einsum("ai,bj,ijco->abco", _G, _G, w, precision="highest")
    return u.reshape(_REACH**2, *w.shape[2:])


def _squares(x: jax.Array) -> jax.Array:
    """B^T x B [36, N, C] of the squares of images [B, H, W, C]."""
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    # The barrier keeps the compiler from computing rows anew for each column.
    rows = lax.optimization_barrier(_along(x, 1, out=0))  # [6, B, H / 4, W + 2, C]
    both = _along(rows, 3, out=1)  # [6, 6, B, H / 4, W / 4, C]
    return both.reshape(_REACH**2, -1, x.shape[3])


def _along(x: jax.Array, axis: int, out: int) -> jax.Array:
    """B^T along an axis, whose results are put at another."""
    places = x.shape[axis] - _REACH + 1
    parts = [lax.slice_in_dim(x, i, i + places, TILE, axis) for i in range(_REACH)]
    return jnp.stack([_weighted(row, parts) for row in _B_T], axis=out)


def _weighted(weights: np.ndarray, parts: list[jax.Array]) -> jax.Array:
    """The sum of what has a weight."""
    return sum(weight * part for weight, part in zip(weights, parts, strict=True) if weight)


def _to_image(m: jax.Array, like: jax.Array) -> jax.Array:
    """A^T m A as an image [B, H, W, O] of m [36, N, O], with the sides of another."""
    count, height, width, _ = like.shape
    y = jnp.dot(_A_T_OF_BOTH, m.reshape(_REACH**2, -1))
    y = y.reshape(TILE, TILE, count, height // TILE, width // TILE, -1)
    return y.transpose(2, 3, 0, 4, 1, 5).reshape(count, height, width, -1)


def _of_image(dy: jax.Array) -> jax.Array:
    """A dy A^T [36, N, O] of an image [B, H, W, O]."""
    count, height, width, channels = dy.shape
    dy = dy.reshape(count, height // TILE, TILE, width // TILE, TILE, channels)
    dy = dy.transpose(2, 4, 0, 1, 3, 5).reshape(TILE**2, -1)
    return jnp.dot(_A_T_OF_BOTH.T, dy).reshape(_REACH**2, -1, channels)
