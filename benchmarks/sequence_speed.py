"""Measure recurrent layers against torch's, and the affine recurrence in its three ways.

    python benchmarks/sequence_speed.py --out=sequence_speed.json --picture=cost.png

Layers: a training step of an LSTM and a GRU, batch 64, 128 steps, widths 128 and 512, against
torch's, each in a process of its own, in turns. The affine recurrence: value and gradient at
lengths to 16,384 and several widths, serial, associative and chunked, and as it is chosen by
itself; the logarithmic slope of its cost over the length; and what training holds besides inputs
and outputs, against a tree that JAX differentiates. See README.md beside this file.
"""

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from peers_env import call, machine_facts, peers_python, summary, versions

HERE = Path(__file__).resolve().parent
ROWS = 64
STEPS = 128
WIDTHS = (128, 512)
LAYERS = ("lstm", "gru")
WAYS = ("serial", "associative", "chunked")
LENGTHS = (64, 256, 1_024, 4_096, 16_384)
STATES = (16, 128, 1_024)  # of one row
SLOPE_FROM = 1_024  # steps from which the slope is taken: a call alone costs tens of microseconds


def time_layer(name: str, width: int, seconds: float) -> dict:
    """Time training steps of a layer of this suite: as the peer, nothing but the layer."""
    import haiku as hk
    import jax
    import jax.numpy as jnp

    from missing_bits.loop.process import prepare_cpu
    from missing_bits.nets.sequences.gru import GRU
    from missing_bits.nets.sequences.lstm import LSTM

    prepare_cpu()  # as the loop does
    layer = {"lstm": LSTM, "gru": GRU}[name]
    net = hk.without_apply_rng(hk.transform(lambda x: layer()(x, None, None).y))
    x = jax.random.normal(jax.random.key(0), (ROWS, STEPS, width))
    params = net.init(jax.random.key(1), x)
    step = jax.jit(
        jax.value_and_grad(lambda params, x: jnp.sum(net.apply(params, x) ** 2), argnums=(0, 1))
    )
    jax.block_until_ready(step(params, x))
    rates: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(rates) < 3:
        start = time.perf_counter()
        jax.block_until_ready(step(params, x))
        rates.append(1 / (time.perf_counter() - start))
    return {"updates_per_second": statistics.median(rates), "steps": len(rates)}


def time_affine(lengths: tuple[int, ...], seconds: float) -> list[dict]:
    """Time a value and gradient of the affine recurrence in all ways, at each length and width.

    The ways take turns within each point; the fastest call of each counts, as what other programs
    take is no part of its cost.
    """
    import jax
    import jax.numpy as jnp

    from missing_bits.nets.sequences import affine

    def tree(a: jax.Array, b: jax.Array) -> jax.Array:
        def after(first, second):
            return second[0] * first[0], second[0] * first[1] + second[1]

        return jax.lax.associative_scan(after, (a, b), axis=1)[1]

    def by(way: affine.Way) -> Callable:
        return lambda a, b: affine.scan(a, b, way=way)

    found = []
    for states in STATES:
        for length in lengths:
            keys = jax.random.split(jax.random.key(0), 3)
            shape = (1, length, states)
            a = jax.random.uniform(keys[0], shape, minval=0.5)
            b = jax.random.normal(keys[1], shape)
            weights = jax.random.normal(keys[2], shape)
            point: dict = {"states": states, "length": length, "seconds": {}, "temporaries": {}}
            programs = {}
            for name in (*WAYS, "auto", "plain"):
                scan = tree if name == "plain" else by(name)
                step = jax.value_and_grad(
                    lambda a, b, weights, scan=scan: jnp.sum(scan(a, b) * weights), argnums=(0, 1)
                )
                programs[name] = jax.jit(step).lower(a, b, weights).compile()
                held = programs[name].memory_analysis().temp_size_in_bytes
                point["temporaries"][name] = held
                jax.block_until_ready(programs[name](a, b, weights))
            best = dict.fromkeys(programs, math.inf)
            end = time.perf_counter() + seconds
            turns = 0
            while time.perf_counter() < end or turns < 5:
                turns += 1
                for name, program in programs.items():
                    start = time.perf_counter()
                    jax.block_until_ready(program(a, b, weights))
                    best[name] = min(best[name], time.perf_counter() - start)
            point["seconds"] = best
            found.append(point)
            print(point, file=sys.stderr, flush=True)
    return found


def slope(points: list[dict], way: str) -> float:
    """The least-squares slope of the logarithm of the cost over that of the length."""
    long = [point for point in points if point["length"] >= SLOPE_FROM]
    x = [math.log(point["length"]) for point in long]
    y = [math.log(point["seconds"][way]) for point in long]
    return statistics.linear_regression(x, y).slope if len(x) > 1 else math.nan


def draw(points: list[dict], path: Path) -> None:
    """Draw the cost of each way over the length, a panel for each width."""
    from missing_bits.pictures import canvas

    figure = canvas.figure(figsize=(4 * len(STATES), 4), layout="constrained")
    panels = figure.subplots(1, len(STATES), sharey=True, squeeze=False)[0]
    for axes, states in zip(panels, STATES, strict=True):
        own = [point for point in points if point["states"] == states]
        for way, color in zip(WAYS, canvas.COLORS, strict=False):
            lengths = [point["length"] for point in own]
            milliseconds = [1e3 * point["seconds"][way] for point in own]
            axes.loglog(lengths, milliseconds, color=color, marker="o", label=way)
        axes.set(title=f"{states:,} states", xlabel="steps")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("value and gradient, in ms")
    panels[0].legend(frameon=False)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", choices=["layer", "affine"], help="run this here; print JSON")
    parser.add_argument("--layer", choices=LAYERS, help="the layer of --case=layer")
    parser.add_argument("--width", type=int, help="the width of --case=layer")
    parser.add_argument("--only", choices=["layers", "affine"], help="one of the two; else both")
    parser.add_argument("--longest", type=int, default=max(LENGTHS), help="steps, at most")
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="how long each case is measured"
    )
    parser.add_argument("--repeats", type=int, default=3, help="turns of each layer")
    parser.add_argument(
        "--peers-python", help="a Python that has torch; without, it is put into .peers/torch"
    )
    parser.add_argument("--picture", type=Path, help="draw the cost over the length into this PNG")
    parser.add_argument("--out", type=Path, help="write everything measured to this JSON file")
    args = parser.parse_args()
    lengths = tuple(length for length in LENGTHS if length <= args.longest)
    if args.case == "layer":
        print(json.dumps(time_layer(args.layer, args.width, args.seconds)))
        return
    if args.case == "affine":
        print(json.dumps(time_affine(lengths, args.seconds)))
        return

    machine = machine_facts() | {"ours": versions(sys.executable, ["jax", "numpy"])}
    timing = f"--seconds={args.seconds}"
    runs: dict[str, list[dict]] = {}
    if args.only != "affine":
        peers = args.peers_python or peers_python("torch")
        machine["peer"] = versions(peers, ["torch"])
        cases = {}
        for layer in LAYERS:
            for width in WIDTHS:
                of = [f"--layer={layer}", f"--width={width}", timing]
                cases[f"{layer} {width}, ours"] = [sys.executable, __file__, "--case=layer", *of]
                size = [f"--batch-size={ROWS}", f"--length={STEPS}"]
                cases[f"{layer} {width}, torch"] = [
                    peers,
                    HERE / "peers" / "recurrent.py",
                    *of,
                    *size,
                ]
        runs = {name: [] for name in cases}
        for repeat in range(args.repeats):
            for name, command in cases.items():
                runs[name].append(json.loads(call(command).splitlines()[-1]))
                turn = f"{repeat + 1}/{args.repeats}"
                print(f"{turn} {name}: {runs[name][-1]}", file=sys.stderr, flush=True)
    points = []
    if args.only != "layers":
        longest = f"--longest={args.longest}"
        command = [sys.executable, __file__, "--case=affine", longest, timing]
        points = json.loads(call(command).splitlines()[-1])

    print("\n".join(f"- {name}: {fact}" for name, fact in machine.items()))
    if runs:
        print("\n| layer | ours, steps/s | torch, steps/s | ratio |\n|---|---|---|---|")
        for layer in LAYERS:
            for width in WIDTHS:
                rates = {
                    who: summary(
                        [run["updates_per_second"] for run in runs[f"{layer} {width}, {who}"]]
                    )["median"]
                    for who in ("ours", "torch")
                }
                ratio = rates["ours"] / rates["torch"]
                cells = f"{rates['ours']:.1f} | {rates['torch']:.1f} | {ratio:.2f}"
                print(f"| {layer} {width} | {cells} |")
    if points:
        heads = "states | steps | serial, ms | associative | chunked | auto | auto to the best"
        print(f"\n| {heads} | temporaries to a tree's |\n|{'---|' * 8}")
        for point in points:
            cost = point["seconds"]
            best = min(cost[way] for way in WAYS)
            held = point["temporaries"]["auto"] / point["temporaries"]["plain"]
            cells = [f"{1e3 * cost[way]:.3f}" for way in (*WAYS, "auto")]
            cells += [f"{cost['auto'] / best:.2f}", f"{held:.2f}"]
            print(f"| {point['states']} | {point['length']} | {' | '.join(cells)} |")
        for states in STATES:
            own = [point for point in points if point["states"] == states]
            print(f"- slope at {states} states, auto: {slope(own, 'auto'):.2f}")
        if args.picture:
            draw(points, args.picture)
    if args.out:
        report = {"machine": machine, "layers": runs, "affine": points}
        args.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
