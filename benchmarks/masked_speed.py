"""Measure what masked images save, and steps of masked language against torch, in one run.

    python benchmarks/masked_speed.py --out=masked_speed.json

Images: updates of a masked autoencoder, whose encoder sees the visible quarter of the patches,
against the same updates with an encoder that works on all patches. Language: BERT's "mini" size,
batch 32, rows of 128 tokens, a vocabulary of 4096, AdamW; ours draws its masks, the peer has them
ready. The cases take turns, each in a process of its own. See README.md beside this file.
"""

import argparse
import dataclasses
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from peers_env import call, machine_facts, peers_python, summary, versions

HERE = Path(__file__).resolve().parent
NETWORKS = ("vit_micro", "vit_tiny")  # the first is the method's default
IMAGES = 64  # in a batch
ROWS = 32  # in a batch
LENGTH = 128  # tokens in a row
VOCABULARY = 4096
DROPOUT = 0.1
SHARE = 0.15  # of a row, hidden
PLACES = 19  # hidden in a row: SHARE of LENGTH
WIDTH = 256  # of bert_mini
LAYERS = 4  # of bert_mini
ALL = "all patches"
OURS = "ours"


class SeesAll:
    """An encoder that works on all patches and keeps of its tokens those of the visible ones."""

    def __init__(self, encoder: Any):
        self._encoder = encoder

    def tokens(self, variables: Any, images: Any, kept: Any) -> Any:
        """The tokens [B, 1 + K, D] of the class and of the kept patches [B, K]."""
        import jax.numpy as jnp

        tokens = self._encoder.tokens(variables, images)  # [B, 1 + L, D]
        visible = jnp.take_along_axis(tokens[:, 1:], kept[:, :, None], axis=1)  # [B, K, D]
        return jnp.concatenate([tokens[:, :1], visible], axis=1)


def row_flops() -> int:
    """Count the floating-point operations of one row in an update: matrix products alone.

    Four products of the width and two of four times the width in each block; scores and mixtures of
    attention; at each place to guess one product of the width and one with the vocabulary. A
    backward pass costs two forward passes.
    """
    blocks = LAYERS * LENGTH * 12 * WIDTH**2
    attention = LAYERS * 2 * LENGTH**2 * WIDTH
    head = PLACES * (WIDTH**2 + WIDTH * VOCABULARY)
    return 3 * 2 * (blocks + attention + head)


def run_updates(case: str, network: str, seconds: float) -> dict:
    """Time the suite's own updates in this process, on one batch that lies ready.

    Args:
      case: "visible" or "all" patches of images, or "language".
      network: the encoder.
      seconds: how long to measure.
    """
    import jax
    from suite_updates import Updates

    from missing_bits import options
    from missing_bits.loop.process import prepare_cpu

    prepare_cpu()  # as the loop does
    if case == "language":
        from missing_bits.optimizers import Optimizer
        from missing_bits.ssl import bert

        config = options.make(
            bert.Config,
            network=network,
            batch_size=ROWS,
            length=LENGTH,
            vocabulary=VOCABULARY,
            dropout=DROPOUT,
            mask_share=SHARE,
            optimizer=Optimizer(),  # AdamW
        )
        updates = Updates(bert.BERT, config)
        examples = ROWS * LENGTH
    else:
        from missing_bits.ssl import mae

        config = options.make(mae.Config, batch_size=IMAGES, network=network)
        updates = Updates(mae.MAE, config)
        examples = IMAGES
    updates.close()
    if case == "all":
        autoencoder = updates.resources.autoencoder
        seeing = dataclasses.replace(autoencoder, encoder=SeesAll(autoencoder.encoder))
        updates.exchange(updates.resources._replace(autoencoder=seeing))
    rates: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(rates) < 3:
        rates.append(examples / updates.make(1))
    learned = updates.family.first.learned(updates.running.state)
    return {
        "per_second": statistics.median(rates),
        "steps": updates.done,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(learned)),
        "loss": updates.metrics()["train/loss"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--case",
        choices=["visible", "all", "language"],
        help="run this case here; print its result",
    )
    parser.add_argument("--network", help="the encoder of --case")
    parser.add_argument(
        "--only", choices=["images", "language"], help="one of the two comparisons; by default both"
    )
    parser.add_argument(
        "--seconds", type=float, default=30.0, help="how long each case is measured"
    )
    parser.add_argument(
        "--repeats", type=int, default=3, help="turns of each case; the median counts"
    )
    parser.add_argument(
        "--peers-python", help="a Python that has torch; without, it is put into .peers/torch"
    )
    parser.add_argument("--out", type=Path, help="write everything measured to this JSON file")
    args = parser.parse_args()
    if args.case:
        print(json.dumps(run_updates(args.case, args.network, args.seconds)))
        return

    machine = machine_facts() | {"ours": versions(sys.executable, ["jax", "numpy"])}
    timing = f"--seconds={args.seconds}"
    images: dict[str, list] = {}
    language: dict[str, list] = {}
    if args.only != "language":
        for network in NETWORKS:
            ours = [sys.executable, __file__, f"--network={network}", timing]
            images[f"{network}, visible patches"] = [*ours, "--case=visible"]
            images[f"{network}, {ALL}"] = [*ours, "--case=all"]
    if args.only != "images":
        peers = args.peers_python or peers_python("torch")
        machine["peer"] = versions(peers, ["torch"])
        peer = [peers, HERE / "peers" / "transformer.py", timing]
        peer += [f"--width={WIDTH}", f"--layers={LAYERS}", f"--dropout={DROPOUT}"]
        peer += [f"--batch-size={ROWS}", f"--length={LENGTH}", f"--vocabulary={VOCABULARY}"]
        peer.append(f"--places={PLACES}")
        ours = [sys.executable, __file__, "--network=bert_mini", timing]
        language[OURS] = [*ours, "--case=language"]
        language["torch"] = peer
        language["torch, attention masked"] = [*peer, "--masked"]
    cases = images | language
    ceiling = [sys.executable, HERE / "matmul.py", f"--cores={os.cpu_count()}"]

    runs: dict[str, list[dict]] = {name: [] for name in cases}
    ceilings: list[float] = []
    for repeat in range(args.repeats):
        for name, command in cases.items():
            runs[name].append(json.loads(call(command).splitlines()[-1]))
            turn = f"{repeat + 1}/{args.repeats}"
            print(f"{turn} {name}: {runs[name][-1]}", file=sys.stderr, flush=True)
        ceilings.append(json.loads(call(ceiling))["gflops"])
    machine["load_average_after"] = os.getloadavg()[0]

    top = statistics.median(ceilings)
    rates = {name: summary([run["per_second"] for run in done]) for name, done in runs.items()}
    print("\n".join(f"- {name}: {fact}" for name, fact in machine.items()))
    print(f"- matrix product: {top:.0f} GFLOP/s")
    if images:
        print("\n| encoder | images/s | min | max | to all patches |\n|---|---|---|---|---|")
        for name in images:
            rate = rates[name]
            base = rates[f"{name.split(',')[0]}, {ALL}"]
            ratio = rate["median"] / base["median"]
            cells = [f"{rate[which]:.1f}" for which in ("median", "min", "max")]
            print(f"| {name} | {' | '.join(cells)} | {ratio:.2f} |")
    if language:
        best_peer = max(rates[name]["median"] for name in language if name != OURS)
        heads = ["language", "tokens/s", "min", "max", "to the faster peer", "GFLOP/s"]
        heads += ["of the product", "parameters"]
        print(f"\n| {' | '.join(heads)} |")
        print("|---" * len(heads) + "|")
        for name in language:
            rate = rates[name]
            gflops = rate["median"] / LENGTH * row_flops() / 1e9
            cells = [f"{rate[which]:,.0f}" for which in ("median", "min", "max")]
            cells += [f"{rate['median'] / best_peer:.2f}", f"{gflops:.0f}"]
            cells += [f"{100 * gflops / top:.0f} %", f"{runs[name][0]['parameters']:,}"]
            print(f"| {name} | {' | '.join(cells)} |")
    if args.out:
        report = {"machine": machine, "runs": runs, "matrix_product": ceilings}
        args.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
