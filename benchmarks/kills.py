"""Kills runs at random moments and resumes them: they must end like a run that nothing disturbed.

    python benchmarks/kills.py --kills=20 --seed=0 --out=kills.json

Each of five experiments is trained once undisturbed. Then it is trained again and again, killed by
SIGKILL at a moment drawn evenly over the time that the undisturbed process took, and resumed, until
it has been killed `--kills` times. Every run that gets to its end is compared with the undisturbed
one: parameters and all else that is saved (their digest), every row of metrics but for times, and
all scores, bit for bit. Exits with status 1 where one differs.
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

RUN = Path(__file__).resolve().parents[1] / "run.py"
_COMPLAINTS = ("warning", "error", "Traceback")
SHORT = ["--run.log-period=10", "--run.checkpoint-period=10"]
EXPERIMENTS = {
    "dqn, host environments": [
        *("--exp=dqn", "--num-envs=2", "--env-steps=3000", "--learning-starts=200"),
        *("--run.log-period=100", "--run.checkpoint-period=200", "--run.eval-period=1000"),
    ],
    "dqn, JAX environments": [
        *("--exp=dqn", "--env=jax/CartPole-v1", "--num-envs=4", "--env-steps=20000"),
        *("--run.log-period=400", "--run.checkpoint-period=800", "--run.eval-period=10000"),
    ],
    "barlow_twins": [
        *("--exp=barlow_twins", "--data=digits", "--network=vit_nano", "--updates=200"),
        *("--probe-images=100", "--run.eval-period=200", *SHORT),
    ],
    "mae": ["--exp=mae", "--data=digits", "--updates=100", "--run.eval-period=100", *SHORT],
    "bert": ["--exp=bert", "--network=bert_nano", "--updates=60", "--run.eval-period=60", *SHORT],
}


def command(arguments: list[str], folder: Path, resume: bool) -> list[str]:
    """The command line of a session of a run."""
    told = [arguments[0], "--run.resume"] if resume else arguments
    return [sys.executable, str(RUN), *told, f"--run.dir={folder}"]


def outcome(folder: Path) -> dict[str, Any]:
    """All of a finished run that does not depend on the clock."""
    result = json.loads((folder / "result.json").read_text())
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    scores = ("eval/", "baseline/", "digest", "data_digest", "seeds", "missing")
    return {
        "rows": [{n: v for n, v in row.items() if not n.startswith("time/")} for row in rows],
        **{name: value for name, value in result.items() if name.startswith(scores)},
    }


class Session(NamedTuple):
    """How a process ended."""

    killed: bool
    complaints: set[str]


def session(arguments: list[str], folder: Path, moment: float | None) -> Session:
    """Trains from where the folder stands, killed after so many seconds."""
    resume = (folder / "config.json").exists()
    process = subprocess.Popen(
        command(arguments, folder, resume), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        said = process.communicate(timeout=moment)[1].decode()
    except subprocess.TimeoutExpired:
        process.kill()
        said = process.communicate()[1].decode()
    killed = process.returncode == -signal.SIGKILL
    if not (killed or process.returncode == 0):
        sys.exit(f"status {process.returncode}, {said}")
    return Session(killed, {line for line in said.splitlines() if line.startswith(_COMPLAINTS)})


def kill_and_compare(arguments: list[str], kills: int, draw: random.Random) -> dict[str, Any]:
    """The figures of one experiment."""
    with tempfile.TemporaryDirectory() as place:
        expected = Path(place) / "undisturbed"
        usual = session(arguments, expected, None).complaints  # it also compiles
        again = Path(place) / "again"
        began = time.perf_counter()
        session(arguments, again, None)
        seconds = time.perf_counter() - began
        same = outcome(again) == outcome(expected)
        moments: list[float] = []
        finished = 0
        folder = Path(place) / "0"
        while len(moments) < kills or (folder / "config.json").exists():
            moment = draw.uniform(0, seconds) if len(moments) < kills else None
            ended = session(arguments, folder, moment)
            if ended.complaints - usual:
                sys.exit(f"{folder.name}: {ended.complaints}")
            if ended.killed:
                moments.append(round(moment or 0.0, 3))
                continue
            same = same and outcome(folder) == outcome(expected)
            finished += 1
            folder = Path(place) / str(finished)
    return {
        "kills": len(moments),
        "runs compared": finished + 1,
        "seconds of a run": round(seconds, 1),
        "bit for bit": same,
        "moments": moments,
    }


def main() -> int:
    """Prints a line for each experiment; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="of each experiment")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--only", nargs="*", default=list(EXPERIMENTS), help="experiments by name")
    given = parser.parse_args()
    found = {}
    for name, arguments in EXPERIMENTS.items():
        if name not in given.only:
            continue
        draw = random.Random(f"{given.seed} {name}")
        found[name] = kill_and_compare(arguments, given.kills, draw)
        told = {what: value for what, value in found[name].items() if what != "moments"}
        print(f"{name}: {told}", flush=True)
        if given.out:
            given.out.write_text(json.dumps(found, indent=2) + "\n")
    return 0 if all(one["bit for bit"] for one in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
