"""DQN and its family: deep Q-networks whose parts switch on one by one.

Mnih et al. 2015; van Hasselt et al. 2016. On two cores the default run takes less than half a
minute and ends above 475, of 500 (docs/results/).

    python run.py --exp=dqn
    python run.py --exp=rainbow --no-prioritized

Q(s, a) is regressed on r_t + discount_t max_a Q'(s_t, a), where Q' is a slowly updated copy of the
network (Mnih et al. 2015, algorithm 1). The double estimator lets the online network choose the
action that the target values (van Hasselt et al. 2016, equation 4). Deviations from the papers:
Adam for RMSProp; as settings, n-step returns, soft target updates, a linear learning-rate decay,
bounded features scaled to [-1, 1]. Munchausen with several steps adds the log probability of the
first of their actions alone. The gradients of two streams are not scaled by 1 / sqrt(2), as
Wang et al. do. IQN acts by as many quantiles as it learns from (--quantiles), and by evenly spaced
ones when it is judged. Environments that step together share a draw of noise.

The other parts: two streams (Wang et al. 2016), layers with noise (Fortunato et al. 2018), a
distribution in place of the value (losses/values.py), prioritized replay (replay/prioritized.py),
a soft policy that also rewards itself (Vieillard et al. 2020), random actions that last (Dabney et
al. 2021). Rainbow (Hessel et al. 2018) is all of the first four, double and n-step. Noise comes on
top of epsilon-greedy actions, which the papers leave out: alone it stays short of CartPole's
solution (docs/results/agents.md). Keys: where a network draws noise or quantiles, prediction,
target and choice each draw their own.
Shapes: E environments (on one device), V vector steps between two updates, B transitions in a
batch, A actions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
import rlax

from missing_bits import collectives, metrics, optimizers
from missing_bits.agents import exploration, policies
from missing_bits.agents.policies import QPolicy
from missing_bits.envs import environments
from missing_bits.envs.environments import Environments, Envs
from missing_bits.envs.steps import Acted, Steps
from missing_bits.errors import require, require_between, require_positive
from missing_bits.eval import episodes
from missing_bits.eval.evaluation import Evaluation
from missing_bits.losses import values
from missing_bits.metrics import Metrics
from missing_bits.numeric import ceil_div
from missing_bits.options import Flat, row
from missing_bits.plan import Plan
from missing_bits.replay import kinds, uniform
from missing_bits.replay.prioritized import Sample

_LOWEST_LOG = -1.0  # of Munchausen's reward (Vieillard et al. 2020, section 4)


@dataclass(frozen=True)
class Config:
    """DQN. Periods and budgets count environment steps, over all environments together."""

    envs: Flat[Envs] = Envs(num_envs=4)
    env_steps: int = 50_000
    """Budget, in environment steps."""
    hidden_sizes: tuple[int, ...] = (120, 84)
    """Widths of the hidden layers, in units; for images, of the head after the convolutions."""
    scaled: bool = True
    """Scale features that have bounds to [-1, 1], as suits bounds that are reached; otherwise they
    stay as they are. Images are always scaled."""
    learning_rate: float = row(2e-3)
    """Adam's step size at the first update."""
    learning_rate_end: float = row(0.0)
    """Adam's step size at the end of the budget, reached linearly."""
    max_gradient_norm: float = row(10.0)
    """Global norm to which gradients are clipped."""
    discount: float = row(0.99)
    """Discount per environment step, 0 to 1."""
    n_step: int = 3
    """Rewards summed before bootstrapping, in environment steps."""
    double: bool = True
    """Choose the bootstrap action with the online network (double DQN)."""
    huber: bool = False
    """Huber loss with threshold 1; otherwise the squared loss. For the scalar head."""
    head: Literal["scalar", "categorical", "quantile", "implicit"] = "scalar"
    """What is predicted: the value, or its distribution (C51, QR-DQN, IQN)."""
    quantiles: int = 32
    """Quantiles of the quantile and the implicit head."""
    atoms: int = 51
    """Returns of the categorical head, evenly spread from the lowest to the highest."""
    value_low: float = -100.0
    """Lowest return of the categorical head, to which lower ones are raised."""
    value_high: float = 100.0
    """Highest return of the categorical head, to which higher ones are lowered."""
    dueling: bool = False
    """Streams for the state's value and the actions' advantages."""
    noisy: float = 0.0
    """Noise in the network's last layers, as a share of their weights' bound (0.5 in the paper); 0
    for none."""
    prioritized: bool = False
    """Replay by priority."""
    priority_exponent: float = row(0.5)
    """How much priorities differ, from 0 for not at all to 1."""
    priority_correction: float = row(0.4)
    """How much of the bias of priorities is undone at the start; all of it at the end."""
    munchausen: bool = False
    """A soft policy whose log probability is added to the reward."""
    munchausen_temperature: float = row(0.03)
    """Temperature of the soft policy."""
    munchausen_scale: float = row(0.9)
    """Share of the scaled log probability that is added to the reward."""
    explore_exponent: float = 0.0
    """Random actions last n steps with probability proportional to n to minus this (2 in the
    paper, above 1); 0 for one step."""
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
    """Probability of a random action after the decay, from 1 at the start; with
    --explore-exponent, of a random action that begins: several times as many steps are random."""
    epsilon_decay_steps: int = 10_000
    """Environment steps over which epsilon falls, linearly."""


_ALONE = {"num_envs": 1, "n_step": 5}  # one environment, as docs/results/agents.md has it
PRESETS: dict[str, dict[str, Any]] = {
    # The host is faster with eight at once. 500 rewards are worth 184 at this discount.
    "CartPole-v1": {
        "num_envs": 8,
        "learning_rate": 1e-3,
        "discount": 0.995,
        "value_low": -20.0,
        "value_high": 200.0,
    },
    "Acrobot-v1": {
        **_ALONE,
        "env_steps": 100_000,
        "scaled": False,  # its velocities stay far below their bounds
        "replay_capacity": 100_000,
    },
    "MountainCar-v0": {
        **_ALONE,
        "env_steps": 150_000,
        "learning_rate": 1e-3,
        "explore_exponent": 2.0,
        "epsilon_decay_steps": 50_000,
    },
}
PRESETS |= {f"jax/{name}": settings for name, settings in PRESETS.items()}  # the same games
PRESETS["jax/CartPole-v1"] = _ALONE
PRESETS["LunarLander-v3"] = {
    "num_envs": 8,
    "eval_episodes": 32,  # of up to a thousand steps
    "env_steps": 300_000,
    "hidden_sizes": (256, 256),
    "scaled": False,
    "learning_rate": 6.3e-4,
    "huber": True,
    "value_low": -300.0,
    "value_high": 300.0,
    "batch_size": 64,
    "replay_capacity": 100_000,
    "learning_starts": 1_000,
    "train_period": 4,
    "target_period": 4,
    "epsilon_decay_steps": 36_000,
}
_MINATAR = {
    "num_envs": 8,
    "env_steps": 500_000,
    "hidden_sizes": (128,),
    "learning_rate": 1e-3,
    "n_step": 1,  # Asterix is hardly learned with three or five (docs/results/agents.md)
    "value_low": 0.0,
    "value_high": 50.0,
    "batch_size": 32,
    "replay_capacity": 100_000,
    "learning_starts": 5_000,
    "train_period": 8,
    "target_period": 8,
    "epsilon_decay_steps": 50_000,
}
PRESETS |= {
    f"jax/{game}-v1": _MINATAR
    for game in ("Breakout", "Asterix", "SpaceInvaders", "Freeway", "Seaquest")
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
    replay: Any  # uniform or prioritized
    updates: jax.Array  # int32: calls of `step` so far


class Resources(NamedTuple):
    """What rows share."""

    envs: Environments
    policy: QPolicy  # greedy: what is judged and handed over
    evaluation: Evaluation  # of parameters


class Judged(NamedTuple):
    """What a network says of observations."""

    raw: jax.Array  # [B, A, K]
    taus: jax.Array | None  # [B, K], the quantiles that it was asked for
    q: jax.Array  # [B, A]


class Seen(NamedTuple):
    """What the loss tells of a batch besides."""

    q_value: jax.Array  # scalar: the mean value of the actions taken
    surprise: jax.Array  # [B]


def head_of(config: Config) -> values.Head:
    """The head that a configuration names."""
    between = config.value_low, config.value_high
    return values.make(config.head, config.quantiles, config.atoms, between, config.huber)


class DQN:
    """The agent, as functions on `State`."""

    subject = "env"

    @staticmethod
    def check(config: Config) -> None:
        """Raises `UserError` for settings that cannot run."""
        free = ("envs", "double", "huber", "learning_rate_end", "discount", "epsilon_final")
        free += ("head", "value_low", "value_high", "dueling", "noisy", "prioritized")
        free += ("priority_exponent", "priority_correction", "munchausen", "munchausen_scale")
        free += ("explore_exponent", "atoms", "scaled")
        positive = [field.name for field in fields(config) if field.name not in free]
        require_positive(config, *positive)
        require_between(config, 0, 1, "discount", "target_tau", "epsilon_final")
        require_between(config, 0, 1, "priority_exponent", "priority_correction")
        require_between(config, 0, 1, "munchausen_scale")
        require_between(config, 1, values.MOST, "quantiles")
        require_between(config, 2, values.MOST, "atoms")
        not_negative = ("learning_rate_end", "explore_exponent")
        require_between(config, 0, float("inf"), *not_negative)
        require_between(config, 0, policies.MOST_NOISE, "noisy")
        require(
            config.explore_exponent == 0 or config.explore_exponent > 1,
            f"--explore-exponent is {config.explore_exponent}; it must be 0 or above 1.",
        )
        values.check_categorical(config.value_low, config.value_high, config.atoms)
        astray = [
            told
            for told, holds in {
                "--head=categorical": config.head == "categorical",
                "--double": config.double,
            }.items()
            if holds
        ]
        require(
            not (config.munchausen and astray),
            f"--munchausen values actions by the target's own soft policy: it does not go with "
            f"{' or '.join(astray)}. Use --no-double and another head.",
        )
        require_between(config, 0, 2**31 - 1, "env_steps")
        require_between(config, 1, config.replay_capacity, "batch_size")
        lanes = config.envs.num_envs
        rows = ceil_div(config.train_period, lanes)
        first = lanes * config.n_step + config.train_period
        require(
            first <= config.learning_starts <= config.env_steps,
            f"--learning-starts is {config.learning_starts}; it must be at least {first} "
            f"(--num-envs={lanes} times --n-step={config.n_step}, and "
            f"--train-period={config.train_period} more), and at most "
            f"--env-steps={config.env_steps}.",
        )
        least = lanes * (2 * config.n_step + 4 * rows + 2)
        require_between(config, least, 2**31 - 1, "replay_capacity")

    @staticmethod
    def resources(config: Config) -> Resources:
        """Environments, the greedy policy, and its episodes."""
        envs = config.envs.find(config.train_period)
        policy = policies.of_network(
            envs.observation_space,
            envs.num_actions,
            config.scaled,
            hidden_sizes=config.hidden_sizes,
            head=config.head,
            quantiles=config.quantiles,
            atoms=config.atoms,
            value_low=config.value_low,
            value_high=config.value_high,
            dueling=config.dueling,
            noisy=config.noisy,
        )
        player = policies.player(policy)
        evaluation = episodes.evaluation(envs, player, config.envs.eval_episodes)
        return Resources(envs, policy, evaluation)

    def __init__(self, config: Config, resources: Resources) -> None:
        self.config = config
        self.envs = resources.envs
        self.policy = resources.policy
        self.network = resources.policy.network()
        self.evaluation = resources.evaluation
        self.head = head_of(config)
        self.replay = kinds.uniformly(config.n_step, config.discount)
        if config.prioritized:
            self.replay = kinds.by_priority(
                config.n_step,
                config.discount,
                config.priority_exponent,
                config.priority_correction,
            )
        self.draws = config.noisy > 0 or config.head == "implicit"
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
            behind=config.envs.behind,
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
        uniform.tell_size(
            len(seeds), self.config.replay_capacity, space.shape, dtype, self.replay.init
        )
        return self.envs.source(seeds)

    def init(self, key: jax.Array) -> State:
        """The state before the first step."""
        space = self.envs.observation_space
        dtype = environments.stored_dtype(space.dtype)
        taus = self.head.taus(None, 1)
        params = self.network.init(key, jnp.zeros((1, *space.shape), dtype), taus)
        num_envs = self.config.envs.num_envs
        lanes = num_envs // collectives.size()
        capacity = lanes * ceil_div(self.config.replay_capacity, num_envs)
        return State(
            params=params,
            target_params=jax.tree.map(jnp.copy, params),
            opt_state=self.optimizer.init(params),
            replay=self.replay.init(lanes, capacity, space.shape, dtype),
            updates=jnp.int32(0),
        )

    def epsilon(self, env_steps: jax.Array) -> jax.Array:
        """The probability of a random action after `env_steps` environment steps."""
        config = self.config
        return exploration.linear_decay(env_steps, config.epsilon_decay_steps, config.epsilon_final)

    def memory(self, envs: int) -> Any:
        """The random actions that last; nothing where none do."""
        return exploration.no_persisting(envs) if self.config.explore_exponent else ()

    def act(
        self,
        learned: Any,
        memory: Any,
        observation: jax.Array,
        reset: jax.Array,
        env_steps: jax.Array,
        key: jax.Array,
    ) -> Acted:
        """Epsilon-greedy actions [E] for observations [E, ...]."""
        explore_key, network_key = self._keys(key, 2)
        greedy = jnp.argmax(self._judge(learned, network_key, observation).q, axis=-1)
        epsilon = self.epsilon(env_steps)
        exponent = self.config.explore_exponent
        if not exponent:
            actions = exploration.epsilon_greedy(
                explore_key, greedy, self.envs.num_actions, epsilon
            )
            return Acted(actions)
        return Acted(
            *exploration.persistent_epsilon_greedy(
                explore_key, greedy, self.envs.num_actions, epsilon, memory, reset, exponent
            )
        )

    def loss(
        self, params: Any, target_params: Any, keys: Sequence[jax.Array], drawn: Sample
    ) -> tuple[jax.Array, Seen]:
        """The mean loss over a batch; keys are for prediction, target and choice."""
        config = self.config
        batch = drawn.transitions
        predicted = self._judge(params, keys[0], batch.s_tm1)
        target = self._judge(target_params, keys[1], batch.s_t)
        r_t = batch.r_t
        if config.munchausen:
            before = self._judge(target_params, keys[2], batch.s_tm1)
            soft = values.munchausen(
                before.q,
                batch.a_tm1,
                target.q,
                config.munchausen_temperature,
                config.munchausen_scale,
                _LOWEST_LOG,
            )
            policy = soft.policy
            bonus = soft.bonus
            r_t = r_t + soft.reward
        else:
            # With the target as its own chooser this is plain Q-learning; where networks draw, it
            # chooses by other draws than those that value the choice.
            chooser = self._judge(params if config.double else target_params, keys[2], batch.s_t)
            policy = jax.nn.one_hot(jnp.argmax(chooser.q, axis=-1), self.envs.num_actions)
            bonus = jnp.zeros_like(r_t)
        chosen = jax.vmap(lambda raw, a: raw[a])(predicted.raw, batch.a_tm1)  # [B, K]
        mixed = self.head.mix(target.raw, policy)
        errors = self.head.errors(chosen, predicted.taus, mixed, bonus, r_t, batch.discount_t)
        q_value = jnp.mean(rlax.batched_index(predicted.q, batch.a_tm1))
        return jnp.mean(drawn.weights * errors.loss), Seen(q_value, errors.surprise)

    def _judge(self, params: Any, key: jax.Array, observation: jax.Array) -> Judged:
        """What a network says of observations [B, ...], with noise and quantiles of its own."""
        noise_key, taus_key = jax.random.split(key) if self.draws else (None, None)
        taus = self.head.taus(taus_key, len(observation))
        raw = self.network.apply(params, noise_key, observation, taus)
        return Judged(raw, taus, self.head.mean(raw))

    def _keys(self, key: jax.Array, count: int) -> Sequence[jax.Array]:
        """Keys for several draws; if no network draws, the first one has the key for itself."""
        return jax.random.split(key, count) if self.draws else [key] * count

    def step(self, state: State, batch: Steps, key: jax.Array) -> tuple[State, Metrics]:
        """Stores steps, learns from a sample, and moves the target when its period has passed."""
        config = self.config
        env_steps = (state.updates + 1) * config.train_period
        sample_key, *network_keys = self._keys(key, 4)
        replay = self.replay.insert(state.replay, batch)
        share = jnp.minimum(env_steps / config.env_steps, 1.0)
        drawn = self.replay.sample(replay, sample_key, config.batch_size, share)

        def learn(params: Any, opt_state: optax.OptState) -> optimizers.Descent:
            inputs = state.target_params, network_keys, drawn
            descent = optimizers.descend(self.loss, self.optimizer, params, opt_state, *inputs)
            seen = descent.aux
            return descent._replace(aux=seen._replace(q_value=collectives.mean(seen.q_value)))

        def wait(params: Any, opt_state: optax.OptState) -> optimizers.Descent:
            nothing = jnp.float32(0)
            seen = Seen(nothing, jnp.zeros_like(drawn.weights))
            return optimizers.Descent(params, opt_state, nothing, seen, nothing)

        learning = env_steps >= config.learning_starts
        descent = jax.lax.cond(learning, learn, wait, state.params, state.opt_state)
        replay = self.replay.reprioritize(replay, drawn, descent.aux.surprise, learning)
        moves_before = state.updates * config.train_period // config.target_period
        moves = env_steps // config.target_period - moves_before
        # Several periods may have passed since the last update: as many moves, at once.
        several = 1 - (1 - config.target_tau) ** moves.astype(jnp.float32)
        share = jnp.where(moves == 1, config.target_tau, several)
        target_params = optax.incremental_update(descent.params, state.target_params, share)
        logged = {
            "train/loss": metrics.where(learning, descent.loss),
            "train/q_value": metrics.where(learning, descent.aux.q_value),
            "train/gradient_norm": metrics.where(learning, descent.gradient_norm),
            "train/epsilon": self.epsilon(env_steps),
        }
        updates = state.updates + 1
        return State(descent.params, target_params, descent.opt_state, replay, updates), logged

    def learned(self, state: State) -> Any:
        """The online parameters."""
        return state.params

    def hand_over(self, learned: Any, path: Path, facts: Mapping[str, Any]) -> None:
        """Writes the greedy policy."""
        policies.save(path, self.policy, learned, facts)
