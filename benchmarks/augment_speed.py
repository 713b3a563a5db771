"""Measure pairs of views per second: this suite against torchvision + lightly, in one run.

    python benchmarks/augment_speed.py --repeats=5 --out=augment_speed.json

The same distortions on both sides (SETTINGS): those of Barlow Twins for images of 32 pixels,
without blur, normalized. Each side takes random images from memory and hands over batches of both
views; the sides take turns, each turn in a process of its own. Ours is timed without its
compilation, the peer, which has two workers, without the start of these.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

from peers_env import call, machine_facts, peers_python, summary, versions

HERE = Path(__file__).resolve().parent

SETTINGS = {
    "side": 32,
    "batch_size": 256,
    "workers": 2,  # of the peer
    "crop_scale": [0.08, 1.0],
    "flip": 0.5,
    "jitter": 0.8,
    "brightness": 0.4,
    "contrast": 0.4,
    "saturation": 0.2,
    "hue": 0.1,
    "gray": 0.2,
    "solarize": [0.0, 0.2],
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
}
OURS = "missing_bits"
PEER = "torchvision + lightly"
WARMUP = 6  # batches of ours before the clock starts


def run_ours(batches: int) -> float:
    """Return the pairs per second of the suite in this process."""
    import jax
    import numpy as np

    from missing_bits.augment import color, views

    s = SETTINGS
    config = views.Views(
        crop_scale=tuple(s["crop_scale"]),
        flip=s["flip"],
        jitter=s["jitter"],
        brightness=s["brightness"],
        contrast=s["contrast"],
        saturation=s["saturation"],
        hue=s["hue"],
        gray=s["gray"],
        blur=(0.0, 0.0),
        solarize=tuple(s["solarize"]),
    )

    @jax.jit
    def pairs(key, images):
        keys = jax.random.split(key, len(images))
        x_a, x_b = views.draw(keys, images, [config.first, config.second])
        x_a = color.normalize(x_a, s["mean"], s["std"])
        x_b = color.normalize(x_b, s["mean"], s["std"])
        return x_a, x_b

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (50_000, s["side"], s["side"], 3), np.uint8)
    run_key = jax.random.key(0)
    start = 0.0
    for i in range(WARMUP + batches):
        if i == WARMUP:
            start = time.perf_counter()
        chosen = images[rng.integers(0, len(images), s["batch_size"])]
        jax.block_until_ready(pairs(jax.random.fold_in(run_key, i), chosen))
    return batches * s["batch_size"] / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--repeats", type=int, default=5, help="turns of either side; the median counts"
    )
    parser.add_argument(
        "--batches", type=int, default=400, help="batches of ours that are timed, per turn"
    )
    parser.add_argument(
        "--peer-batches", type=int, default=20, help="batches of the peer that are timed, per turn"
    )
    parser.add_argument(
        "--peers-python",
        help="a Python that has the peers; without, they are put into .peers/vision",
    )
    parser.add_argument("--out", type=Path, help="write everything measured to this JSON file")
    parser.add_argument("--ours", action="store_true", help="time ours alone, in this process")
    args = parser.parse_args()
    if args.ours:
        print(json.dumps({"pairs_per_second": run_ours(args.batches)}))
        return

    peers = args.peers_python or peers_python("vision")
    machine = machine_facts()
    machine["ours"] = versions(sys.executable, ["jax", "numpy"])
    machine["peers"] = versions(peers, ["torch", "torchvision", "lightly", "pillow"])
    peer = [peers, HERE / "peers" / "augment.py", f"--settings={json.dumps(SETTINGS)}"]
    commands = {
        OURS: [sys.executable, __file__, "--ours", f"--batches={args.batches}"],
        PEER: [*peer, f"--batches={args.peer_batches}"],
    }
    runs: dict[str, list[float]] = {name: [] for name in commands}
    for repeat in range(args.repeats):
        for name, command in commands.items():
            rate = json.loads(call(command))["pairs_per_second"]
            runs[name].append(rate)
            turn = f"{repeat + 1}/{args.repeats}"
            print(f"{turn} {name}: {rate:,.0f} pairs/s", file=sys.stderr, flush=True)
    machine["load_average_after"] = os.getloadavg()[0]

    rates = {name: summary(rates) for name, rates in runs.items()}
    print("\n".join(f"- {name}: {fact}" for name, fact in machine.items()))
    print("\n| who | pairs/s | min | max | ratio |\n|---|---|---|---|---|")
    for name, rate in rates.items():
        ratio = rate["median"] / rates[PEER]["median"]
        cells = [f"{rate[which]:,.0f}" for which in ("median", "min", "max")]
        print(f"| {name} | {' | '.join(cells)} | {ratio:.1f} |")
    if args.out:
        report = {"machine": machine, "settings": SETTINGS, "pairs_per_second": rates}
        args.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
