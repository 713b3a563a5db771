"""A 2-D convolution whose gradients are fast on a CPU too, also inside a loop.

XLA's CPU backend has fast convolutions for one layout: images NHWC, kernels HWIO, result NHWC. It
rewrites other layouts into this one, but not inside `fori_loop` or `scan`, where they run as naive
loops, tens to hundreds of times slower. JAX states both gradients of a convolution in other
layouts, and this suite always trains inside a loop.

So the gradients are stated here in the fast layout, on a CPU alone; on other platforms, and forward
everywhere, this is `jax.lax.conv_general_dilated`. `benchmarks/conv_speed.py` measures the gain.
The gradients are the same sums as the stock ones, equal up to rounding. There is no forward mode
and there are no second derivatives.

Shapes: batch B, image H x W, kernel h x w, channels C in and O out, places of the window H' x W'.
"""

import functools
from collections.abc import Callable, Sequence

import chex
import haiku as hk
import jax
import jax.numpy as jnp
from jax import lax

_LAYOUT = ("NHWC", "HWIO", "NHWC")
_CHUNK = 2048  # pixels of a result whose transposed copies stay in the cache

Pair = tuple[int, int]
Arrays = tuple[jax.Array, jax.Array]
Function = Callable[[jax.Array, jax.Array], jax.Array]


def conv2d(
    x: jax.Array, w: jax.Array, stride: int | Pair = 1, padding: str | Sequence[Pair] = "SAME"
) -> jax.Array:
    """Convolves images with a kernel.

    Args:
      x: [B, H, W, C], float32 or bfloat16. Sums are float32.
      w: [h, w, C, O]; cast to the type of x.
      stride: pixels between windows, for both axes or for each.
      padding: "SAME", "VALID", or for each axis the pixels before and after.

    Returns:
      [B, H', W', O], of the type of x.
    """
    chex.assert_rank([x, w], 4)
    chex.assert_type([x, w], float)
    chex.assert_equal(x.shape[3], w.shape[2])
    stride = (stride, stride) if isinstance(stride, int) else tuple(stride)
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:3], w.shape[:2], stride, padding)
    return _conv2d(
        x, w.astype(x.dtype), stride, tuple((int(before), int(after)) for before, after in padding)
    )


class Conv2D(hk.Module):
    """`hk.Conv2D` by `conv2d`: the same parameters, `w` and `b`, and the same start.

    Args:
      output_channels: O.
      kernel_shape: pixels, for both axes or for each.
      stride: as `conv2d` takes it.
      padding: as `conv2d` takes it.
      with_bias: whether to add `b` [O].
      w_init: initializer of `w`; by default a normal truncated at two deviations, of deviation 1 /
        sqrt(h w C).
      name: of the module.
    """

    def __init__(
        self,
        output_channels: int,
        kernel_shape: int | Pair,
        stride: int | Pair = 1,
        padding: str | Sequence[Pair] = "SAME",
        with_bias: bool = True,
        w_init: hk.initializers.Initializer | None = None,
        name: str | None = None,
    ):
        super().__init__(name)
        self._channels, self._with_bias, self._w_init = output_channels, with_bias, w_init
        self._kernel_shape = (
            (kernel_shape,) * 2 if isinstance(kernel_shape, int) else tuple(kernel_shape)
        )
        self._conv = functools.partial(conv2d, stride=stride, padding=padding)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolves x [B, H, W, C] and returns [B, H', W', O] of its type. Parameters are float32."""
        shape = (*self._kernel_shape, x.shape[-1], self._channels)
        w_init = self._w_init or hk.initializers.TruncatedNormal(
            (shape[0] * shape[1] * shape[2]) ** -0.5
        )
        y = self._conv(x, hk.get_parameter("w", shape, init=w_init))
        if self._with_bias:
            y += hk.get_parameter("b", shape[-1:], init=jnp.zeros).astype(y.dtype)[None, None, None]
        return y


def _stock(
    x: jax.Array, w: jax.Array, stride: Pair, padding: Sequence[Pair], **dilation: Pair
) -> jax.Array:
    return lax.conv_general_dilated(x, w, stride, padding, dimension_numbers=_LAYOUT, **dilation)


def _by_platform(cpu: Function, default: Function, a: jax.Array, b: jax.Array) -> jax.Array:
    """Chooses a function when the program is compiled.

    On a CPU, sums in float32, and takes what is vmapped one after the other: it would be slow as a
    grouped convolution.
    """

    @jax.custom_batching.sequential_vmap
    def in_float32(a: jax.Array, b: jax.Array) -> jax.Array:
        return cpu(a.astype(jnp.float32), b.astype(jnp.float32)).astype(a.dtype)

    return lax.platform_dependent(a, b, cpu=in_float32, default=default)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv2d(x: jax.Array, w: jax.Array, stride: Pair, padding: tuple[Pair, Pair]) -> jax.Array:
    conv = functools.partial(_stock, stride=stride, padding=padding)
    return _by_platform(conv, conv, x, w)


def _forward(
    x: jax.Array, w: jax.Array, stride: Pair, padding: tuple[Pair, Pair]
) -> tuple[jax.Array, Arrays]:
    return _conv2d(x, w, stride, padding), (x, w)


def _backward(stride: Pair, padding: tuple[Pair, Pair], xw: Arrays, dy: jax.Array) -> Arrays:
    x, w = xw
    sizes, places, kernel_shape = x.shape[1:3], dy.shape[1:3], w.shape[:2]
    before = [pair[0] for pair in padding]
    reach = [
        (n - 1) * s + k for n, s, k in zip(places, stride, kernel_shape, strict=True)
    ]  # of all windows
    after = [
        r - b - size for r, b, size in zip(reach, before, sizes, strict=True)
    ]  # negative: pixels no window sees

    def to_x(dy: jax.Array, w: jax.Array) -> jax.Array:
        """Convolves dy, its places `stride` apart, with the turned kernel."""
        around = [
            (k - 1 - b, k - 1 - a) for k, b, a in zip(kernel_shape, before, after, strict=True)
        ]
        return _stock(dy, w[::-1, ::-1].transpose(0, 1, 3, 2), (1, 1), around, lhs_dilation=stride)

    def to_w(x: jax.Array, dy: jax.Array) -> jax.Array:
        """Sums the products of windows and dy."""
        if all(
            k <= s for k, s in zip(kernel_shape, stride, strict=True)
        ):  # no pixel is in two windows
            around = [
                (b, n * s - size - b, 0)
                for b, n, s, size in zip(before, places, stride, sizes, strict=True)
            ]
            x = lax.pad(x, jnp.float32(0), [(0, 0, 0), *around, (0, 0, 0)])
            x = x.reshape(len(x), places[0], stride[0], places[1], stride[1], -1)
            return jnp.einsum(
                "bihjwc,bijo->hwco", x[:, :, : kernel_shape[0], :, : kernel_shape[1]], dy
            )

        def add(dw: jax.Array, chunk: Arrays) -> tuple[jax.Array, None]:
            """Convolves x with dy as the kernel: channels for examples, examples for channels."""
            x, dy = (
                chunk[0].transpose(3, 1, 2, 0),
                chunk[1].transpose(1, 2, 0, 3),
            )  # [C, H, W, B], [H', W', B, O]
            around = list(zip(before, after, strict=True))
            return dw + _stock(x, dy, (1, 1), around, rhs_dilation=stride).transpose(
                1, 2, 0, 3
            ), None

        chunk = min(
            len(x), max(8, _CHUNK // (places[0] * places[1]))
        )  # fewer than 8 do not fill the vector unit
        chunks = -(-len(x) // chunk)
        fill = (
            (0, chunks * chunk - len(x)),
            (0, 0),
            (0, 0),
            (0, 0),
        )  # examples of zeros add nothing
        xs = [jnp.pad(a, fill).reshape(chunks, chunk, *a.shape[1:]) for a in (x, dy)]
        return lax.scan(add, jnp.zeros(w.shape), tuple(xs))[0]

    def stock_to_x(dy: jax.Array, w: jax.Array) -> jax.Array:
        return jax.linear_transpose(lambda x: _stock(x, w, stride, padding), x)(dy)[0]

    def stock_to_w(x: jax.Array, dy: jax.Array) -> jax.Array:
        return jax.linear_transpose(lambda w: _stock(x, w, stride, padding), w)(dy)[0]

    return _by_platform(to_x, stock_to_x, dy, w), _by_platform(to_w, stock_to_w, x, dy)


_conv2d.defvjp(_forward, _backward)
