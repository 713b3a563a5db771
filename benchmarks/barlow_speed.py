"""Measure training steps of Barlow Twins: this suite against torch + lightly, in one run.

    python benchmarks/barlow_speed.py --out=barlow_speed.json

ResNet-18 with the stem for small images, batch 64, projector 2048, on 32x32x3. Ours is the
experiment's own update inside the loop's compiled program, augmentation included; the peer has its
views ready. The cases take turns, each in a process of its own. `pipeline` alternates, in one
process, between updates with batches from the prefetching source and with one batch that lies
ready: their ratio is what the input costs. See README.md beside this file.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path

from peers_env import call, peers_python, versions

HERE = Path(__file__).resolve().parent
BATCH = 64
PROJECTOR = 2048  # width of each of its three layers
INNER_STEPS = 10  # updates in a call of `pipeline`, the most that its source allows
COUNTED = ("Conv2D", "Linear")  # modules whose operations count


def forward_flops(experiment, side: int, channels: int) -> int:
    """Count the floating-point operations of one image's way to its embedding.

    Those of convolutions and linear layers alone.
    """
    import haiku as hk
    import jax
    import jax.numpy as jnp

    count = 0

    def add(method, arguments, options, context):
        nonlocal count
        y = method(*arguments, **options)
        if context.method_name == "__call__" and type(context.module).__name__ in COUNTED:
            weights = context.module.params_dict()[f"{context.module.module_name}/w"]
            count += 2 * (y.size // y.shape[-1]) * weights.size
        return y

    def embed(images):
        state = experiment.init(jax.random.key(0))
        with hk.intercept_methods(add):
            return experiment.embed(experiment.learned(state), images, True).z

    jax.eval_shape(experiment.init, jax.random.key(0))
    count = 0
    jax.eval_shape(embed, jnp.zeros((1, side, side, channels)))
    return count


def run_updates(mode: str, seconds: float) -> dict:
    """Time the suite's own updates in this process.

    Args:
      mode: "step" for the ResNet-18 of the comparison, "pipeline" for the default preset with its
        source.
      seconds: how long to measure.
    """
    import jax
    from suite_updates import Updates

    from missing_bits import options
    from missing_bits.loop.process import prepare_cpu
    from missing_bits.ssl.barlow_twins import BarlowTwins, Config

    prepare_cpu()  # as the loop does
    if mode == "step":
        sizes = (PROJECTOR,) * 3
        config = options.make(Config, network="resnet18", batch_size=BATCH, projector_sizes=sizes)
        updates = Updates(BarlowTwins, config)
    else:
        updates = Updates(BarlowTwins, Config(), per_call=INNER_STEPS)
    experiment = updates.family.first
    count = updates.per_call
    pairs = count * experiment.config.batch_size
    rates: dict[str, list[float]] = {"step": [], "source": []}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(rates["step"]) < 3:
        rates["step"].append(pairs / updates.make(count))
        if mode == "pipeline":
            start = time.perf_counter()
            updates.call(updates.gathered(), count)
            jax.block_until_ready(updates.running)
            rates["source"].append(pairs / (time.perf_counter() - start))
    updates.close()
    step = statistics.median(rates["step"])
    height, _, channels = updates.resources.data.shape
    width = experiment.config.projector_sizes[-1]
    # Backward costs twice the forward pass; the correlation's product is made once and its gradient
    # twice per view.
    flops = 2 * 3 * forward_flops(experiment, height, channels) + 3 * 2 * width**2
    result = {"pairs_per_second": step, "gflops": step * flops / 1e9, "mflop_per_pair": flops / 1e6}
    result |= {"loss": updates.metrics()["train/loss"], "jax": jax.__version__}
    if mode == "pipeline":
        ratios = [b / a for a, b in zip(rates["step"], rates["source"], strict=True)]
        result |= {
            "with_source": statistics.median(rates["source"]),
            "ratio": statistics.median(ratios),
        }
    return result


def measure(command: list, runs: list) -> None:
    """Run a case and keep what it prints as its last line."""
    runs.append(json.loads(call(command).splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--case", choices=["step", "pipeline"], help="run this case here and print its result"
    )
    parser.add_argument(
        "--seconds", type=float, default=30.0, help="how long each case is measured"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--suite-pythons", nargs="+", default=[sys.executable], help="interpreters with the suite"
    )
    parser.add_argument(
        "--peers-python", default=None, help="an interpreter that has the peers already"
    )
    parser.add_argument("--out", type=Path, help="write everything as JSON here")
    args = parser.parse_args()
    if args.case:
        print(json.dumps(run_updates(args.case, args.seconds)))
        return

    peers = args.peers_python or peers_python("vision")
    timing = f"--seconds={args.seconds}"
    cases = {}
    for python in args.suite_pythons:
        found = versions(python, ["jax"])
        label = f"Python {found['python']} JAX {found['jax']}"
        cases[f"ours, {label}"] = [python, __file__, "--case=step", timing]
    sizes = [f"--batch-size={BATCH}", f"--projector={PROJECTOR}"]
    peer = [peers, HERE / "peers" / "barlow.py", *sizes, timing]
    cases["torch + lightly"] = peer
    cases["torch + lightly, channels last"] = [*peer, "--channels-last"]
    cases["pipeline"] = [args.suite_pythons[0], __file__, "--case=pipeline", timing]
    ceiling = [args.suite_pythons[0], HERE / "matmul.py", f"--cores={os.cpu_count()}"]

    runs: dict[str, list[dict]] = {name: [] for name in cases}
    ceilings: list[dict] = []
    for repeat in range(args.repeats):
        for name, command in cases.items():
            measure(command, runs[name])
            turn = f"{repeat + 1}/{args.repeats}"
            print(f"{turn} {name}: {runs[name][-1]}", file=sys.stderr, flush=True)
        measure(ceiling, ceilings)

    top = statistics.median(run["gflops"] for run in ceilings)
    rates = {
        name: statistics.median(run["pairs_per_second"] for run in done)
        for name, done in runs.items()
    }
    best_peer = max(rate for name, rate in rates.items() if name.startswith("torch"))
    print(f"{platform.machine()}, {os.cpu_count()} cores; matrix product {top:.0f} GFLOP/s\n")
    print("| case | pairs/s | min | max | to the faster peer | GFLOP/s | of the product |")
    print("|---|---|---|---|---|---|---|")
    for name, done in runs.items():
        every = [run["pairs_per_second"] for run in done]
        gflops = statistics.median(run.get("gflops", 0) for run in done)
        ratio = f"{rates[name] / best_peer:.2f}" if name.startswith("ours") else ""
        work = f"{gflops:.0f} | {100 * gflops / top:.0f} %" if gflops else " | "
        pairs = f"{rates[name]:.1f} | {min(every):.1f} | {max(every):.1f}"
        print(f"| {name} | {pairs} | {ratio} | {work} |")
    share = 100 * statistics.median(run["ratio"] for run in runs["pipeline"])
    print(
        f"\nThe default preset with its source runs at {share:.1f} % of its rate with a batch that "
        "lies ready."
    )
    if args.out:
        args.out.write_text(json.dumps({"runs": runs, "matrix_product": ceilings}, indent=2) + "\n")


if __name__ == "__main__":
    main()
