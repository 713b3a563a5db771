"""Measure what networks on graphs can and cannot tell, on drawn graphs with known answers.

    python benchmarks/graph_curves.py --out=curves.json --picture=curves.png
    python benchmarks/graph_curves.py --parts hops --quick    # does it run?

Budget: at most 15 minutes of one idle core. Three seeds each, as rows of one program; figures are
test accuracies of the parameters of lowest validation loss.

signal  Block models of 1,000 nodes in two blocks, from easy to below the threshold of 1, where no
        fast method finds blocks from links alone (Decelle et al. 2011): `--exp=gcn`,
        `--exp=graph_network` and label propagation, of which 40 nodes tell their block.
cycles  A cycle of six nodes, or two triangles (`--data=cycles`)? Without features that tell nodes
        apart, message passing must stay at chance (Xu et al. 2019); with random ones it need not
        (Sato et al. 2021). The MLP sees the same features and no links.
hops    Chains of nine nodes whose first one says the class of all (`--data=chains`, Gu et al.
        2020): accuracy by the links that this word must travel, of the network of Scarselli et al.
        2009 at its fixed point and after 1 to 8 steps. Links lead both ways, or onward alone, where
        less is lost from step to step.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from missing_bits import options
from missing_bits.data import graphs, made_graphs
from missing_bits.eval import graph_baselines
from missing_bits.experiments import EXPERIMENTS
from missing_bits.pictures import canvas
from missing_bits.supervised.graphs import Config, Graphs, Learned, Resources
from missing_bits.tests.loop.drive import Drive

SEEDS = (0, 1, 2)
CALL = 20  # updates
SIGNALS = (0.5, 1.0, 1.5, 2.0, 4.0, 8.0)
HOPS = made_graphs.CHAIN - 1
NOISE = (0, 1, 4)  # random features of a node


class Rows(NamedTuple):
    """Finished runs."""

    resources: Resources
    learned: list[Learned]
    accuracy: list[float]  # of each seed, on what is to test on


def configured(exp: str, **changed: Any) -> Config:
    """A row of the table, with some settings changed."""
    row = EXPERIMENTS[exp]
    return options.make(Config, **{**row.parts, **row.settings, **changed})


def trained(config: Config) -> Rows:
    """All seeds as rows of one program."""
    options.check(config)
    Graphs.check(config)
    resources = Graphs.resources(config)
    drive = Drive(Graphs, config, SEEDS, resources=resources, room=CALL)
    for start in range(0, config.updates, CALL):
        drive.advance(min(CALL, config.updates - start))
    if drive.source is not None:
        drive.source.close()
    learned = drive.learned
    scores = resources.problem.evaluation.scores
    found = [scores(one, jax.random.key(0), True)["eval/accuracy"] for one in learned]
    return Rows(resources, learned, found)


def signal(sizes: dict[str, Any]) -> list[dict[str, Any]]:
    """Accuracy by the signal of a block model."""
    found = []
    for strength in SIGNALS:
        point: dict[str, Any] = {"signal": strength}
        for exp in ("gcn", "graph_network"):
            runs = trained(configured(exp, made_signal=strength, **sizes))
            point[exp] = runs.accuracy
        data = runs.resources.data
        guesses = graph_baselines.propagated(
            data.senders, data.receivers, data.labels, data.train, len(data.classes)
        )
        point["propagation"] = float(np.mean(guesses[data.test] == data.labels[data.test]))
        found.append(point)
        told(point)
    return found


def cycles(sizes: dict[str, Any]) -> list[dict[str, Any]]:
    """Accuracy by the random features of a node, with links and without."""
    found = []
    for network in ("gin", "mlp"):
        for noise in NOISE:
            if network == "mlp" and noise == 0:
                continue  # all nodes alike, none of them linked
            fixed = {"data": "cycles", "made_nodes": 5_000, "made_noise": noise}
            fixed |= {"layers": 4, "updates": 1_000}
            runs = trained(configured("gin", **{**fixed, **sizes, "network": network}))
            found.append({"network": network, "features": noise, "accuracy": runs.accuracy})
            told(found[-1])
    return found


def by_hop(config: Config, runs: Rows) -> list[list[float]]:
    """Test accuracy of each seed at 1 to 8 links from the first node of a chain."""
    data = runs.resources.data
    graph = graphs.whole(data)
    network = config.passing.make(len(data.classes))
    place = data.test % made_graphs.CHAIN

    @jax.jit
    def logits(learned: Learned) -> jax.Array:
        variables = (learned.params.network, learned.statistics)
        return network.apply(variables, graph, None, False)[0].nodes[-1]

    found = []
    for learned in runs.learned:
        right = np.argmax(logits(learned), axis=1)[data.test] == data.labels[data.test]
        found.append([float(right[place == hop].mean()) for hop in range(1, HOPS + 1)])
    return found


def hops(sizes: dict[str, Any]) -> list[dict[str, Any]]:
    """Accuracy by distance, of the fixed point (0 steps) and of 1 to 8 steps."""
    found = []
    for directed in (False, True):
        for steps in range(HOPS + 1):
            fixed = {"data": "chains", "made_nodes": 180, "directed": directed}
            fixed |= {"recurrent_steps": steps, "width": 8, "dropout": 0.0, "l2": 0.0}
            fixed |= {"updates": 400}
            config = configured("graph_network", **{**fixed, **sizes})
            runs = trained(config)
            found.append({"directed": directed, "steps": steps, "by_hop": by_hop(config, runs)})
            told(found[-1])
    return found


def told(point: dict[str, Any]) -> None:
    """Prints a finished point."""
    print(json.dumps(point), file=sys.stderr, flush=True)


PARTS = {"signal": signal, "cycles": cycles, "hops": hops}
QUICK = {
    "signal": {"made_nodes": 100, "updates": 5, "width": 4},
    "cycles": {"made_nodes": 60, "updates": 5, "width": 4, "layers": 1},
    "hops": {"made_nodes": 90, "updates": 5, "width": 2},
}


def percent(values: Any) -> str:
    """A mean over seeds, and the least and most of them."""
    shares = 100 * np.atleast_1d(values)
    if len(shares) == 1:
        return f"{shares[0]:.1f}"
    return f"{shares.mean():.1f} [{shares.min():.1f}, {shares.max():.1f}]"


def tables(report: dict[str, Any]) -> str:
    """Markdown: what was found."""
    lines = []
    if "signal" in report:
        lines += ["| signal | gcn | graph_network | label propagation |", "|---|---|---|---|"]
        for point in report["signal"]:
            cells = (percent(point[name]) for name in ("gcn", "graph_network", "propagation"))
            lines.append(f"| {point['signal']:g} | {' | '.join(cells)} |")
        lines.append("")
    if "cycles" in report:
        lines += ["| network | random features of a node | accuracy |", "|---|---|---|"]
        for point in report["cycles"]:
            cells = (point["network"], str(point["features"]), percent(point["accuracy"]))
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    if "hops" in report:
        names = " | ".join(str(hop) for hop in range(1, HOPS + 1))
        lines += [f"| links | steps | {names} |", f"|---|---|{'---|' * HOPS}"]
        for point in report["hops"]:
            means = np.mean(point["by_hop"], axis=0)
            cells = [("both ways", "onward")[point["directed"]], str(point["steps"] or "all")]
            cells += [f"{100 * mean:.0f}" for mean in means]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(report: dict[str, Any], path: Path) -> None:
    """Draws every part that was measured, side by side."""
    drawing = {"signal": draw_signal, "cycles": draw_cycles, "hops": draw_hops}
    parts = [part for part in drawing if part in report]
    figure = canvas.figure(figsize=(5.4 * len(parts), 4.4), layout="constrained")
    for axes, part in zip(np.atleast_1d(figure.subplots(1, len(parts))), parts, strict=True):
        drawing[part](axes, report[part])
        if part != "hops":
            for side in ("top", "right"):
                axes.spines[side].set_visible(False)
    figure.savefig(path, dpi=canvas.DPI)


def draw_signal(axes: Any, points: list[dict[str, Any]]) -> None:
    """Accuracy over signal, with the range over seeds."""
    x = [point["signal"] for point in points]
    names = {"gcn": "GCN", "graph_network": "Scarselli et al.", "propagation": "label propagation"}
    for color, (name, label) in zip(canvas.COLORS, names.items(), strict=False):
        y = np.array([np.atleast_1d(point[name]) for point in points])  # [signals, seeds]
        axes.plot(x, y.mean(axis=1), "o-", color=color, label=label)
        axes.fill_between(x, y.min(axis=1), y.max(axis=1), color=color, alpha=0.2, linewidth=0)
    axes.axvline(1, color=canvas.INK, linestyle=":", linewidth=1)
    axes.text(1.03, 0.98, "threshold", color=canvas.INK, fontsize=8, va="top")
    axes.set_xscale("log", base=2)
    axes.set_xticks(x, [f"{one:g}" for one in x])
    axes.set(title="Blocks of nodes", xlabel="signal", ylabel="test accuracy", ylim=(0.45, 1.01))
    axes.legend(frameon=False, loc="lower right", fontsize=9)


def draw_cycles(axes: Any, points: list[dict[str, Any]]) -> None:
    """Bars, with a point for each seed."""
    names = [f"{one['network']}\n{one['features']} random" for one in points]
    colors = [canvas.COLORS[0 if one["network"] == "gin" else 1] for one in points]
    means = [np.mean(one["accuracy"]) for one in points]
    axes.bar(names, means, color=colors, alpha=0.7)
    for x, one in enumerate(points):
        axes.plot([x] * len(one["accuracy"]), one["accuracy"], ".", color=canvas.INK)
    axes.axhline(0.5, color=canvas.INK, linestyle=":", linewidth=1)
    axes.set(title="A cycle of six, or two triangles", ylabel="test accuracy", ylim=(0, 1.01))


def draw_hops(axes: Any, points: list[dict[str, Any]]) -> None:
    """Shares by hop, darker for more; a line between links both ways and onward."""
    shown = np.array([np.mean(one["by_hop"], axis=0) for one in points])  # [runs, hops]
    axes.imshow(shown, vmin=0.5, vmax=1, cmap="Blues", aspect="auto")
    for (y, x), share in np.ndenumerate(shown):
        ink = canvas.WHITE if share > 0.8 else canvas.INK
        axes.text(x, y, f"{100 * share:.0f}", ha="center", va="center", fontsize=7, color=ink)
    ways = ("both ways", "onward")
    names = [f"{ways[one['directed']]}, {one['steps'] or 'all'}" for one in points]
    axes.set_yticks(range(len(points)), names, fontsize=8)
    axes.set_xticks(range(HOPS), range(1, HOPS + 1))
    axes.axhline(sum(not one["directed"] for one in points) - 0.5, color=canvas.INK, linewidth=1)
    axes.set(title="Accuracy, %, by distance", xlabel="links to the node that tells")
    axes.set_ylabel("steps of Scarselli's network")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--quick", action="store_true", help="tiny sizes, few updates")
    parser.add_argument("--out", type=Path, help="write what was found to this JSON file")
    parser.add_argument("--picture", type=Path, help="draw it into this PNG file")
    args = parser.parse_args()
    report: dict[str, Any] = {}
    for part in args.parts:
        began = time.perf_counter()
        report[part] = PARTS[part](QUICK[part] if args.quick else {})
        report.setdefault("seconds", {})[part] = round(time.perf_counter() - began, 1)
        if args.out:
            args.out.write_text(json.dumps(report, indent=1) + "\n")
    print(tables(report))
    if args.picture:
        draw(report, args.picture)


if __name__ == "__main__":
    main()
