"""Measure training steps of generative methods: this suite against torch, in one run.

    python benchmarks/generative_speed.py --out=generative_speed.json
    python benchmarks/generative_speed.py --quick     # a second for each: does it run?

Ours is the experiment's own update inside the loop's compiled program, on one batch that lies
ready, as the peer's does. Sizes are those of Fashion-MNIST. The cases take turns, each in a process
of its own. See README.md beside this file.
"""

import argparse
import functools
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from peers_env import call, machine_facts, peers_python, summary, versions

HERE = Path(__file__).resolve().parent
OURS = "ours"
BATCH = 128
SIDE = 28  # pixels
LATENT = 32
WIDTH = 32  # channels at full resolution
GAN_BATCH = 64  # of each kind
GAN_LATENT = 64


class Comparison(NamedTuple):
    """A method here and there."""

    ours: str
    """The --case of this file."""
    peer: list[str]
    """A script of `peers/` and its options, but for time."""
    variants: dict[str, list[str]]
    """Further options of the peer, by name."""


VARIANTS = {"torch": [], "torch, channels last": ["--channels-last"]}
GAN_PEER = [
    "gan.py",
    f"--batch-size={GAN_BATCH}",
    f"--side={SIDE}",
    "--channels=1",
    f"--latent={GAN_LATENT}",
    f"--width={WIDTH}",
]
COMPARISONS = {
    "VAE": Comparison(
        "vae",
        [
            "vae.py",
            f"--batch-size={BATCH}",
            f"--side={SIDE}",
            "--channels=1",
            f"--latent={LATENT}",
            f"--width={WIDTH}",
        ],
        VARIANTS,
    ),
    "GAN": Comparison("gan", GAN_PEER, VARIANTS),
    "GAN with R1": Comparison("gan_r1", [*GAN_PEER, "--r1"], VARIANTS),
}


def of_vae(folder: Path) -> tuple[type, Any]:
    """The method and its configuration, on random bits."""
    import numpy as np

    from missing_bits import options
    from missing_bits.generative import vae

    path = folder / "bits.npz"
    bits = np.random.default_rng(0).integers(0, 2, (4 * BATCH, SIDE, SIDE), np.uint8)
    np.savez(path, images=255 * bits)
    sizes = {"batch_size": BATCH, "latent": LATENT, "decoder_width": WIDTH}
    return vae.VAE, options.make(vae.Config, data=f"npz:{path}", output="bernoulli", **sizes)


def of_gan(folder: Path, r1: bool) -> tuple[type, Any]:
    """The method and its configuration, on random images."""
    import numpy as np

    from missing_bits import options
    from missing_bits.generative import gan

    path = folder / "images.npz"
    images = np.random.default_rng(0).integers(0, 256, (4 * GAN_BATCH, SIDE, SIDE), np.uint8)
    np.savez(path, images=images)
    sizes = {"batch_size": GAN_BATCH, "latent": GAN_LATENT, "width": WIDTH}
    sizes["discriminator_width"] = WIDTH
    return gan.GAN, options.make(gan.Config, data=f"npz:{path}", r1=r1, **sizes)


CASES = {
    "vae": of_vae,
    "gan": functools.partial(of_gan, r1=False),
    "gan_r1": functools.partial(of_gan, r1=True),
}
LOSSES = {"gan": "train/discriminator_loss", "gan_r1": "train/discriminator_loss"}


def run_updates(case: str, seconds: float) -> dict:
    """Time the suite's own updates in this process.

    Args:
      case: a key of CASES.
      seconds: how long to measure.
    """
    import jax
    from suite_updates import Updates

    from missing_bits.loop.process import prepare_cpu

    prepare_cpu()  # as the loop does
    with tempfile.TemporaryDirectory() as folder:
        method, config = CASES[case](Path(folder))
        updates = Updates(method, config)
    updates.close()
    rates: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(rates) < 3:
        rates.append(1 / updates.make(1))
    params = updates.running.state.params
    return {
        "updates_per_second": statistics.median(rates),
        "steps": updates.done,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "loss": updates.metrics()[LOSSES.get(case, "train/loss")],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", choices=list(CASES), help="run this here and print its result")
    parser.add_argument(
        "--seconds", type=float, default=20.0, help="how long each case is measured"
    )
    parser.add_argument("--repeats", type=int, default=3, help="turns; the median counts")
    parser.add_argument("--quick", action="store_true", help="one turn of a second each")
    parser.add_argument(
        "--peers-python", help="a Python that has torch; without, it is put into .peers/torch"
    )
    parser.add_argument("--out", type=Path, help="write everything measured to this JSON file")
    args = parser.parse_args()
    if args.quick:
        args.seconds = 1.0
        args.repeats = 1
    if args.case:
        print(json.dumps(run_updates(args.case, args.seconds)))
        return

    peers = args.peers_python or peers_python("torch")
    machine = machine_facts() | {"ours": versions(sys.executable, ["jax", "numpy"])}
    machine["peer"] = versions(peers, ["torch"])
    timing = f"--seconds={args.seconds}"
    cases: dict[tuple[str, str], list] = {}
    for name, comparison in COMPARISONS.items():
        cases[name, OURS] = [sys.executable, __file__, f"--case={comparison.ours}", timing]
        script, *options = comparison.peer
        for variant, more in comparison.variants.items():
            cases[name, variant] = [peers, HERE / "peers" / script, *options, *more, timing]

    runs: dict[tuple[str, str], list[dict]] = {case: [] for case in cases}
    for repeat in range(args.repeats):
        for case, command in cases.items():
            runs[case].append(json.loads(call(command).splitlines()[-1]))
            turn = f"{repeat + 1}/{args.repeats}"
            print(f"{turn} {', '.join(case)}: {runs[case][-1]}", file=sys.stderr, flush=True)

    print("\n".join(f"- {name}: {fact}" for name, fact in machine.items()))
    print("\n| method | where | updates/s | min | max | to the faster peer | parameters |")
    print("|---" * 7 + "|")
    rates = {
        case: summary([run["updates_per_second"] for run in done]) for case, done in runs.items()
    }
    for (name, where), rate in rates.items():
        others = [rates[name, variant]["median"] for variant in COMPARISONS[name].variants]
        ratio = f"{rate['median'] / max(others):.2f}" if where == OURS else ""
        cells = [f"{rate[which]:.2f}" for which in ("median", "min", "max")]
        parameters = runs[name, where][0]["parameters"]
        print(f"| {name} | {where} | {' | '.join(cells)} | {ratio} | {parameters:,} |")
    slower = rates["GAN", OURS]["median"] / rates["GAN with R1", OURS]["median"]
    print(f"\nAn update of ours with R1 takes {slower:.2f} times as long as one without.")
    if args.out:
        named = {", ".join(case): done for case, done in runs.items()}
        args.out.write_text(json.dumps({"machine": machine, "runs": named}, indent=2) + "\n")


if __name__ == "__main__":
    main()
