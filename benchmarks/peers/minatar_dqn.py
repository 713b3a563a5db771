"""Train DQN on gymnax's MinAtar with rejax or PureJaxRL; print its speed and returns as JSON.

Runs in the peers' virtual environment (requirements-gymnax.txt beside this file);
`minatar_speed.py` starts it:

    python minatar_dqn.py --library=rejax --settings='{"env": "Breakout", ...}'
    python minatar_dqn.py --library=purejaxrl --source=purejaxrl/dqn.py --settings='{...}'

Both get the network of the settings in place of their own MLP. The clock starts when the program
is compiled; neither evaluates while it runs.
"""

import argparse
import importlib.util
import json
import sys
import time
import types
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import gymnax
import jax
import jax.numpy as jnp


class Network(nn.Module):
    """MinAtar's convolution (16 of 3x3), one hidden layer, a value for each action."""

    action_dim: int
    hidden: int = 128

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(nn.Conv(16, (3, 3), padding="VALID")(x.astype(jnp.float32)))
        x = x.reshape(*x.shape[:-3], -1)
        return nn.Dense(self.action_dim)(nn.relu(nn.Dense(self.hidden)(x)))


def timed(train: Callable[[jax.Array], Any], seed: int) -> tuple[Any, float]:
    """What training makes, and its seconds once compiled."""
    key = jax.random.PRNGKey(seed)
    compiled = jax.jit(train).lower(key).compile()
    start = time.perf_counter()
    made = jax.block_until_ready(compiled(key))
    return made, time.perf_counter() - start


def rejax_dqn(s: dict, seed: int, source: str) -> tuple[float, float]:
    """Seconds of training, and the mean return of 128 greedy episodes afterwards."""
    from rejax.algos.dqn import DQN
    from rejax.networks import EpsilonGreedyPolicy

    class QNetwork(Network):
        def take(self, obs: jax.Array, action: jax.Array) -> jax.Array:
            return jnp.take_along_axis(self(obs), action[:, None], axis=1).squeeze(axis=1)

    env, params = gymnax.make(f"{s['env']}-MinAtar")
    algo = DQN.create(
        env=env,
        env_params=params,
        ddqn=False,
        num_envs=s["num_envs"],
        buffer_size=s["replay_capacity"],
        fill_buffer=s["learning_starts"],
        batch_size=s["batch_size"],
        num_epochs=1,
        total_timesteps=s["env_steps"],
        eval_freq=s["env_steps"],
        skip_initial_evaluation=True,
        learning_rate=s["learning_rate"],
        gamma=s["discount"],
        target_update_freq=s["target_period"],
        polyak=0.0,
        exploration_fraction=s["epsilon_decay_steps"] / s["env_steps"],
        eps_end=s["epsilon_final"],
        **s.get("rejax", {}),
    )
    agent = EpsilonGreedyPolicy(QNetwork)(action_dim=env.num_actions, hidden=s["hidden"])
    evaluate = algo.eval_callback
    algo = algo.replace(agent=agent, eval_callback=lambda algo, state, key: jnp.zeros(()))
    (state, _), seconds = timed(algo.train, seed)
    _, returns = jax.jit(lambda state, key: evaluate(algo, state, key))(
        state, jax.random.PRNGKey(10_000 + seed)
    )
    return seconds, float(jnp.mean(returns))


def purejaxrl_dqn(s: dict, seed: int, source: str) -> tuple[float, float]:
    """Seconds of training, and the mean return of episodes during its last tenth."""
    sys.modules["wandb"] = types.ModuleType("wandb")  # imported, and not used
    jax.tree_map = jax.tree.map  # JAX took the old name away
    spec = importlib.util.spec_from_file_location("purejaxrl_dqn", source)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.QNetwork = lambda action_dim: Network(action_dim, s["hidden"])
    module.FlattenObservationWrapper = lambda env: env
    config = {
        "NUM_ENVS": s["num_envs"],
        "BUFFER_SIZE": s["replay_capacity"],
        "BUFFER_BATCH_SIZE": s["batch_size"],
        "TOTAL_TIMESTEPS": s["env_steps"],
        "EPSILON_START": 1.0,
        "EPSILON_FINISH": s["epsilon_final"],
        "EPSILON_ANNEAL_TIME": s["epsilon_decay_steps"],
        "TARGET_UPDATE_INTERVAL": s["target_period"],
        "LR": s["learning_rate"],
        "LEARNING_STARTS": s["learning_starts"],
        "TRAINING_INTERVAL": s["train_period"],
        "LR_LINEAR_DECAY": False,
        "GAMMA": s["discount"],
        "TAU": 1.0,
        "ENV_NAME": f"{s['env']}-MinAtar",
        "SEED": seed,
        "NUM_SEEDS": 1,
    }
    made, seconds = timed(module.make_train(config), seed)
    returns = made["metrics"]["returns"]
    return seconds, float(jnp.mean(returns[-len(returns) // 10 :]))


LIBRARIES = {"rejax": rejax_dqn, "purejaxrl": purejaxrl_dqn}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--library", choices=list(LIBRARIES), required=True)
    parser.add_argument("--source", default="", help="PureJaxRL's dqn.py; it is no package")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--settings", type=json.loads, required=True, help="those of minatar_speed.py, as JSON"
    )
    args = parser.parse_args()
    seconds, final = LIBRARIES[args.library](args.settings, args.seed, args.source)
    rate = args.settings["env_steps"] / seconds
    print(json.dumps({"steps_per_second": rate, "seconds": seconds, "return": final}))


if __name__ == "__main__":
    main()
