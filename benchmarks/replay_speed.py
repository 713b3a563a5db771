"""Measure the prioritized replay: this suite's, flashbax's and a numpy sum-tree, in one run.

    python benchmarks/replay_speed.py --out=replay_speed.json

An update inserts 32 steps into the one lane of a replay that is full, draws 512 transitions by
priority with their weights, and gives them new priorities. See README.md beside this file.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from peers_env import call, machine_facts, peers_python, summary, versions

from missing_bits.envs.steps import Steps
from missing_bits.replay import prioritized

HERE = Path(__file__).resolve().parent
CHUNK = 32  # inserted at once
BATCH = 512  # drawn at once


def steps(length: int) -> Steps:
    """Steps of one lane, [1, V, ...]."""
    never = jnp.zeros((1, length), bool)
    observation = jnp.ones((1, length, 4))
    return Steps(
        observation,
        jnp.zeros((1, length), jnp.int32),
        jnp.ones((1, length)),
        never,
        never,
        observation,
        ~never,
    )


def ours(items: int, updates: int) -> dict:
    """Updates per second in one jitted loop."""

    def update(_: int, carried: tuple[Any, jax.Array]) -> tuple[Any, jax.Array]:
        replay, key = carried
        key, draw_key, new_key = jax.random.split(key, 3)
        replay = prioritized.insert(replay, steps(CHUNK), 1)
        drawn = prioritized.sample(replay, draw_key, BATCH, 1, 0.99, 0.4)
        found = drawn.transitions
        seen = found.s_tm1.sum() + found.s_t.sum() + (found.r_t * drawn.weights).sum()
        surprise = jax.random.uniform(new_key, (BATCH,)) + 1e-6 * seen
        return prioritized.reprioritize(replay, drawn, surprise, True, 1.0), key

    def insert(_: int, replay: Any) -> Any:
        return prioritized.insert(replay, steps(1000), 1)

    run = jax.jit(lambda carried, n: jax.lax.fori_loop(0, n, update, carried), donate_argnums=0)
    empty = prioritized.init(1, items, (4,), jnp.float32)
    full = jax.jit(lambda replay: jax.lax.fori_loop(0, items // 1000 + 1, insert, replay))(empty)
    carried = jax.block_until_ready(run((full, jax.random.key(0)), 10))
    start = time.perf_counter()
    jax.block_until_ready(run(carried, updates))
    return {"updates_per_second": updates / (time.perf_counter() - start)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=1_000_000, help="that the replay holds")
    parser.add_argument("--updates", type=int, default=1_000, help="of each turn")
    parser.add_argument("--repeats", type=int, default=3, help="turns; the median counts")
    parser.add_argument("--out", type=Path, help="write everything measured to this JSON file")
    parser.add_argument("--peers-venv", type=Path, help="the peers' environment")
    parser.add_argument("--peers-python", default=sys.executable, help="the Python that makes it")
    args = parser.parse_args()
    folder = args.peers_venv and args.peers_venv.resolve()
    python = peers_python("gymnax", folder, args.peers_python)
    machine = machine_facts()
    machine["ours"] = versions(sys.executable, ["jax"])
    machine["peers"] = versions(python, ["flashbax", "jax", "numpy"])
    sizes = [f"--items={args.items}", f"--chunk={CHUNK}", f"--batch={BATCH}"]
    runs: dict[str, list[float]] = {"ours": [], "flashbax": [], "numpy": []}
    for _ in range(args.repeats):
        for name, rates in runs.items():
            if name == "ours":
                result = ours(args.items, args.updates)
            else:
                script = HERE / "peers" / "prioritized.py"
                told = [f"--kind={name}", *sizes, f"--updates={args.updates}"]
                result = json.loads(call([python, script, *told]))
            rates.append(result["updates_per_second"])
            print(f"{name}: {rates[-1]:,.0f} updates/s", file=sys.stderr, flush=True)
    machine["load_average_after"] = os.getloadavg()[0]
    rates = {name: summary(measured) for name, measured in runs.items()}
    faster = max(rates[name]["median"] for name in rates if name != "ours")
    rows = ["| replay | updates/s | min | max |", "|---|---|---|---|"]
    for name, rate in rates.items():
        cells = [f"{rate[which]:,.0f}" for which in ("median", "min", "max")]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    rows.append(f"\nours to the faster peer: {rates['ours']['median'] / faster:.2f}")
    print("\n".join(f"- {name}: {fact}" for name, fact in machine.items()), *rows, sep="\n")
    if args.out:
        args.out.write_text(json.dumps({"machine": machine, "rates": rates}, indent=2) + "\n")


if __name__ == "__main__":
    main()
