"""A sweep in one program beside a process per trial: the same parameters? how fast? how large?

    python benchmarks/sweep_rows.py --out=rows.json

Eight settings (step size, discount, tau: two each) of DQN on jax/CartPole-v1.

1. After 20 learning updates each row's parameters are compared with those of its solo run.
2. Both then go on to 5,000 steps; the first action that differs is told: from a last bit on which
   an argmax falls the other way, two runs see different steps.
3. Both are swept by `run.py sweep`, --pack=yes and --pack=no, with a warm compilation cache: wall
   time, and the most memory that a process took.
"""

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from missing_bits import options
from missing_bits.agents import dqn
from missing_bits.loop.config import RunConfig
from missing_bits.loop.member import Member
from missing_bits.loop.train import Result, train, train_rows

RUN = Path(__file__).resolve().parents[1] / "run.py"
ENV = "jax/CartPole-v1"
GRID = {
    "learning_rate": (1e-3, 3e-3),
    "discount": (0.95, 0.99),
    "target_tau": (0.02, 0.1),
}
STARTS = 500
LANES = 4


def settings() -> list[dict[str, float]]:
    """All combinations."""
    combinations = itertools.product(*GRID.values())
    return [dict(zip(GRID, values, strict=True)) for values in combinations]


class Seen(NamedTuple):
    """What an agent has learned, and which actions it took."""

    params: Any
    action: jax.Array  # [E, T]


class Watched(dqn.DQN):
    """The agent, which also shows its actions."""

    def __init__(self, config: dqn.Config, resources: dqn.Resources) -> None:
        super().__init__(config, resources)
        self.evaluation = self.evaluation.of(lambda seen: seen.params)

    def act(self, learned: Seen, *more: Any) -> Any:
        """As the agent acts."""
        return super().act(learned.params, *more)

    def learned(self, state: dqn.State) -> Seen:
        """Parameters and actions."""
        return Seen(state.params, state.replay.action)


def configs(env_steps: int) -> list[dqn.Config]:
    """The configurations."""
    fixed = {"env": ENV, "num_envs": LANES, "train_period": LANES, "target_period": LANES}
    fixed |= {"env_steps": env_steps, "learning_starts": STARTS, "eval_episodes": 4}
    fixed |= {"replay_capacity": 2 * LANES * env_steps}
    return [options.make(dqn.Config, **fixed, **mine) for mine in settings()]


def both(place: Path, env_steps: int) -> tuple[list[Result], list[Result]]:
    """What the rows of one program leave, and what runs of their own leave."""
    packed = place / "packed"
    members = [
        Member("dqn", config, RunConfig(), packed / f"{number}", "-", packed)
        for number, config in enumerate(configs(env_steps))
    ]
    solo = [
        train(Watched, config, RunConfig(dir=str(place / f"{number}")), name="dqn")
        for number, config in enumerate(configs(env_steps))
    ]
    return train_rows(Watched, members, packed), solo


def parameters(place: Path) -> dict[str, float]:
    """The largest differences after 20 updates that learn."""
    packed, solo = both(place, STARTS + 19 * LANES)
    differences = []
    for mine, other in zip(packed, solo, strict=True):
        moved = jax.tree.map(lambda x, y: np.abs(x - y).max(), mine.learned[0], other.learned[0])
        differences.append(max(jax.tree.leaves(moved.params)))
        assert moved.action == 0, "an action differs before the 20th update"
    return {"rows": len(differences), "largest difference": float(max(differences))}


def divergence(place: Path) -> list[int | None]:
    """For each row the environment step at which an action first differs; None if none does."""
    packed, solo = both(place, 5_000)
    found = []
    for mine, other in zip(packed, solo, strict=True):
        differ = np.flatnonzero((mine.learned[0].action != other.learned[0].action).any(axis=0))
        found.append(int(differ[0]) * LANES if differ.size else None)
    return found


def sweep(place: Path, pack: str) -> dict[str, float]:
    """Seconds of a sweep, and the most bytes that one of its processes took."""
    fixed = [f"--env={ENV}", f"--num-envs={LANES}", f"--train-period={LANES}"]
    fixed += [f"--target-period={LANES}", "--env-steps=20000", "--eval-episodes=10"]
    over = [
        f"--over={name.replace('_', '-')}={','.join(map(str, values))}"
        for name, values in GRID.items()
    ]
    program = (
        "import resource, subprocess, sys; "
        "status = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode; "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(status)"
    )
    told = [sys.executable, str(RUN), "sweep", "--exp=dqn", *fixed, *over]
    seconds = 0.0
    for i in range(2):  # the first compiles
        began = time.perf_counter()
        given = [*told, f"--pack={pack}", f"--dir={place / f'{pack}{i}'}"]
        asked = subprocess.run(
            [sys.executable, "-c", program, *given], stdout=subprocess.PIPE, text=True, check=True
        )
        seconds = time.perf_counter() - began
    return {"seconds": round(seconds, 1), "MiB": int(asked.stdout) >> 10}


def main() -> None:
    """Prints what was found, and writes it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="JSON file to write")
    given = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        found["after 20 updates"] = parameters(Path(place) / "parameters")
        found["first action that differs"] = divergence(Path(place) / "divergence")
        found["one program"] = sweep(Path(place), "yes")
        found["a process per trial"] = sweep(Path(place), "no")
    for name, value in found.items():
        print(f"{name}: {value}")
    if given.out:
        given.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
