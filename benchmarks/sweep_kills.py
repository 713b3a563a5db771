"""Kills sweeps at random moments and starts them again: their tables must be the undisturbed one.

    python benchmarks/sweep_kills.py --kills=5 --seed=0 --out=sweeps.json

3 step sizes x 2 n-steps x 3 seeds of DQN on jax/CartPole-v1, as a grid and as a random search of
six settings. Each is swept once undisturbed; once killed by SIGKILL `--kills` times, at moments
drawn over the time that the undisturbed one took, every second time without its trials, which then
go on as orphans; and once by two processes at the same time. All that does not depend on the clock
is compared bit for bit: settings, every row of metrics, scores and the digest of what is saved. No
trial may be trained to its end twice. Exits with status 1 where anything differs.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RUN = Path(__file__).resolve().parents[1] / "run.py"
SHORT = [
    *("--env=jax/CartPole-v1", "--num-envs=4", "--env-steps=4000", "--learning-starts=200"),
    *("--eval-episodes=10", "--run.checkpoint-period=400"),
]
SWEEPS = {
    "grid": ["--over", "learning-rate=1e-3,3e-3,1e-2", "--over", "n-step=1,3"],
    "random": [
        *("--over", "learning-rate=1e-3..1e-2:log", "--over", "n-step=1..3"),
        *("--sampler=random", "--trials=6"),
    ],
}


def start(over: list[str], folder: Path) -> subprocess.Popen:
    """A process that sweeps."""
    fixed = ["--exp=dqn", *SHORT, "--seeds=3", "--max-parallel=1", f"--dir={folder}"]
    return subprocess.Popen(
        [sys.executable, str(RUN), "sweep", *fixed, *over],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "NPROC": "1"},
    )


def wait(process: subprocess.Popen, seconds: float | None = None) -> bool:
    """Whether a sweep came to its end in time; stops the program where it complained."""
    try:
        said = process.communicate(timeout=seconds)[1].decode()
    except subprocess.TimeoutExpired:
        return False
    if process.returncode:
        sys.exit(f"status {process.returncode}, {said}")
    return True


def trials_of(process: subprocess.Popen) -> list[int]:
    """The processes that a sweep has begun."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(number) for number in children.read_text().split()]


def kill(process: subprocess.Popen, with_trials: bool) -> None:
    """Ends a sweep at once, and its trials too or not."""
    for trial in trials_of(process) if with_trials else []:
        os.kill(trial, signal.SIGKILL)
    process.kill()
    process.communicate()


def table(folder: Path) -> dict[str, Any]:
    """All of a sweep that does not depend on the clock."""
    found = {}
    for path in sorted((folder / "trials").iterdir()):
        result = json.loads((path / "result.json").read_text())
        rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        kept = ("eval/", "baseline/", "digest", "seeds", "missing")
        found[path.name] = {
            "settings": json.loads((path / "trial.json").read_text())["settings"],
            "rows": [{n: v for n, v in row.items() if not n.startswith("time/")} for row in rows],
            **{name: value for name, value in result.items() if name.startswith(kept)},
        }
    return found


def twice(folder: Path) -> list[str]:
    """Trials that were trained to their end more than once."""
    logs = sorted((folder / "logs").iterdir())
    return [log.stem for log in logs if log.read_text().count(" after 4,000 env steps: ") > 1]


def compare(over: list[str], kills: int, draw: random.Random) -> dict[str, Any]:
    """The figures of one sweep."""
    with tempfile.TemporaryDirectory() as place:
        wait(start(over, Path(place) / "compiles"))
        began = time.perf_counter()
        wait(start(over, Path(place) / "undisturbed"))
        seconds = time.perf_counter() - began
        expected = table(Path(place) / "undisturbed")
        same = table(Path(place) / "compiles") == expected

        killed = Path(place) / "killed"
        moments: list[float] = []
        while len(moments) < kills:
            process = start(over, killed)
            moment = draw.uniform(0, seconds / 2)
            if wait(process, moment):
                break  # it was done before
            kill(process, with_trials=len(moments) % 2 == 0)
            moments.append(round(moment, 1))
        wait(start(over, killed))

        both = Path(place) / "both"
        processes = [start(over, both) for _ in range(2)]
        for process in processes:
            wait(process)
        return {
            "trials": len(expected),
            "seconds": round(seconds, 1),
            "kills": len(moments),
            "moments": moments,
            "undisturbed twice the same": same,
            "killed the same": table(killed) == expected,
            "two processes the same": table(both) == expected,
            "trained twice": twice(killed) + twice(both),
        }


def main() -> int:
    """Prints a line for each sweep; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=5, help="of each sweep")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    given = parser.parse_args()
    found = {}
    for name, over in SWEEPS.items():
        found[name] = compare(over, given.kills, random.Random(f"{given.seed} {name}"))
        print(f"{name}: {found[name]}", flush=True)
        if given.out:
            given.out.write_text(json.dumps(found, indent=2) + "\n")
    good = all(
        one["undisturbed twice the same"]
        and one["killed the same"]
        and one["two processes the same"]
        and not one["trained twice"]
        for one in found.values()
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
