"""Classify graphs by the protocol of Errica et al. 2020, beside a baseline that is blind to links.

    python benchmarks/graph_protocol.py --data-dir=DATA --out=protocol.jsonl
    python benchmarks/graph_protocol.py --quick            # does it run? on cycles, a moment

Budget: about 35 minutes of one idle core for both sets and both networks.

Ten outer folds, alike in their classes. Within each, a tenth of the graphs that are not to test on
is held out (`data/graphs.py`, `folds`). Every setting of the grid is trained once; the parameters
of lowest loss on the held-out graphs are kept, and the setting of highest accuracy on them is
chosen, of equals that of lower loss. It is trained three times more, with other seeds, and the
accuracies on the fold's test graphs are averaged. Test graphs are looked at by these three alone.
What is reported is the mean over the ten folds, and their standard deviation.

    gin    `--exp=gin`: graph isomorphism network, sums of nodes after every layer
    blind  an MLP on the sum of each graph's nodes (`--network=mlp`): no links

Their grids are larger (about 70 settings, 1,000 epochs) and their final runs hold out graphs of
their own; ours hold out those that settings were chosen by. Each finished fold is a line of
`--out`; what is there already is not run again.
"""

import argparse
import itertools
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from missing_bits import options
from missing_bits.data import graph_batches
from missing_bits.data.graphs import FOLDS, GraphSet
from missing_bits.supervised import graphs
from missing_bits.supervised.graphs import Config, Graphs, Resources
from missing_bits.tests.loop.drive import Drive

SETS = ("tu:MUTAG", "tu:PROTEINS")
RATES = (1e-2, 1e-3)  # step sizes: rows of one program
Shapes = Sequence[tuple[int, int]]
SHAPES = tuple(itertools.product((16, 32), (2, 4)))  # width, layers
SELECTING = 0  # seed
FINAL = (1, 2, 3)  # seeds
CALL = 20  # updates


class Sizes(NamedTuple):
    """What a run takes."""

    updates: int
    batch_size: int


SIZES = {
    "tu:MUTAG": Sizes(400, 32),
    "tu:PROTEINS": Sizes(400, 64),
    "cycles": Sizes(20, 8),
}
BLIND_UPDATES = 1_000  # each of all graphs at once
NETWORKS = {"gin": "gin", "blind": "mlp"}


class Kept(NamedTuple):
    """What a run came to."""

    accuracy: float  # on what is held out
    loss: float
    test: float  # accuracy; to be looked at in final runs alone


def settings(network: str, data: str, data_dir: str, fold: int) -> dict[str, Any]:
    """Those that the grid leaves alone."""
    updates, batch_size = SIZES[data]
    where = {"made_nodes": 60, "made_noise": 1} if data == "cycles" else {"data_dir": data_dir}
    return {
        **where,
        "data": data,
        "fold": fold,
        "network": NETWORKS[network],
        "dropout": 0.0,
        "l2": 0.0,
        "updates": BLIND_UPDATES if network == "blind" else updates,
        "batch_size": batch_size,
    }


def blind(found: GraphSet) -> GraphSet:
    """Sums of nodes, as shares of a graph of mean size."""
    summed = graph_batches.sums(found)
    return summed._replace(nodes=summed.nodes * found.num_graphs / found.num_nodes)


def trained(found: GraphSet, configs: list[Config], seeds: list[int]) -> list[Kept]:
    """Runs that differ in step size or seed alone, as rows of one program."""
    config = configs[0]
    ask = graphs.of_graphs if found.per_graph else graphs.of_nodes
    problem = ask(config, found)
    drive = Drive(Graphs, configs, seeds, resources=Resources(found, problem), room=CALL)
    for start in range(0, config.updates, CALL):
        drive.advance(min(CALL, config.updates - start))
    if drive.source is not None:
        drive.source.close()
    runs = []
    losses = drive.layout.rows(drive.running.state.best_loss)
    for learned, loss in zip(drive.learned, losses, strict=True):
        scores = problem.evaluation.scores(learned, jax.random.key(0), True)
        runs.append(Kept(scores["eval/validation_accuracy"], float(loss), scores["eval/accuracy"]))
    return runs


def run_fold(fixed: dict[str, Any], shapes: Shapes) -> dict[str, Any]:
    """Chooses a setting on what is held out, trains it three times, and tests these."""
    began = time.perf_counter()
    found = options.make(Config, **fixed).graphs.load()
    if fixed["network"] == "mlp":
        found = blind(found)

    def config(width: int, layers: int, rate: float) -> Config:
        return options.make(
            Config, width=width, layers=layers, optimizer={"learning_rate": rate}, **fixed
        )

    tried = {}
    for width, layers in shapes:
        configs = [config(width, layers, rate) for rate in RATES]
        runs = trained(found, configs, [SELECTING] * len(RATES))
        tried |= {(width, layers, rate): run for rate, run in zip(RATES, runs, strict=True)}
    chosen = max(tried, key=lambda setting: (tried[setting].accuracy, -tried[setting].loss))
    final = trained(found, [config(*chosen)] * len(FINAL), list(FINAL))
    return {
        "chosen": dict(zip(("width", "layers", "learning_rate"), chosen, strict=True)),
        "validation": tried[chosen].accuracy,
        "test": [run.test for run in final],
        "seconds": round(time.perf_counter() - began, 1),
    }


def finished(path: Path | None) -> list[dict[str, Any]]:
    """What a file holds already, a line for each fold; nothing if there is none."""
    if path is None or not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def table(folds: list[dict[str, Any]], tasks: list[dict[str, Any]]) -> str:
    """Markdown: what each network reaches on each set, of the folds that are finished."""
    lines = ["| graphs | network | folds | test accuracy | seconds |", "|---|---|---|---|---|"]
    for data, network in dict.fromkeys((task["data"], task["network"]) for task in tasks):
        mine = [fold for fold in folds if (fold["data"], fold["network"]) == (data, network)]
        if not mine:
            continue
        means = [100 * statistics.mean(fold["test"]) for fold in mine]
        spread = f" ± {statistics.stdev(means):.1f}" if len(means) > 1 else ""
        seconds = sum(fold["seconds"] for fold in mine)
        lines.append(
            f"| {data} | {network} | {len(mine)} | {statistics.mean(means):.1f}{spread} | "
            f"{seconds:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--data-dir", default="", help="where the published files lie")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--folds", nargs="+", type=int, choices=range(FOLDS), default=range(FOLDS))
    parser.add_argument("--quick", action="store_true", help="one fold of cycles, one shape")
    parser.add_argument("--out", type=Path, help="a line of JSON for each fold; others are kept")
    args = parser.parse_args()
    data, folds, shapes = args.data, args.folds, SHAPES
    if args.quick:
        data, folds, shapes = ["cycles"], [0], SHAPES[:1]
    grid = {"shapes": [list(shape) for shape in shapes], "rates": list(RATES)}
    found = []
    tasks = []
    for one, network, fold in itertools.product(data, args.networks, folds):
        fixed = settings(network, one, args.data_dir, fold)
        told = {name: value for name, value in fixed.items() if name != "data_dir"}
        tasks.append({"data": one, "network": network, "fold": fold, "grid": grid, "fixed": told})
    for task in tasks:
        before = [line for line in finished(args.out) if {**line, **task} == line]
        if before:
            found.append(before[-1])
            continue
        fixed = settings(task["network"], task["data"], args.data_dir, task["fold"])
        line = task | run_fold(fixed, shapes)
        jax.clear_caches()  # compiled programs of a fold are of no use to the next one, and many
        found.append(line)
        if args.out:
            with args.out.open("a") as file:
                file.write(json.dumps(line) + "\n")
        print(json.dumps(line), file=sys.stderr, flush=True)
    print(table(found, tasks))


if __name__ == "__main__":
    main()
