"""DQN: deep Q-networks (Mnih et al. 2015), with the double estimator (van Hasselt et al. 2016) as an option.

    python run.py --exp=dqn

Q(s, a) is regressed on r_t + discount_t max_a Q'(s_t, a), where Q' is a slowly updated copy of the network
(Mnih et al. 2015, algorithm 1). The double estimator lets the online network choose the action that the target values
(van Hasselt et al. 2016, equation 4). Deviations from the paper, all but the last of them settings: Adam for RMSProp,
n-step returns, soft target updates, a linear learning-rate decay; bounded features are scaled to [-1, 1].
On two cores the default run takes under a minute and ends above 475, of 500 (docs/results.md).
Shapes: E environments, V vector steps between two updates, B transitions in a batch, A actions.
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
import rlax

from missing_bits import collectives
from missing_bits.envs import environments
from missing_bits.envs.steps import Steps
from missing_bits.errors import require_between, require_positive
from missing_bits.eval import episodes
from missing_bits.nets import q_networks
from missing_bits.pictures import episodes as episode_pictures
from missing_bits.replay import uniform


@dataclass(frozen=True)
class Config:
    """DQN. Periods and budgets count environment steps, over all environments together."""

    env: str = "CartPole-v1"
    """Gymnasium id with discrete actions; phys2d/CartPole-v1 runs inside the jitted update."""
    env_steps: int = 50_000
    """Budget, in environment steps."""
    num_envs: int = 1
    """Environments stepped together."""
    vectorization: str = "serial"
    """How host environments are stepped: serial, async (a process each) or native (their own vector class)."""
    hidden_sizes: tuple[int, ...] = (120, 84)
    """Widths of the hidden layers, in units; for images, of the head after the convolutions."""
    learning_rate: float = 2e-3
    """Adam's step size at the first update."""
    learning_rate_end: float = 0.0
    """Adam's step size at the end of the budget, reached linearly."""
    max_gradient_norm: float = 10.0
    """Global norm to which gradients are clipped."""
    discount: float = 0.99
    """Discount per environment step, 0 to 1."""
    n_step: int = 5
    """Rewards summed before bootstrapping, in environment steps."""
    double: bool = True
    """Choose the bootstrap action with the online network (double DQN)."""
    huber: bool = False
    """Huber loss with threshold 1; otherwise the squared loss."""
    batch_size: int = 128
    """Transitions per update, over all devices."""
    replay_capacity: int = 50_000
    """Rows of replay, over all environments: one for each transition and one for each episode's end."""
    learning_starts: int = 500
    """Environment steps before the first update."""
    train_period: int = 2
    """Environment steps per update."""
    target_period: int = 2
    """Environment steps between target updates."""
    target_tau: float = 0.02
    """Share of the online parameters that a target update takes, above 0 to 1 (1 copies them)."""
    epsilon_final: float = 0.05
    """Probability of a random action after the decay, from 1 at the start."""
    epsilon_decay_steps: int = 10_000
    """Environment steps over which epsilon falls, linearly."""
    eval_episodes: int = 100
    """Episodes of a greedy evaluation, each in an environment of its own."""


HARD_TARGET = {
    "target_period": 600,
    "target_tau": 1.0,
    "n_step": 1,
    "huber": True,
    "double": False,
    "discount": 0.98,
}
SWIFT = {
    "learning_rate": 4e-3,
    "learning_rate_end": 1e-3,
    "hidden_sizes": (256, 256),
    "replay_capacity": 10_000,
}
PRESETS: dict[str, dict[str, Any]] = {
    "Acrobot-v1": {"env_steps": 100_000, "replay_capacity": 100_000},
    "MountainCar-v0": {"env_steps": 150_000, "epsilon_decay_steps": 24_000, **HARD_TARGET, **SWIFT},
}


class State(NamedTuple):
    """Everything a run knows; the replay and the environments are this device's share."""

    params: Any
    target_params: Any
    opt_state: optax.OptState
    replay: uniform.Replay
    envs: Any
    updates: jax.Array  # int32: calls of `step` so far


class DQN:
    """The agent, as functions on `State`."""

    unit, headline, evaluations = "env_steps", "eval/return_mean", 10
    split_over_devices = ("num_envs", "batch_size")

    def __init__(self, config: Config) -> None:
        check(config)
        self.config, self.budget, self.unit_per_update = (
            config,
            config.env_steps,
            config.train_period,
        )
        self.envs = environments.find(
            config.env, config.num_envs, config.train_period, config.vectorization
        )
        self.source = self.envs.source
        self.observations, num_actions = self.envs.observation_space, self.envs.num_actions
        self.small = len(self.observations.shape) == 1
        self.network = q_networks.for_observations(
            self.observations, config.hidden_sizes, num_actions
        )
        updates = 1 + (config.env_steps - config.learning_starts) // config.train_period
        learning_rate = optax.linear_schedule(
            config.learning_rate, config.learning_rate_end, updates
        )
        adam = optax.chain(
            optax.clip_by_global_norm(config.max_gradient_norm), optax.adam(learning_rate, eps=1e-5)
        )
        self.optimizer = optax.flatten(
            adam
        )  # one long vector: many small leaves cost more than their arithmetic
        self.greedy = jax.jit(lambda params, s: jnp.argmax(self.network.apply(params, s), axis=-1))

    def init(self, key: jax.Array) -> State:
        """The state before the first step."""
        config, (params_key, envs_key) = self.config, jax.random.split(key)
        shape, dtype = self.observations.shape, environments.stored_dtype(self.observations.dtype)
        params = self.network.init(params_key, jnp.zeros((1, *shape), dtype))
        lanes, target_params = config.num_envs // collectives.size(), jax.tree.map(jnp.copy, params)
        replay = uniform.init(
            lanes, lanes * -(-config.replay_capacity // config.num_envs), shape, dtype
        )
        return State(
            params,
            target_params,
            self.optimizer.init(params),
            replay,
            self.envs.init(envs_key),
            jnp.int32(0),
        )

    def epsilon(self, env_steps: jax.Array) -> jax.Array:
        """The probability of a random action after `env_steps` environment steps."""
        final = self.config.epsilon_final
        return jnp.maximum(final, 1 - (1 - final) * env_steps / self.config.epsilon_decay_steps)

    def act(
        self, learned: Any, observation: jax.Array, env_steps: jax.Array, key: jax.Array
    ) -> jax.Array:
        """Epsilon-greedy actions [E] for observations [E, ...]; exploration is drawn for each environment."""
        bits = collectives.shard(
            jax.random.bits(key, (observation.shape[0] * collectives.size(), 2))
        )  # [E, 2]
        explore = bits[:, 0].astype(jnp.float32) * 2**-32 < self.epsilon(env_steps)
        random_action = (bits[:, 1] % self.envs.num_actions).astype(jnp.int32)
        return jnp.where(explore, random_action, self.greedy(learned, observation))

    def loss(
        self, params: Any, target_params: Any, batch: uniform.Transitions
    ) -> tuple[jax.Array, jax.Array]:
        """The mean loss over a batch, and the mean value of the actions taken."""
        q_tm1 = self.network.apply(params, batch.s_tm1)  # [B, A]
        target_q_t = self.network.apply(target_params, batch.s_t)  # [B, A]
        selector = self.network.apply(params, batch.s_t) if self.config.double else target_q_t
        chex.assert_equal_shape([q_tm1, target_q_t, selector])
        td_error = jax.vmap(rlax.double_q_learning)(
            q_tm1, batch.a_tm1, batch.r_t, batch.discount_t, target_q_t, selector
        )  # [B]; with the target as its own selector this is plain Q-learning
        loss = rlax.huber_loss(td_error) if self.config.huber else rlax.l2_loss(td_error)
        return jnp.mean(loss), jnp.mean(rlax.batched_index(q_tm1, batch.a_tm1))

    def step(
        self, state: State, batch: Steps | None, key: jax.Array
    ) -> tuple[State, dict[str, jax.Array]]:
        """Takes in the steps that were due, makes one update, and moves the target when its period has passed."""
        config, (act_key, sample_key) = self.config, jax.random.split(key)
        envs, steps = self.envs.collect(
            state.envs,
            batch,
            lambda s, env_steps, k: self.act(state.params, s, env_steps, k),
            act_key,
        )
        replay = uniform.insert(state.replay, steps)
        transitions = uniform.sample(
            replay, sample_key, config.batch_size, config.n_step, config.discount
        )
        env_steps = (state.updates + 1) * config.train_period

        def learn(
            params: Any, opt_state: optax.OptState
        ) -> tuple[Any, optax.OptState, tuple[jax.Array, ...]]:
            (loss, value), grads = jax.value_and_grad(self.loss, has_aux=True)(
                params, state.target_params, transitions
            )
            loss, value, grads = collectives.mean((loss, value, grads))
            updates, opt_state = self.optimizer.update(grads, opt_state, params)
            return (
                optax.apply_updates(params, updates),
                opt_state,
                (loss, value, optax.tree.norm(grads)),
            )

        def wait(
            params: Any, opt_state: optax.OptState
        ) -> tuple[Any, optax.OptState, tuple[jax.Array, ...]]:
            return params, opt_state, (jnp.float32(0),) * 3

        learning = env_steps >= config.learning_starts
        params, opt_state, (loss, value, norm) = jax.lax.cond(
            learning, learn, wait, state.params, state.opt_state
        )
        due = (
            env_steps // config.target_period
            > state.updates * config.train_period // config.target_period
        )
        target_params = optax.incremental_update(
            params, state.target_params, jnp.where(due, config.target_tau, 0.0)
        )
        metrics = {"train/loss": loss, "train/q_value": value, "train/gradient_norm": norm}
        metrics |= {"train/epsilon": self.epsilon(env_steps), **self.envs.metrics(envs)}
        return State(params, target_params, opt_state, replay, envs, state.updates + 1), metrics

    def learned(self, state: State) -> Any:
        """The online parameters."""
        return state.params

    def evaluate(self, learned: Any, key: jax.Array) -> dict[str, float]:
        """Greedy returns in environments of their own."""
        return episodes.summary(
            self.envs.returns(self.greedy, learned, self.config.eval_episodes, key)
        )

    def pictures(self, learned: Any, seed: int, folder: Path) -> None:
        """A GIF of one greedy episode."""
        episode_pictures.gif(
            *environments.record(self.config.env, self.greedy, learned, seed),
            folder / "episode.gif",
        )


def check(config: Config) -> None:
    """Raises `UserError` for settings that cannot run."""
    free = (
        "env",
        "vectorization",
        "double",
        "huber",
        "learning_rate_end",
        "discount",
        "epsilon_final",
    )
    require_positive(config, *(field.name for field in fields(config) if field.name not in free))
    require_between(config, 0, 1, "discount", "target_tau", "epsilon_final")
    require_between(config, 0, 2**31 - 1, "env_steps")
    require_between(config, 1, config.replay_capacity, "batch_size")
    lanes, rows = config.num_envs, -(-config.train_period // config.num_envs)
    require_between(
        config, lanes * config.n_step + config.train_period, config.env_steps, "learning_starts"
    )
    require_between(
        config, lanes * (2 * config.n_step + 4 * rows + 2), 2**31 - 1, "replay_capacity"
    )
