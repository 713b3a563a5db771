"""Print the GFLOP/s of a jitted float32 matrix product on the first N cores this process may use.

    python benchmarks/matmul.py --cores=1

The ceiling that benchmarks relate the suite's own work to. Linux only: cores are chosen by
affinity, before JAX starts its threads.
"""

import argparse
import json
import os
import time


def gflops(size: int, seconds: float) -> float:
    """Return the best GFLOP/s of `size` x `size` products, repeated for about `seconds`."""
    import jax
    import jax.numpy as jnp

    product = jax.jit(jnp.matmul)
    a = jax.random.normal(jax.random.key(0), (size, size), jnp.float32)
    product(a, a).block_until_ready()
    best = float("inf")
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        product(a, a).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cores", type=int, required=True, help="cores to run on")
    parser.add_argument("--size", type=int, default=2048, help="rows and columns of the matrices")
    parser.add_argument("--seconds", type=float, default=3.0, help="how long to repeat the product")
    args = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cores])
    print(json.dumps({"cores": args.cores, "gflops": gflops(args.size, args.seconds)}))


if __name__ == "__main__":
    main()
