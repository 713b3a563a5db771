"""Measure a training step of a GCN against PyTorch Geometric's, its growth, and seeds as rows.

    python benchmarks/graph_speed.py --out=graph_speed.json
    python benchmarks/graph_speed.py --quick            # does it run?

Step: two layers of width 64 on 64 features of 20,000 nodes with 200,000 edges, cross-entropy of all
nodes, its gradient and Adam; ours and the peer's in turns, each in a process of its own. Growth:
the same step with a tenth as many nodes as edges, to 10 million edges, the slope of its logarithmic
cost, and the most memory that a process held. Seeds: `--exp=gcn` on a graph of Cora's size, all
seeds as rows of one program against the same seeds one after the other by one compiled program, 20
updates a call. See README.md beside this file.
"""

import argparse
import json
import math
import resource
import statistics
import sys
import time
from pathlib import Path

from peers_env import call, machine_facts, peers_python, summary, versions

HERE = Path(__file__).resolve().parent
NODES = 20_000
EDGES = 200_000
FEATURES = 64
WIDTH = 64
CLASSES = 16
GROWTH = (10_000, 100_000, 1_000_000, 10_000_000)  # edges
UPDATES = 20  # of a call, where seeds are compared


def time_step(nodes: int, edges: int, seconds: float) -> dict:
    """Time training steps of a GCN on a random graph, which is an argument of the program."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    from missing_bits.nets.graphs import Graph, Settings
    from missing_bits.nets.links import linked

    draw = np.random.default_rng(0)
    senders, receivers = draw.integers(0, nodes, (2, edges))
    start = time.perf_counter()
    graph = Graph(
        draw.normal(size=(nodes, FEATURES)).astype(np.float32),
        linked(receivers, senders, nodes, nodes),
        None,
        np.zeros(nodes, np.int32),
        np.ones(1, bool),
    )
    laid_out = time.perf_counter() - start
    graph = jax.tree.map(jnp.asarray, graph)
    labels = jnp.asarray(draw.integers(0, CLASSES, nodes))
    network = Settings("gcn", layers=2, width=WIDTH, dropout=0.0).make(CLASSES)
    optimizer = optax.adam(1e-3)
    variables = jax.jit(network.init)(jax.random.key(0), graph)

    @jax.jit
    def update(params, opt_state, graph, labels):
        def loss(params):
            levels, _ = network.apply((params, variables.state), graph, None, True)
            return jnp.mean(
                optax.softmax_cross_entropy_with_integer_labels(levels.nodes[-1], labels)
            )

        value, grads = jax.value_and_grad(loss)(params)
        moves, opt_state = optimizer.update(grads, opt_state)
        return optax.apply_updates(params, moves), opt_state, value

    params = variables.params
    opt_state = optimizer.init(params)
    start = time.perf_counter()
    for _ in range(2):
        params, opt_state, value = jax.block_until_ready(update(params, opt_state, graph, labels))
    compiled = time.perf_counter() - start
    took: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(took) < 3:
        start = time.perf_counter()
        params, opt_state, value = jax.block_until_ready(update(params, opt_state, graph, labels))
        took.append(time.perf_counter() - start)
    return {
        "updates_per_second": 1 / statistics.median(took),
        "fastest_seconds": min(took),
        "steps": len(took),
        "layout_seconds": laid_out,
        "first_seconds": compiled,
        "loss": float(value),
        "peak_mebibytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def time_seeds(seeds: int, nodes: int, seconds: float) -> dict:
    """Time seeds as rows against the same seeds one after the other, and compare them."""
    import jax
    import numpy as np

    from missing_bits import options
    from missing_bits.supervised.graphs import Config, Graphs
    from missing_bits.tests.loop.drive import Drive

    config = options.make(Config, data="blocks", made_nodes=nodes, made_degree=4.0)
    resources = Graphs.resources(config)
    programs: dict = {}

    def rate(drives: list) -> float:
        """Updates of all seeds per second; the first call compiles."""
        for drive in drives:
            drive.advance(UPDATES)
        turns = []
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or not turns:
            start = time.perf_counter()
            for drive in drives:
                drive.advance(UPDATES)
                jax.block_until_ready(drive.running)
            turns.append(seeds * UPDATES / (time.perf_counter() - start))
        return statistics.median(turns)

    def drives(of: list[int], room: dict) -> Drive:
        return Drive(Graphs, config, of, resources=resources, programs=room, room=UPDATES)

    rows = drives(list(range(seeds)), {})
    alone = [drives([seed], programs) for seed in range(seeds)]
    rows.advance(UPDATES)
    for drive in alone:
        drive.advance(UPDATES)
    off = max(
        float(np.abs(a - b).max())
        for row, drive in zip(rows.learned, alone, strict=True)
        for a, b in zip(jax.tree.leaves(row), jax.tree.leaves(drive.learned[0]), strict=True)
    )
    found = {"as_rows": rate([rows]), "one_by_one": rate(alone)}
    return found | {"ratio": found["as_rows"] / found["one_by_one"], "largest_difference": off}


def slope(points: list[dict]) -> float:
    """The least-squares slope of the logarithm of the cost over that of the edges."""
    x = [math.log(point["edges"]) for point in points]
    y = [math.log(point["fastest_seconds"]) for point in points]
    return statistics.linear_regression(x, y).slope if len(x) > 1 else math.nan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", choices=["step", "seeds"], help="run this here; print JSON")
    parser.add_argument("--nodes", type=int, default=NODES)
    parser.add_argument("--edges", type=int, default=EDGES)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=10.0, help="how long a case is measured")
    parser.add_argument("--repeats", type=int, default=3, help="turns of ours and the peer")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one turn")
    parser.add_argument("--no-peer", action="store_true", help="without PyTorch Geometric")
    parser.add_argument(
        "--peers-python", help="a Python that has it; without, it is put into .peers/graphs"
    )
    parser.add_argument("--out", type=Path, help="write everything measured to this JSON file")
    args = parser.parse_args()
    if args.case == "step":
        print(json.dumps(time_step(args.nodes, args.edges, args.seconds)))
        return
    if args.case == "seeds":
        print(json.dumps(time_seeds(args.seeds, args.nodes, args.seconds)))
        return

    nodes, edges, growth, seeds, like_cora = NODES, EDGES, GROWTH, args.seeds, 2_700
    seconds = args.seconds
    repeats = args.repeats
    if args.quick:
        nodes, edges, growth, seeds, like_cora = 500, 5_000, (1_000, 4_000), 4, 100
        seconds, repeats = 0.2, 1
    timing = f"--seconds={seconds}"
    machine = machine_facts() | {"ours": versions(sys.executable, ["jax", "numpy"])}
    ours = [sys.executable, __file__, "--case=step", timing]
    size = [f"--nodes={nodes}", f"--edges={edges}"]
    cases = {"ours": [*ours, *size]}
    if not args.no_peer:
        peers = args.peers_python or peers_python("graphs")
        machine["peer"] = versions(peers, ["torch", "torch_geometric"])
        shape = [f"--features={FEATURES}", f"--width={WIDTH}", f"--classes={CLASSES}"]
        cases["peer"] = [peers, HERE / "peers" / "gcn.py", *size, *shape, timing]
    runs: dict[str, list[dict]] = {name: [] for name in cases}
    for _ in range(repeats):
        for name, command in cases.items():
            runs[name].append(json.loads(call(command).splitlines()[-1]))
            print(f"{name}: {runs[name][-1]}", file=sys.stderr, flush=True)
    points = []
    for many in growth:
        command = [*ours, f"--nodes={many // 10}", f"--edges={many}"]
        points.append({"edges": many} | json.loads(call(command).splitlines()[-1]))
        print(points[-1], file=sys.stderr, flush=True)
    command = [sys.executable, __file__, "--case=seeds", f"--seeds={seeds}", timing]
    rows = json.loads(call([*command, f"--nodes={like_cora}"]).splitlines()[-1])

    print("\n".join(f"- {name}: {fact}" for name, fact in machine.items()))
    print("\n| who | steps/s | most memory, MiB |\n|---|---|---|")
    rates = {}
    for name, found in runs.items():
        rates[name] = summary([run["updates_per_second"] for run in found])["median"]
        print(f"| {name} | {rates[name]:.2f} | {found[-1]['peak_mebibytes']:,.0f} |")
    if "peer" in rates:
        print(f"\nOurs to the peer's: {rates['ours'] / rates['peer']:.2f}")
    print("\n| edges | ms a step | to lay out, s | to compile, s | most memory, MiB |")
    print("|---|---|---|---|---|")
    for point in points:
        cells = [f"{point['edges']:,}", f"{1e3 * point['fastest_seconds']:.2f}"]
        cells += [f"{point[name]:.1f}" for name in ("layout_seconds", "first_seconds")]
        print(f"| {' | '.join(cells)} | {point['peak_mebibytes']:,.0f} |")
    print(f"\nSlope: {slope(points):.2f}")
    print(
        f"{seeds} seeds: {rows['as_rows']:.0f} updates/s as rows, {rows['one_by_one']:.0f} one by "
        f"one, {rows['ratio']:.2f} times; largest difference {rows['largest_difference']:.1e}"
    )
    if args.out:
        report = {"machine": machine, "steps": runs, "growth": points, "seeds": rows}
        args.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
