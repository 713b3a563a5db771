"""Measure env steps per second of DQN on CartPole: this suite, SB3 and SBX, in one run.

    python benchmarks/dqn_speed.py --repeats=3 --out=dqn_speed.json

Every case has CleanRL's settings (SETTINGS) and is a process of its own; the cases take turns, so
that a busy minute falls on all of them. Rates are steady ones: from env step `measure_from`, when
learning has started and everything is compiled, to the end. See README.md beside this file for how
to read the tables. SB3 is Stable-Baselines3.
"""

import argparse
import itertools
import json
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from peers_env import call, machine_facts, peers_python, summary, versions

HERE = Path(__file__).resolve().parent

# CleanRL's dqn.py, but for the loss: Huber, as both peers have it. Periods in env steps.
SETTINGS = {
    "env": "CartPole-v1",
    "env_steps": 50_000,
    "measure_from": 15_000,
    "learning_rate": 2.5e-4,
    "batch_size": 128,
    "replay_capacity": 10_000,
    "learning_starts": 10_000,
    "train_period": 10,
    "target_period": 500,
    "discount": 0.99,
    "epsilon_final": 0.05,
    "epsilon_decay_steps": 25_000,
    "hidden_sizes": [120, 84],
}
# The JAX-native environments need more steps to be timed well; the peers would need minutes.
JAX_SETTINGS = SETTINGS | {
    "env": "jax/CartPole-v1",
    "env_steps": 500_000,
    "epsilon_decay_steps": 250_000,
}
# --quick: everything runs, and the figures mean nothing.
QUICK_CASES = ["ours-1", "sb3-1-thread1", "sbx-1", "ours-jax-10"]
QUICK = {
    "env_steps": 3_000,
    "measure_from": 1_500,
    "learning_starts": 1_000,
    "epsilon_decay_steps": 1_500,
}


def suite_options(settings: dict) -> list[str]:
    """Return the options of `python run.py` that make it train DQN with `settings`."""
    return [
        "--exp=dqn",
        f"--env={settings['env']}",
        f"--env-steps={settings['env_steps']}",
        f"--learning-rate={settings['learning_rate']}",
        f"--batch-size={settings['batch_size']}",
        f"--replay-capacity={settings['replay_capacity']}",
        f"--learning-starts={settings['learning_starts']}",
        f"--train-period={settings['train_period']}",
        f"--target-period={settings['target_period']}",
        f"--discount={settings['discount']}",
        f"--epsilon-final={settings['epsilon_final']}",
        f"--epsilon-decay-steps={settings['epsilon_decay_steps']}",
        "--hidden-sizes",
        *map(str, settings["hidden_sizes"]),
        "--no-double",
        "--huber",
        "--n-step=1",
        "--target-tau=1",
        # The peers neither evaluate nor save: leave only what follows the last step, which no rate
        # contains.
        f"--run.eval-period={10 * settings['env_steps']}",
        f"--run.checkpoint-period={10 * settings['env_steps']}",
    ]


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes:
      name: how `--only` and the JSON file call it.
      who: "ours", or the peer library: "sb3" or "sbx".
      num_envs: environments stepped together, for each seed.
      settings: what to train with.
      torch_threads: for a peer, the threads of torch; None leaves its default.
      num_seeds: for ours, the seeds trained at once; the rate is the sum over them.
      devices: for ours, the (virtual) devices used.
      behind: for ours, whether it acts by the parameters of one update before.
    """

    name: str
    who: str
    num_envs: int
    settings: dict
    torch_threads: int | None = None
    num_seeds: int = 1
    devices: int = 1
    behind: bool = False


# SB3 comes twice: torch's default, a thread per core, helps or hurts by the machine. The better one
# counts.
CASES = [
    Case("ours-1", "ours", 1, SETTINGS),
    Case("sb3-1", "sb3", 1, SETTINGS),
    Case("sb3-1-thread1", "sb3", 1, SETTINGS, torch_threads=1),
    Case("sbx-1", "sbx", 1, SETTINGS),
    Case("ours-1-behind", "ours", 1, SETTINGS, behind=True),
    Case("ours-8", "ours", 8, SETTINGS),
    Case("ours-8-behind", "ours", 8, SETTINGS, behind=True),
    Case("sb3-8", "sb3", 8, SETTINGS),
    Case("sb3-8-thread1", "sb3", 8, SETTINGS, torch_threads=1),
    Case("sbx-8", "sbx", 8, SETTINGS),
    Case("ours-jax-10", "ours", 10, JAX_SETTINGS),
    Case("ours-jax-10-seeds8", "ours", 10, JAX_SETTINGS, num_seeds=8, devices=2),
]


def run_suite(case: Case, settings: dict, seed: int) -> dict:
    """Train with `run.py` and return its result.json, `steps_per_second` from `measure_from` on."""
    environment = {}
    if case.devices > 1:
        flags = f"--xla_force_host_platform_device_count={case.devices}"
        environment["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()
    with tempfile.TemporaryDirectory() as folder:
        options = [
            *suite_options(settings),
            f"--num-envs={case.num_envs}",
            *(["--behind"] if case.behind else []),
            f"--run.seed={seed}",
            f"--run.num-seeds={case.num_seeds}",
            f"--run.devices={case.devices}",
            f"--run.dir={folder}/run",
        ]
        call([sys.executable, "run.py", *options], **environment)
        written = Path(folder) / "run"
        result = json.loads((written / "result.json").read_text())
        lines = (written / "metrics.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if "train/loss" in row]
    whole_run = result["steps_per_second"]
    return result | {
        "whole_run": whole_run,
        "steps_per_second": rate_since(rows, settings, case.num_seeds),
    }


def rate_since(rows: list[dict], settings: dict, num_seeds: int) -> float:
    """Return the env steps per second from `measure_from` to the last row, over all seeds together.

    Args:
      rows: training rows of metrics.jsonl. `time/steps_per_second` averages from the start of
        training, with compilation, evaluation and saving left out, to the row's `step`.
      settings: `measure_from`, in env steps.
      num_seeds: seeds trained at once; `time/steps_per_second` sums over them, `step` does not.
    """
    first = next(row for row in rows if row["step"] >= settings["measure_from"])
    last = rows[-1]

    def seconds(row: dict) -> float:
        return row["step"] * num_seeds / row["time/steps_per_second"]

    return (last["step"] - first["step"]) * num_seeds / (seconds(last) - seconds(first))


def run_peer(case: Case, settings: dict, seed: int, python: Path) -> dict:
    """Train with a peer, check that it made the updates due; return what peers/dqn.py prints."""
    options = [f"--library={case.who}", f"--num-envs={case.num_envs}", f"--seed={seed}"]
    if case.torch_threads is not None:
        options.append(f"--torch-threads={case.torch_threads}")
    script = HERE / "peers" / "dqn.py"
    result = json.loads(call([python, script, *options, f"--settings={json.dumps(settings)}"]))
    due = (result["env_steps"] - settings["learning_starts"]) / settings["train_period"]
    if abs(result["updates"] - due) > 0.01 * due + 10:
        raise SystemExit(f"{case.name} made {result['updates']} updates; {due:.0f} were due.")
    return result


def flops_per_env_step(settings: dict, inputs: int = 4, actions: int = 2) -> float:
    """Count the floating-point operations of DQN per env step, in matrix products alone.

    A forward pass is 2 per weight and example. An update makes four passes' worth over the batch:
    the target's forward, and the online network's forward and backward (twice a forward). Acting is
    one pass.

    Args:
      settings: the network's `hidden_sizes`, `batch_size` and `train_period`.
      inputs: size of an observation.
      actions: number of actions.
    """
    sizes = [inputs, *settings["hidden_sizes"], actions]
    forward = 2 * sum(a * b for a, b in itertools.pairwise(sizes))
    return 4 * forward * settings["batch_size"] / settings["train_period"] + forward


def fastest_peer(rates: dict, num_envs: int) -> str | None:
    """Return the name of the fastest peer case with `num_envs` environments, None if none ran."""
    peers = [case for case in CASES if case.who != "ours" and case.num_envs == num_envs]
    names = [case.name for case in peers if case.name in rates]
    return max(names, key=lambda name: rates[name]["median"], default=None)


def speed_table(rates: dict) -> str:
    """Return the markdown table of env steps per second (medians).

    Ours stands as a multiple of the fastest peer.
    """
    heads = ["case", "who", "environment", "envs", "seeds", "env steps/s", "min", "max"]
    heads.append("ratio to fastest peer")
    rows = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for case in (c for c in CASES if c.name in rates):
        rate = rates[case.name]
        peer = fastest_peer(rates, case.num_envs)
        ratio = ""
        if case.who == "ours" and peer:
            ratio = f"{rate['median'] / rates[peer]['median']:.2f} x {peer}"
        cells = [case.name, case.who, case.settings["env"], str(case.num_envs), str(case.num_seeds)]
        cells += [f"{rate[which]:,.0f}" for which in ("median", "min", "max")]
        rows.append(f"| {' | '.join(cells)} | {ratio} |")
    return "\n".join(rows)


def ceiling_table(rates: dict, ceilings: dict) -> str:
    """Return the markdown table that relates the JAX-native cases to the matrix products."""
    names = list(ceilings)
    heads = [f"of {name} ({ceilings[name]['median']:.0f} GFLOP/s)" for name in names]
    rows = [f"| case | GFLOP/s | {' | '.join(heads)} |", "|---|---|" + "---|" * len(heads)]
    for case in (c for c in CASES if c.settings is JAX_SETTINGS and c.name in rates):
        gflops = rates[case.name]["median"] * flops_per_env_step(case.settings) / 1e9
        shares = [f"{gflops / ceilings[name]['median']:.0%}" for name in names]
        rows.append(f"| {case.name} | {gflops:.1f} | {' | '.join(shares)} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--repeats", type=int, default=3, help="runs of every case; the median counts"
    )
    parser.add_argument("--quick", action="store_true", help="a half-minute check that it runs")
    parser.add_argument(
        "--only", nargs="+", choices=[c.name for c in CASES], help="these cases only"
    )
    parser.add_argument("--out", type=Path, help="write everything measured to this JSON file")
    parser.add_argument(
        "--peers-venv", type=Path, default=HERE / ".peers", help="the peers' environment"
    )
    parser.add_argument("--peers-python", default=sys.executable, help="the Python that makes it")
    args = parser.parse_args()

    names = args.only or (QUICK_CASES if args.quick else [case.name for case in CASES])
    cases = [case for case in CASES if case.name in names]
    repeats = 1 if args.quick else args.repeats
    machine = machine_facts()
    machine["ours"] = versions(sys.executable, ["jax", "dm-haiku", "gymnasium"])
    python = None
    if any(case.who != "ours" for case in cases):
        python = peers_python("dqn", args.peers_venv.resolve(), args.peers_python)
        packages = ["stable-baselines3", "sbx-rl", "gymnasium", "torch", "jax"]
        machine["peers"] = versions(python, packages)

    runs: dict[str, list[dict]] = {case.name: [] for case in cases}
    cores = sorted({1, machine["cores"]})
    ceilings: dict[str, list[float]] = {f"{count} core(s)": [] for count in cores}
    for repeat in range(repeats):
        for case in cases:
            settings = case.settings | (QUICK if args.quick else {})
            if case.who == "ours":
                result = run_suite(case, settings, seed=repeat)
            else:
                result = run_peer(case, settings, seed=repeat, python=python)
            runs[case.name].append(result)
            rate = f"{result['steps_per_second']:,.0f} env steps/s"
            print(f"{repeat + 1}/{repeats} {case.name}: {rate}", file=sys.stderr, flush=True)
        for name, measured in ceilings.items():
            command = [sys.executable, HERE / "matmul.py", f"--cores={name.split()[0]}"]
            measured.append(json.loads(call(command))["gflops"])
    machine["load_average_after"] = os.getloadavg()[0]

    rates = {
        name: summary([result["steps_per_second"] for result in done])
        for name, done in runs.items()
    }
    ceiling_rates = {name: summary(measured) for name, measured in ceilings.items()}
    facts = "\n".join(f"- {name}: {fact}" for name, fact in machine.items())
    print(facts, speed_table(rates), ceiling_table(rates, ceiling_rates), sep="\n\n")
    if args.out:
        report = {
            "machine": machine,
            "settings": SETTINGS,
            "jax_settings": JAX_SETTINGS,
            "quick": args.quick,
            "env_steps_per_second": rates,
            "matrix_product_gflops": ceiling_rates,
            "runs": runs,
        }
        args.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
