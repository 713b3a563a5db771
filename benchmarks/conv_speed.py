"""Measure convolutions inside a loop: JAX's own against `nets/conv.py`, in GFLOP/s.

    python benchmarks/conv_speed.py           # about 3 minutes, most of it in the stock gradients
    python benchmarks/conv_speed.py --quick   # a few seconds: two shapes, few images

The forward pass and both gradients. Every product runs in a `fori_loop` whose length is known only
at run time, as an update of the training loop does. The six cases of a shape take turns; the best
turn counts. A case that takes over a second is measured once. The last column is the three products
of ours together, at the harmonic mean of their rates.
"""

import argparse
import os
import platform
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from missing_bits.nets import conv
from missing_bits.numeric import ceil_div


class Shape(NamedTuple):
    """A convolution with SAME padding."""

    batch: int
    side: int  # pixels
    channels: int
    kernel: int  # pixels
    outputs: int
    stride: int


SHAPES = {
    "ResNet-18, stem": Shape(64, 32, 3, 3, 64, 1),
    "stage 1": Shape(64, 32, 64, 3, 64, 1),
    "stage 2, first": Shape(64, 32, 64, 3, 128, 2),
    "stage 2": Shape(64, 16, 128, 3, 128, 1),
    "stage 3, first": Shape(64, 16, 128, 3, 256, 2),
    "stage 3": Shape(64, 8, 256, 3, 256, 1),
    "stage 4, first": Shape(64, 8, 256, 3, 512, 2),
    "stage 4": Shape(64, 4, 512, 3, 512, 1),
    "stage 2, projection": Shape(64, 32, 64, 1, 128, 2),
    "stage 4, projection": Shape(64, 8, 256, 1, 512, 2),
    "small network, 28": Shape(256, 28, 32, 3, 32, 1),
    "small network, 14": Shape(256, 14, 64, 3, 64, 1),
    "patches of 4": Shape(256, 32, 3, 4, 192, 4),
    "7x7 stem": Shape(64, 64, 3, 7, 64, 2),
}
QUICK = ("stage 2", "stage 4, first")


def stock(x: jax.Array, w: jax.Array, stride: int) -> jax.Array:
    """JAX's convolution."""
    return lax.conv_general_dilated(
        x, w, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def products(convolve) -> dict:
    """Forward and the two gradients as functions of x, w, dy and the stride."""
    return {
        "forward": lambda x, w, dy, s: convolve(x, w, s),
        "to input": lambda x, w, dy, s: jax.vjp(lambda x: convolve(x, w, s), x)[1](dy)[0],
        "to filter": lambda x, w, dy, s: jax.vjp(lambda w: convolve(x, w, s), w)[1](dy)[0],
    }


def looped(product, stride: int):
    """A jitted function that computes a product `trips` times, each time anew."""

    def run(trips, x, w, dy):
        def touched(a, result):
            # One entry changes, so that no part of the next product can be kept.
            return a.at[0, 0, 0, 0].add(1e-30 * result[0, 0, 0, 0])

        def trip(_, carry):
            x, w, dy, _ = carry
            result = product(x, w, dy, stride)
            return touched(x, result), touched(w, result), touched(dy, result), result

        shape = jax.eval_shape(lambda *arrays: product(*arrays, stride), x, w, dy).shape
        _, _, _, result = lax.fori_loop(0, trips, trip, (x, w, dy, jnp.zeros(shape)))
        return result

    return jax.jit(run)


def rates(shape: Shape, repeats: int) -> dict[tuple[str, str], float]:
    """GFLOP/s by implementation and product."""
    places = ceil_div(shape.side, shape.stride)
    draw = np.random.default_rng(0).normal
    x = draw(size=(shape.batch, shape.side, shape.side, shape.channels))
    w = draw(size=(shape.kernel, shape.kernel, shape.channels, shape.outputs))
    dy = draw(size=(shape.batch, places, places, shape.outputs))
    arrays = [jnp.asarray(a, jnp.float32) for a in (x, w, dy)]
    cases = {
        (who, what): looped(product, shape.stride)
        for who, convolve in (("stock", stock), ("ours", conv.conv2d))
        for what, product in products(convolve).items()
    }

    def seconds(case, trips: int) -> float:
        start = time.perf_counter()
        jax.block_until_ready(case(trips, *arrays))
        return (time.perf_counter() - start) / max(trips, 1)

    best = {}
    for name, case in cases.items():
        seconds(case, 0)  # compiles
        best[name] = seconds(case, 1)
    trips = {name: max(1, int(0.15 / first)) for name, first in best.items()}
    for _ in range(repeats):
        for name, case in cases.items():
            if best[name] < 1:
                best[name] = min(best[name], seconds(case, trips[name]))
    weights = shape.kernel**2 * shape.channels * shape.outputs
    flops = 2 * shape.batch * places**2 * weights
    return {name: flops / took / 1e9 for name, took in best.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="two shapes with 16 images: does it run?"
    )
    parser.add_argument("--repeats", type=int, default=5, help="turns of every case")
    args = parser.parse_args()
    shapes = SHAPES
    if args.quick:
        shapes = {name: SHAPES[name]._replace(batch=16) for name in QUICK}
    facts = [
        f"JAX {jax.__version__}",
        jax.devices()[0].device_kind,
        f"Python {platform.python_version()}",
        f"{os.cpu_count()} cores",
        f"load {os.getloadavg()[0]:.1f}",
    ]
    print(f"{', '.join(facts)}. GFLOP/s, stock -> ours:\n")
    whats = list(products(stock))
    heads = " | ".join(f"{what:14}" for what in whats)
    print(f"| {'layer':19} | {'shape':24} | {heads} | all, ours |")
    print("|---" * (3 + len(whats)) + "|")
    for name, shape in shapes.items():
        images = f"{shape.batch}x{shape.side}x{shape.side}"
        filters = f"{shape.kernel}x{shape.kernel} {shape.channels}-{shape.outputs}"
        text = f"{images}, {filters}"
        if shape.stride > 1:
            text += f" /{shape.stride}"
        rate = rates(shape, args.repeats)
        pairs = [f"{rate['stock', what]:5.1f} -> {rate['ours', what]:5.1f}" for what in whats]
        together = len(whats) / sum(1 / rate["ours", what] for what in whats)
        print(f"| {name:19} | {text:24} | {' | '.join(pairs)} | {together:9.0f} |", flush=True)


if __name__ == "__main__":
    main()
