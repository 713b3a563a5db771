"""DQN: deep Q-networks, with the double estimator as an option.

Mnih et al. 2015; van Hasselt et al. 2016. On two cores the default run takes under a minute and
ends above 475, of 500 (docs/results/).

    python run.py --exp=dqn

Q(s, a) is regressed on r_t + discount_t max_a Q'(s_t, a), where Q' is a slowly updated copy of the
network (Mnih et al. 2015, algorithm 1). The double estimator lets the online network choose the
action that the target values (van Hasselt et al. 2016, equation 4). Deviations from the paper, all
but the last of them settings: Adam for RMSProp, n-step returns, soft target updates, a linear
learning-rate decay; bounded features are scaled to [-1, 1].
Shapes: E environments (on one device), V vector steps between two updates, B transitions in a
batch, A actions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import chex
import haiku as hk
import jax
import jax.numpy as jnp
import optax
import rlax

from missing_bits import collectives, metrics, optimizers
from missing_bits.agents import exploration
from missing_bits.envs import environments
from missing_bits.envs.environments import Environments, Envs
from missing_bits.envs.steps import Acted, Player, Steps
from missing_bits.errors import require, require_between, require_positive
from missing_bits.eval import episodes
from missing_bits.eval.evaluation import Evaluation
from missing_bits.metrics import Metrics
from missing_bits.nets import q_networks
from missing_bits.numeric import ceil_div
from missing_bits.options import Flat, row
from missing_bits.plan import Plan
from missing_bits.replay import uniform


@dataclass(frozen=True)
class Config:
    """DQN. Periods and budgets count environment steps, over all environments together."""

    envs: Flat[Envs] = Envs()
    env_steps: int = 50_000
    """Budget, in environment steps."""
    hidden_sizes: tuple[int, ...] = (120, 84)
    """Widths of the hidden layers, in units; for images, of the head after the convolutions."""
    learning_rate: float = row(2e-3)
    """Adam's step size at the first update."""
    learning_rate_end: float = row(0.0)
    """Adam's step size at the end of the budget, reached linearly."""
    max_gradient_norm: float = row(10.0)
    """Global norm to which gradients are clipped."""
    discount: float = row(0.99)
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
    """Rows of replay, over all environments: one for each transition and each episode's end."""
    learning_starts: int = 500
    """Environment steps before the first update."""
    train_period: int = 2
    """Environment steps per update."""
    target_period: int = 2
    """Environment steps between target updates."""
    target_tau: float = row(0.02)
    """Share of the online parameters that a target update takes, above 0 to 1 (1 copies them)."""
    epsilon_final: float = row(0.05)
    """Probability of a random action after the decay, from 1 at the start."""
    epsilon_decay_steps: int = 10_000
    """Environment steps over which epsilon falls, linearly."""


PRESETS: dict[str, dict[str, Any]] = {
    "Acrobot-v1": {"env_steps": 100_000, "replay_capacity": 100_000},
    "MountainCar-v0": {
        "env_steps": 150_000,
        "hidden_sizes": (256, 256),
        "learning_rate": 4e-3,
        "learning_rate_end": 1e-3,
        "discount": 0.98,
        "n_step": 1,
        "double": False,
        "huber": True,
        "replay_capacity": 10_000,
        "target_period": 600,
        "target_tau": 1.0,
        "epsilon_decay_steps": 24_000,
    },
}
TINY = {
    "env_steps": 72,
    "num_envs": 4,
    "hidden_sizes": (16, 16),
    "batch_size": 16,
    "replay_capacity": 400,
    "learning_starts": 30,
    "train_period": 6,
    "target_period": 12,
    "n_step": 3,
    "eval_episodes": 2,
}


class State(NamedTuple):
    """Everything a run knows; the replay is this device's share."""

    params: Any
    target_params: Any
    opt_state: optax.OptState
    replay: uniform.Replay
    updates: jax.Array  # int32: calls of `step` so far


class Resources(NamedTuple):
    """What rows share."""

    envs: Environments
    network: hk.Transformed
    evaluation: Evaluation  # of parameters


class DQN:
    """The agent, as functions on `State`."""

    subject = "env"

    @staticmethod
    def check(config: Config) -> None:
        """Raises `UserError` for settings that cannot run."""
        free = ("envs", "double", "huber", "learning_rate_end", "discount", "epsilon_final")
        positive = [field.name for field in fields(config) if field.name not in free]
        require_positive(config, *positive)
        require_between(config, 0, 1, "discount", "target_tau", "epsilon_final")
        require_between(config, 0, float("inf"), "learning_rate_end")
        require_between(config, 0, 2**31 - 1, "env_steps")
        require_between(config, 1, config.replay_capacity, "batch_size")
        lanes = config.envs.num_envs
        rows = ceil_div(config.train_period, lanes)
        first = lanes * config.n_step + config.train_period
        require(
            first <= config.learning_starts <= config.env_steps,
            f"--learning-starts is {config.learning_starts}; it must be at least {first}, and at "
            f"most --env-steps={config.env_steps}.",
        )
        least = lanes * (2 * config.n_step + 4 * rows + 2)
        require_between(config, least, 2**31 - 1, "replay_capacity")

    @staticmethod
    def resources(config: Config) -> Resources:
        """Environments, the network, and greedy episodes."""
        envs = config.envs.find(config.train_period)
        network = q_networks.for_observations(
            envs.observation_space, config.hidden_sizes, envs.num_actions
        )

        @jax.jit
        def greedy(params: Any, memory: Any, s: jax.Array, reset: jax.Array) -> tuple[Any, Any]:
            return jnp.argmax(network.apply(params, s), axis=-1), memory

        player = Player(lambda num_envs: (), greedy)
        evaluation = episodes.evaluation(envs, player, config.envs.eval_episodes)
        return Resources(envs, network, evaluation)

    def __init__(self, config: Config, resources: Resources) -> None:
        self.config = config
        self.envs = resources.envs
        self.network = resources.network
        self.evaluation = resources.evaluation
        sees_vectors = len(self.envs.observation_space.shape) == 1
        self.plan = Plan(
            config.env_steps,
            unit="env_steps",
            per_update=config.train_period,
            evaluations=10,
            early=sees_vectors,
            shared=("num_envs", "batch_size"),
            small=sees_vectors,
            shown=("train/episode_return", "train/loss", "train/epsilon"),
            owned=("replay",),
        )
        updates = 1 + (config.env_steps - config.learning_starts) // config.train_period
        step_size = optax.linear_schedule(config.learning_rate, config.learning_rate_end, updates)
        clip = optax.clip_by_global_norm(config.max_gradient_norm)
        # As one long vector: many small leaves cost more than their arithmetic.
        self.optimizer = optax.flatten(optax.chain(clip, optax.adam(step_size, eps=1e-5)))

    def source(self, seeds: Sequence[int]) -> Any:
        """What makes the steps that updates learn from."""
        space = self.envs.observation_space
        dtype = environments.stored_dtype(space.dtype)
        uniform.tell_size(len(seeds), self.config.replay_capacity, space.shape, dtype)
        return self.envs.source(seeds)

    def init(self, key: jax.Array) -> State:
        """The state before the first step."""
        space = self.envs.observation_space
        dtype = environments.stored_dtype(space.dtype)
        params = self.network.init(key, jnp.zeros((1, *space.shape), dtype))
        num_envs = self.config.envs.num_envs
        lanes = num_envs // collectives.size()
        capacity = lanes * ceil_div(self.config.replay_capacity, num_envs)
        return State(
            params=params,
            target_params=jax.tree.map(jnp.copy, params),
            opt_state=self.optimizer.init(params),
            replay=uniform.init(lanes, capacity, space.shape, dtype),
            updates=jnp.int32(0),
        )

    def epsilon(self, env_steps: jax.Array) -> jax.Array:
        """The probability of a random action after `env_steps` environment steps."""
        config = self.config
        return exploration.linear_decay(env_steps, config.epsilon_decay_steps, config.epsilon_final)

    def memory(self, envs: int) -> tuple[()]:
        """Nothing: the agent acts on what it sees."""
        return ()

    def act(
        self,
        learned: Any,
        memory: tuple[()],
        observation: jax.Array,
        reset: jax.Array,
        env_steps: jax.Array,
        key: jax.Array,
    ) -> Acted:
        """Epsilon-greedy actions [E] for observations [E, ...]."""
        greedy = jnp.argmax(self.network.apply(learned, observation), axis=-1)
        epsilon = self.epsilon(env_steps)
        return Acted(exploration.epsilon_greedy(key, greedy, self.envs.num_actions, epsilon))

    def loss(
        self, params: Any, target_params: Any, batch: uniform.Transitions
    ) -> tuple[jax.Array, jax.Array]:
        """The mean loss over a batch, and the mean value of the actions taken."""
        q_tm1 = self.network.apply(params, batch.s_tm1)  # [B, A]
        target_q_t = self.network.apply(target_params, batch.s_t)  # [B, A]
        selector = self.network.apply(params, batch.s_t) if self.config.double else target_q_t
        chex.assert_equal_shape([q_tm1, target_q_t, selector])
        # With the target as its own selector this is plain Q-learning.
        td_error = jax.vmap(rlax.double_q_learning)(
            q_tm1, batch.a_tm1, batch.r_t, batch.discount_t, target_q_t, selector
        )  # [B]
        loss = rlax.huber_loss(td_error) if self.config.huber else rlax.l2_loss(td_error)
        return jnp.mean(loss), jnp.mean(rlax.batched_index(q_tm1, batch.a_tm1))

    def step(self, state: State, batch: Steps, key: jax.Array) -> tuple[State, Metrics]:
        """Stores steps, learns from a sample, and moves the target when its period has passed."""
        config = self.config
        replay = uniform.insert(state.replay, batch)
        transitions = uniform.sample(replay, key, config.batch_size, config.n_step, config.discount)
        env_steps = (state.updates + 1) * config.train_period

        def learn(params: Any, opt_state: optax.OptState) -> optimizers.Descent:
            descent = optimizers.descend(
                self.loss, self.optimizer, params, opt_state, state.target_params, transitions
            )
            return descent._replace(aux=collectives.mean(descent.aux))

        def wait(params: Any, opt_state: optax.OptState) -> optimizers.Descent:
            nothing = jnp.float32(0)
            return optimizers.Descent(params, opt_state, nothing, nothing, nothing)

        learning = env_steps >= config.learning_starts
        descent = jax.lax.cond(learning, learn, wait, state.params, state.opt_state)
        moves_before = state.updates * config.train_period // config.target_period
        moves = env_steps // config.target_period - moves_before
        # Several periods may have passed since the last update: as many moves, at once.
        several = 1 - (1 - config.target_tau) ** moves.astype(jnp.float32)
        share = jnp.where(moves == 1, config.target_tau, several)
        target_params = optax.incremental_update(descent.params, state.target_params, share)
        logged = {
            "train/loss": metrics.where(learning, descent.loss),
            "train/q_value": metrics.where(learning, descent.aux),
            "train/gradient_norm": metrics.where(learning, descent.gradient_norm),
            "train/epsilon": self.epsilon(env_steps),
        }
        updates = state.updates + 1
        return State(descent.params, target_params, descent.opt_state, replay, updates), logged

    def learned(self, state: State) -> Any:
        """The online parameters."""
        return state.params
