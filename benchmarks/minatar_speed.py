"""Measure env steps per second of DQN on MinAtar: this suite, rejax and PureJaxRL, in one run.

    python benchmarks/minatar_speed.py --purejaxrl=purejaxrl/dqn.py --out=minatar_speed.json

PureJaxRL is no package: --purejaxrl names its file, and without one it is left out. Everything
(environment, replay, learner) runs jitted, with the same network, batch and updates per step
(SETTINGS), a process each, in turn. See README.md beside this file.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from dqn_speed import rate_since
from peers_env import call, machine_facts, peers_python, summary, versions

HERE = Path(__file__).resolve().parent

SETTINGS = {
    "env": "Breakout",
    "env_steps": 200_000,
    "measure_from": 20_000,
    "num_envs": 8,
    "hidden": 128,  # after MinAtar's convolution
    "learning_rate": 1e-3,
    "batch_size": 32,
    "learning_starts": 5_000,
    "train_period": 8,
    "target_period": 1_000,
    "discount": 0.99,
    "epsilon_final": 0.05,
    "epsilon_decay_steps": 50_000,
}
QUICK = {"env_steps": 8_000, "measure_from": 2_000, "learning_starts": 1_000}
CAPACITIES = [10_000, 100_000]  # of the replay, in transitions
WHO = ["ours", "rejax", "purejaxrl"]


def run_suite(s: dict, seed: int) -> dict:
    """Train with `run.py`; the steady rate from `measure_from` on, and the mean greedy return."""
    never = f"{10 * s['env_steps']}"
    with tempfile.TemporaryDirectory() as folder:
        options = [
            "--exp=dqn",
            f"--env=jax/{s['env']}-v1",
            f"--env-steps={s['env_steps']}",
            f"--num-envs={s['num_envs']}",
            f"--hidden-sizes={s['hidden']}",
            f"--learning-rate={s['learning_rate']}",
            f"--learning-rate-end={s['learning_rate']}",
            f"--batch-size={s['batch_size']}",
            f"--replay-capacity={s['replay_capacity']}",
            f"--learning-starts={s['learning_starts']}",
            f"--train-period={s['train_period']}",
            f"--target-period={s['target_period']}",
            f"--discount={s['discount']}",
            f"--epsilon-final={s['epsilon_final']}",
            f"--epsilon-decay-steps={s['epsilon_decay_steps']}",
            "--no-double",
            "--n-step=1",
            "--target-tau=1",
            "--eval-episodes=128",
            f"--run.log-period={s['measure_from'] // 2}",
            f"--run.eval-period={never}",
            f"--run.checkpoint-period={never}",
            f"--run.seed={seed}",
            f"--run.dir={folder}/run",
        ]
        call([sys.executable, "run.py", *options])
        result = json.loads((Path(folder) / "run" / "result.json").read_text())
        lines = (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if "train/loss" in row]
    return {
        "steps_per_second": rate_since(rows, s, num_seeds=1),
        "return": result["eval/return_mean"],
    }


def table(runs: dict[str, list[dict]]) -> str:
    """Return the markdown table; ours stands as a multiple of the fastest peer."""
    rows = ["| replay | who | env steps/s | min | max | mean return | ratio to the faster peer |"]
    rows.append("|---" * 7 + "|")
    rates = {name: summary([r["steps_per_second"] for r in done]) for name, done in runs.items()}
    for name, done in runs.items():
        who, capacity = name.split("-")
        peers = [
            rates[p]["median"] for p in rates if p.endswith(f"-{capacity}") and "ours" not in p
        ]
        ratio = ""
        if who == "ours" and peers:
            ratio = f"{rates[name]['median'] / max(peers):.2f}"
        returned = sum(r["return"] for r in done) / len(done)
        cells = [f"{int(capacity):,}", who]
        cells += [f"{rates[name][which]:,.0f}" for which in ("median", "min", "max")]
        rows.append(f"| {' | '.join(cells)} | {returned:.1f} | {ratio} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3, help="runs of each; the median counts")
    parser.add_argument("--quick", action="store_true", help="a check that it runs")
    parser.add_argument("--purejaxrl", type=Path, help="its dqn.py, from its repository")
    parser.add_argument("--out", type=Path, help="write everything measured to this JSON file")
    parser.add_argument("--peers-venv", type=Path, help="the peers' environment")
    parser.add_argument("--peers-python", default=sys.executable, help="the Python that makes it")
    args = parser.parse_args()

    folder = args.peers_venv and args.peers_venv.resolve()
    python = peers_python("gymnax", folder, args.peers_python)
    machine = machine_facts()
    machine["ours"] = versions(sys.executable, ["jax", "dm-haiku"])
    machine["peers"] = versions(python, ["rejax", "gymnax", "flashbax", "jax", "flax"])
    settings = SETTINGS | (QUICK if args.quick else {})
    who = [name for name in WHO if name != "purejaxrl" or args.purejaxrl]
    runs: dict[str, list[dict]] = {f"{name}-{rows}": [] for rows in CAPACITIES for name in who}
    for repeat in range(1 if args.quick else args.repeats):
        for case, done in runs.items():
            name, capacity = case.split("-")
            s = settings | {"replay_capacity": int(capacity)}
            if name == "ours":
                result = run_suite(s, seed=repeat)
            else:
                command = [python, HERE / "peers" / "minatar_dqn.py", f"--library={name}"]
                command += [f"--seed={repeat}", f"--settings={json.dumps(s)}"]
                if name == "purejaxrl":
                    command.append(f"--source={args.purejaxrl.resolve()}")
                result = json.loads(call(command))
            done.append(result)
            rate = f"{result['steps_per_second']:,.0f} env steps/s, return {result['return']:.1f}"
            print(f"{repeat + 1} {case}: {rate}", file=sys.stderr, flush=True)
    machine["load_average_after"] = os.getloadavg()[0]
    facts = "\n".join(f"- {name}: {fact}" for name, fact in machine.items())
    print(facts, table(runs), sep="\n\n")
    if args.out:
        report = {"machine": machine, "settings": settings, "quick": args.quick, "runs": runs}
        args.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
