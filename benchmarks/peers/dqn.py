"""Train DQN with Stable-Baselines3 or SBX; print its steady env steps per second as one JSON line.

Runs in the peers' virtual environment (see requirements.txt beside this file); `dqn_speed.py`
starts it:

    python dqn.py --library=sbx --num-envs=8 --settings='{"env": "CartPole-v1", ...}'
"""

import argparse
import json
import time
from fractions import Fraction

import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env


class Stopwatch(BaseCallback):
    """Time training from the first step at or after `measure_from` env steps to its end.

    Args:
      measure_from: env steps to leave out (the random steps before learning, and compilation).
    """

    def __init__(self, measure_from: int):
        super().__init__()
        self.measure_from = measure_from
        self.start: tuple[float, int] | None = None  # seconds, env steps
        self.steps_per_second = 0.0

    def _on_step(self) -> bool:
        if self.start is None and self.num_timesteps >= self.measure_from:
            self.start = time.perf_counter(), self.num_timesteps
        return True

    def _on_training_end(self) -> None:
        seconds, steps = self.start
        self.steps_per_second = (self.model.num_timesteps - steps) / (time.perf_counter() - seconds)


def dqn_class(library: str, hidden_sizes: list[int]):
    """Return a library's DQN class and the policy arguments for an MLP of `hidden_sizes`."""
    if library == "sb3":
        from stable_baselines3 import DQN

        return DQN, {"net_arch": hidden_sizes}  # ReLU and Adam are its defaults

    import flax.linen as nn
    import sbx.dqn.policies
    from sbx import DQN

    class QNetwork(nn.Module):
        """SBX's QNetwork, with layers of different sizes: its own repeats `net_arch[0]`."""

        n_actions: int
        n_units: int
        activation_fn: object = nn.relu

        @nn.compact
        def __call__(self, x):
            x = x.reshape((x.shape[0], -1))
            for size in hidden_sizes:
                x = self.activation_fn(nn.Dense(size)(x))
            return nn.Dense(self.n_actions)(x)

    sbx.dqn.policies.QNetwork = QNetwork
    return DQN, {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--library", choices=["sb3", "sbx"], required=True)
    parser.add_argument("--num-envs", type=int, required=True, help="environments stepped together")
    parser.add_argument(
        "--torch-threads", type=int, help="threads of torch (default: torch's own choice)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--settings", type=json.loads, required=True, help="those of dqn_speed.py, as JSON"
    )
    args = parser.parse_args()
    s = args.settings
    if args.torch_threads is not None:
        torch.set_num_threads(args.torch_threads)

    # Both libraries count train_freq in steps of the vector of environments: 1 environment and an
    # update per 10 env steps is (10, 1), 8 environments (5, 4).
    updates_per_vector_step = Fraction(args.num_envs, s["train_period"])
    dqn, policy_kwargs = dqn_class(args.library, s["hidden_sizes"])
    model = dqn(
        "MlpPolicy",
        make_vec_env(s["env"], n_envs=args.num_envs, seed=args.seed),
        learning_rate=s["learning_rate"],
        buffer_size=s["replay_capacity"],
        learning_starts=s["learning_starts"],
        batch_size=s["batch_size"],
        gamma=s["discount"],
        train_freq=updates_per_vector_step.denominator,
        gradient_steps=updates_per_vector_step.numerator,
        target_update_interval=s["target_period"],
        exploration_fraction=s["epsilon_decay_steps"] / s["env_steps"],
        exploration_final_eps=s["epsilon_final"],
        policy_kwargs=policy_kwargs,
        seed=args.seed,
        device="cpu",
    )
    stopwatch = Stopwatch(s["measure_from"])
    # No logging: it costs the peers time, and nobody reads it.
    model.learn(s["env_steps"], callback=stopwatch, log_interval=None)
    result = {
        "steps_per_second": stopwatch.steps_per_second,
        "env_steps": model.num_timesteps,
        "updates": model._n_updates,
        "torch_threads": torch.get_num_threads(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
