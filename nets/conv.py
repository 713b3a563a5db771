"""A 2-D convolution whose gradients are fast on a CPU too, also inside a loop.

XLA's CPU backend has fast convolutions for one layout only: images NHWC, kernels HWIO, result NHWC. Convolutions in
other layouts are rewritten into it, but those inside `fori_loop` or `scan` are passed over and run as naive loops,
up to 300 times slower. JAX writes both gradients of a convolution in other layouts, and an update of this suite
always runs inside a loop. So, on a CPU alone, the gradients are written here in the fast layout. Elsewhere, and
forward everywhere, this is `jax.lax.conv_general_dilated`. `benchmarks/conv_speed.py` prints what this gains.

The gradients are the derivatives of the same sums, so they equal the stock ones up to rounding. There are no forward
mode and no second derivatives.

Shapes: batch B, image H x W, kernel h x w, stride s x t, input channels C, output channels O.
"""

import functools
from collections.abc import Callable, Sequence

import chex
import haiku as hk
import jax
import jax.numpy as jnp
from jax import lax

LAYOUT = ("NHWC", "HWIO", "NHWC")

Pair = tuple[int, int]


def conv2d(
    x: jax.Array, w: jax.Array, stride: int | Pair = 1, padding: str | Sequence[Pair] = "SAME"
) -> jax.Array:
    """Convolve images with a kernel.

    Args:
      x: [B, H, W, C], float32 or bfloat16. Sums are taken in float32.
      w: [h, w, C, O], cast to the type of x.
      stride: in pixels, of both axes or one each.
      padding: "SAME", "VALID", or (before, after) in pixels for each axis.

    Returns:
      [B, H', W', O], of the type of x.
    """
    chex.assert_rank([x, w], 4)
    chex.assert_equal(x.shape[3], w.shape[2])
    stride = (stride, stride) if isinstance(stride, int) else tuple(stride)
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:3], w.shape[:2], stride, padding)
    return _conv(x, w.astype(x.dtype), stride, tuple((int(a), int(b)) for a, b in padding))


class Conv2D(hk.Module):
    """`hk.Conv2D` on top of `conv2d`: the same parameters under the same names."""

    def __init__(
        self,
        output_channels: int,
        kernel_shape: int | Pair,
        stride: int | Pair = 1,
        padding: str | Sequence[Pair] = "SAME",
        with_bias: bool = True,
        w_init: hk.initializers.Initializer | None = None,
        name: str | None = None,
    ) -> None:
        """Without `w_init`, weights start as a normal cut at two deviations, of deviation 1 / sqrt(h w C)."""
        super().__init__(name=name)
        self.output_channels, self.stride, self.padding, self.with_bias = output_channels, stride, padding, with_bias
        self.kernel_shape = (kernel_shape,) * 2 if isinstance(kernel_shape, int) else tuple(kernel_shape)
        self.w_init = w_init

    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolve x [B, H, W, C]; returns [B, H', W', O] of the same type. Parameters are float32."""
        chex.assert_rank(x, 4)
        shape = (*self.kernel_shape, x.shape[3], self.output_channels)
        fan_in = shape[0] * shape[1] * shape[2]
        w = hk.get_parameter("w", shape, init=self.w_init or hk.initializers.TruncatedNormal(fan_in**-0.5))
        y = conv2d(x, w, self.stride, self.padding)
        if self.with_bias:
            b = hk.get_parameter("b", (self.output_channels,), init=jnp.zeros)
            y += b.astype(y.dtype)[None, None, None]
        return y


def _stock(x: jax.Array, w: jax.Array, stride: Pair, padding: Sequence[Pair], **dilation: Pair) -> jax.Array:
    return lax.conv_general_dilated(x, w, stride, padding, dimension_numbers=LAYOUT, **dilation)


def _by_platform(on_cpu: Callable, stock: Callable, a: jax.Array, b: jax.Array) -> jax.Array:
    """Choose when the program is compiled. On a CPU, sum in float32 and take vmapped examples one by one.

    A vmapped convolution is a grouped one, which is slow on a CPU.
    """

    @jax.custom_batching.sequential_vmap
    def in_float32(a: jax.Array, b: jax.Array) -> jax.Array:
        return on_cpu(a.astype(jnp.float32), b.astype(jnp.float32)).astype(a.dtype)

    return lax.platform_dependent(a, b, cpu=in_float32, default=stock)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv(x: jax.Array, w: jax.Array, stride: Pair, padding: tuple[Pair, Pair]) -> jax.Array:
    conv = functools.partial(_stock, stride=stride, padding=padding)
    return _by_platform(conv, conv, x, w)


def _forward(x: jax.Array, w: jax.Array, stride: Pair, padding: tuple[Pair, Pair]) -> tuple[jax.Array, tuple]:
    return _conv(x, w, stride, padding), (x, w)


def _backward(stride: Pair, padding: tuple[Pair, Pair], kept: tuple, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, w = kept
    # Pixels of the image that the last window reaches past, or leaves out: padding after it, or negative padding.
    after = [
        (n - 1) * s + k - before - size
        for n, s, k, (before, _), size in zip(dy.shape[1:3], stride, w.shape[:2], padding, x.shape[1:3], strict=True)
    ]

    def to_input(dy: jax.Array, w: jax.Array) -> jax.Array:
        """Convolve dy, its pixels `stride` apart, with the turned kernel."""
        pads = [(k - 1 - before, k - 1 - rest) for k, (before, _), rest in zip(w.shape[:2], padding, after, strict=True)]
        turned = w[::-1, ::-1].transpose(0, 1, 3, 2)
        return _stock(dy, turned, (1, 1), pads, lhs_dilation=stride)

    def to_kernel(x: jax.Array, dy: jax.Array) -> jax.Array:
        """Convolve x with dy as the kernel: the examples are its channels, and the channels its examples."""
        pads = [(before, rest) for (before, _), rest in zip(padding, after, strict=True)]
        by_channel = x.transpose(3, 1, 2, 0)  # [C, H, W, B]
        kernel = dy.transpose(1, 2, 0, 3)  # [H', W', B, O]
        return _stock(by_channel, kernel, (1, 1), pads, rhs_dilation=stride).transpose(1, 2, 0, 3)

    def stock_to_input(dy: jax.Array, w: jax.Array) -> jax.Array:
        return jax.linear_transpose(lambda x: _stock(x, w, stride, padding), x)(dy)[0]

    def stock_to_kernel(x: jax.Array, dy: jax.Array) -> jax.Array:
        return jax.linear_transpose(lambda w: _stock(x, w, stride, padding), w)(dy)[0]

    return _by_platform(to_input, stock_to_input, dy, w), _by_platform(to_kernel, stock_to_kernel, x, dy)


_conv.defvjp(_forward, _backward)
