"""Three tiny methods, one for each way of being fed; the laws of the loop are tested on them.

- `Regression` learns from batches of the host, pure in seed and update.
- `Chain` learns in environments on the device, remembers, and owns a part of its state.
- `Tracker` acts in environments on the host, and remembers.

Whatever may go wrong in the loop moves their parameters: draws, memory, statistics over devices,
the data of each device, every number. They use nothing of the rooms below `loop/`, so that only the
loop can be at fault.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from missing_bits import collectives, metrics
from missing_bits.envs.steps import Acted
from missing_bits.eval.evaluation import Evaluation, Headline
from missing_bits.metrics import Mean, Metrics
from missing_bits.options import row
from missing_bits.plan import Plan


def _evaluation(headline: Headline, measure: Callable[[Any, jax.Array], jax.Array]) -> Evaluation:
    """Judges by one number, of what was learned and a key; draws a file."""

    def scores(learned: Any, key: jax.Array, last: bool) -> dict[str, float]:
        found = {headline.name: float(measure(learned, key))}
        return found | {"eval/dear": 1.0} if last else found

    def baselines(key: jax.Array) -> dict[str, float]:
        return {"baseline/nothing": 1.0}

    def pictures(learned: Any, seed: int, folder: Path) -> None:
        (folder / "picture.txt").write_text(f"seed {seed}")

    return Evaluation(headline, scores, baselines, pictures)


# Batches from the host.


@dataclass(frozen=True)
class RegressionConfig:
    """Linear regression on standardized inputs, by steepest descent."""

    data: str = "line"
    """What is learned from."""
    updates: int = 20
    """Budget."""
    batch_size: int = 8
    """Examples per update, over all devices."""
    step_size: float = row(0.1)
    """Factor on gradients."""
    penalty: float = row(0.01)
    """Weight of the squares of the weights in the loss."""
    jitter: tuple[float, float] = row((0.1, 0.2))
    """Least and range of what is added to targets."""

    def check(self, prefix: str) -> None:
        """Any setting will do."""


class Pairs(NamedTuple):
    """Examples."""

    x: Any  # [..., B, 3]
    y: Any  # [..., B]


class Line(NamedTuple):
    """Weights of a linear function."""

    w: jax.Array  # [3]
    b: jax.Array


class RegressionState(NamedTuple):
    """What a run knows."""

    params: Line
    center: jax.Array  # [3], a moving average of inputs
    updates: jax.Array


class Batches:
    """Draws every batch from its seed and update; notes which were asked for."""

    inner_steps = 8

    def __init__(self, truth: np.ndarray, seeds: Sequence[int], batch_size: int) -> None:
        self._truth = truth
        self._seeds = seeds
        self._batch_size = batch_size
        self.asked: list[int] = []
        self.closed = False

    def next(self, act: Any, update: int) -> Pairs:
        """The batch, leaves [S, B, ...]."""
        self.asked.append(update)
        drawn = [np.random.default_rng((seed, update)) for seed in self._seeds]
        # Growing along the batch: every device's share has a mean of its own.
        slope = np.linspace(-2, 2, self._batch_size)[:, None]
        x = np.stack([rng.normal(slope, 1, (self._batch_size, 3)) for rng in drawn])
        y = x @ self._truth + 1
        return Pairs(x.astype(np.float32), y.astype(np.float32))

    def metrics(self) -> list[dict[str, float]]:
        """Nothing."""
        return [{} for _ in self._seeds]

    def save(self) -> dict[str, np.ndarray]:
        """Nothing: batches follow from seed and update."""
        return {}

    def restore(self, saved: dict[str, np.ndarray]) -> None:
        """Nothing to do."""
        assert not saved

    def close(self) -> None:
        """Notes that it was called."""
        self.closed = True


_TRUTH = np.array([1.0, -2.0, 0.5])


@jax.jit
def _distance(learned: RegressionState, key: jax.Array) -> jax.Array:
    """From the true weights; the key's part is tiny, but there."""
    off = jnp.sum(jnp.square(learned.params.w - _TRUTH))
    return off + 1e-3 * jax.random.uniform(key)


class RegressionResources(NamedTuple):
    """What rows share."""

    truth: np.ndarray
    evaluation: Evaluation


class Regression:
    """The method; it hands its weights over."""

    subject = "data"

    @staticmethod
    def check(config: RegressionConfig) -> None:
        """Any setting will do."""

    @staticmethod
    def resources(config: RegressionConfig) -> RegressionResources:
        """The true weights, and the distance to them."""
        evaluation = _evaluation(Headline("eval/error", False), _distance)
        return RegressionResources(_TRUTH, evaluation)

    def __init__(self, config: RegressionConfig, resources: RegressionResources) -> None:
        self.config = config
        self.resources = resources
        self.plan = Plan(config.updates)
        self.evaluation = resources.evaluation
        self.data_digest = hashlib.sha256(resources.truth.tobytes()).hexdigest()

    def source(self, seeds: Sequence[int]) -> Batches:
        """Batches of their own for each seed."""
        return Batches(self.resources.truth, seeds, self.config.batch_size)

    def init(self, key: jax.Array) -> RegressionState:
        """Small weights."""
        params = Line(0.1 * jax.random.uniform(key, (3,)), jnp.float32(0))
        return RegressionState(params, jnp.zeros(3), jnp.int32(0))

    def step(
        self, state: RegressionState, batch: Pairs, key: jax.Array
    ) -> tuple[RegressionState, Metrics]:
        """One step down; inputs are standardized over the batch of all devices."""
        config = self.config
        mean = collectives.mean(jnp.mean(batch.x, axis=0))
        variance = collectives.mean(jnp.mean(jnp.square(batch.x - mean[None]), axis=0))
        x = (batch.x - mean[None]) * jax.lax.rsqrt(variance + 1e-6)[None]
        noise = collectives.shard(jax.random.uniform(key, (len(x) * collectives.size(),)))
        y = batch.y + config.jitter[0] + config.jitter[1] * noise

        def loss(params: Line) -> jax.Array:
            error = jnp.mean(jnp.square(x @ params.w + params.b - y))
            return error + config.penalty * jnp.sum(jnp.square(params.w))

        value, grads = collectives.mean(jax.value_and_grad(loss)(state.params))
        params = jax.tree.map(lambda p, g: p - config.step_size * g, state.params, grads)
        center = state.center + 0.1 * (mean - state.center)
        logged = {
            "train/loss": value,
            "train/third": metrics.where(state.updates % 3 == 2, value),
            "train/never": metrics.where(state.updates < 0, jnp.nan),
        }
        return RegressionState(params, center, state.updates + 1), logged

    def learned(self, state: RegressionState) -> RegressionState:
        """All of it."""
        return state

    def hand_over(self, learned: RegressionState, path: Path, facts: Mapping[str, Any]) -> None:
        """Writes weights and facts as JSON."""
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"w": learned.params.w.tolist(), **facts}))


# Environments on the device.


@dataclass(frozen=True)
class ChainConfig:
    """A table of action values, learned in a chain of two states.

    Action 1 goes on, action 0 stays; going on from the second state ends the episode and earns 1.
    With discount g the values are Q(0, stay) = g^2, Q(0, go) = Q(1, stay) = g, Q(1, go) = 1.
    """

    env: str = "chain"
    """What is learned from."""
    env_steps: int = 160
    """Budget."""
    num_envs: int = 8
    """Environments over all devices."""
    step_size: float = row(0.5)
    """Share of the way to a target that a value moves."""
    discount: float = row(0.9)
    """Discount."""
    exploration: float = row(0.5)
    """Probability of a random action."""

    def check(self, prefix: str) -> None:
        """Any setting will do."""


class Moves(NamedTuple):
    """Steps [E] in chains."""

    s_tm1: jax.Array
    a_tm1: jax.Array
    r_t: jax.Array
    over: jax.Array  # bool
    s_t: jax.Array
    extras: Any


class Places(NamedTuple):
    """Where a device's environments are, and what the agent remembers."""

    place: jax.Array  # int32 [E]
    fresh: jax.Array  # bool [E]: the episode has just begun
    memory: Any
    open_return: jax.Array  # [E]
    steps: jax.Array  # int32, over all devices


class Chains:
    """Makes one step in each environment per update."""

    def __init__(self, num_envs: int) -> None:
        self._num_envs = num_envs

    def init(self, memory: Callable[[int], Any], key: jax.Array) -> Places:
        """Half of the episodes begin in the second state."""
        mine = collectives.shard(_zeros_and_ones(key, self._num_envs))
        fresh = jnp.ones_like(mine, bool)
        zero = jnp.zeros(mine.shape)
        return Places(mine, fresh, memory(len(mine)), zero, jnp.int32(0))

    def next(self, state: Places, act: Any, key: jax.Array) -> tuple[Places, Moves, Metrics]:
        """One step; where an episode ends the next begins at a random place."""
        act_key, place_key = jax.random.split(key)
        acted = act(state.memory, state.place, state.fresh, state.steps, act_key)
        place = state.place + acted.action
        over = place == 2
        reward = jnp.where(over, 1.0, 0.0)
        total = state.open_return + reward
        first = collectives.shard(_zeros_and_ones(place_key, self._num_envs))
        moves = Moves(state.place, acted.action, reward, over, place, acted.extras)
        following = Places(
            place=jnp.where(over, first, place),
            fresh=over,
            memory=acted.memory,
            open_return=jnp.where(over, 0.0, total),
            steps=state.steps + self._num_envs,
        )
        ended = Mean(jnp.sum(jnp.where(over, total, 0.0)), jnp.sum(over.astype(jnp.float32)))
        return following, moves, {"train/episode_return": collectives.total(ended)}


def _zeros_and_ones(key: jax.Array, count: int) -> jax.Array:
    return (jax.random.uniform(key, (count,)) < 0.5).astype(jnp.int32)


class ChainState(NamedTuple):
    """What a run knows."""

    values: jax.Array  # [2, 2]
    before: Moves  # this device's steps of the update before
    updates: jax.Array


@jax.jit
def _best_value(values: jax.Array, key: jax.Array) -> jax.Array:
    return jnp.max(values[1])


class Chain:
    """The agent. It learns from the steps of this update and of the one before."""

    subject = "env"

    @staticmethod
    def check(config: ChainConfig) -> None:
        """Any setting will do."""

    @staticmethod
    def resources(config: ChainConfig) -> Evaluation:
        """The best value of the second state."""
        return _evaluation(Headline("eval/value"), _best_value)

    def __init__(self, config: ChainConfig, resources: Evaluation) -> None:
        self.config = config
        self.evaluation = resources
        self.plan = Plan(
            config.env_steps,
            unit="env_steps",
            per_update=config.num_envs,
            shared=("num_envs",),
            owned=("before",),
        )

    def source(self, seeds: Sequence[int]) -> Chains:
        """Chains on the device."""
        return Chains(self.config.num_envs)

    def init(self, key: jax.Array) -> ChainState:
        """Small values; before the first update there was an end worth what it promised."""
        envs = self.config.num_envs // collectives.size()
        nothing = jnp.zeros(envs, jnp.int32)
        zero = jnp.zeros(envs)
        before = Moves(nothing, nothing, zero, jnp.ones(envs, bool), nothing, zero)
        return ChainState(0.1 * jax.random.uniform(key, (2, 2)), before, jnp.int32(0))

    def memory(self, envs: int) -> jax.Array:
        """How often an environment has stayed where it was."""
        return jnp.zeros(envs, jnp.int32)

    def act(
        self,
        learned: jax.Array,
        memory: jax.Array,
        observation: jax.Array,
        reset: jax.Array,
        env_steps: jax.Array,
        key: jax.Array,
    ) -> Acted:
        """The better action, or a random one, but never a third stay; says how it was chosen."""
        stayed = jnp.where(reset, 0, memory)
        greedy = jnp.argmax(learned[observation], axis=-1).astype(jnp.int32)
        envs = len(greedy) * collectives.size()
        drawn = collectives.shard(jax.random.uniform(key, (envs, 2)))
        explores = drawn[:, 0] < self.config.exploration
        action = jnp.where(explores, (drawn[:, 1] < 0.5).astype(jnp.int32), greedy)
        action = jnp.where(stayed >= 2, 1, action)
        return Acted(action, jnp.where(action == 0, stayed + 1, 0), explores.astype(jnp.float32))

    def step(self, state: ChainState, batch: Moves, key: jax.Array) -> tuple[ChainState, Metrics]:
        """Moves values towards rewards and discounted best values."""
        values = state.values
        moves = jax.tree.map(lambda *parts: jnp.concatenate(parts), state.before, batch)
        best = jnp.max(values, axis=1)[jnp.minimum(moves.s_t, 1)]
        target = moves.r_t + jnp.where(moves.over, 0.0, self.config.discount * best)
        error = target - values[moves.s_tm1, moves.a_tm1]
        # The first `before` is none: its rewards are 0 at an end.
        known = (moves.r_t > 0) | ~moves.over
        here = (moves.s_tm1, moves.a_tm1)
        sums = jnp.zeros((2, 2)).at[here].add(jnp.where(known, error, 0.0))
        counts = jnp.zeros((2, 2)).at[here].add(known.astype(jnp.float32))
        sums, counts = collectives.total((sums, counts))
        noise = 1e-3 * jax.random.uniform(key, (2, 2))
        values = values + self.config.step_size * (sums / jnp.maximum(counts, 1) + noise)
        logged = {
            "train/loss": jnp.sum(jnp.square(sums)),
            "train/explores": collectives.mean(jnp.mean(batch.extras)),
        }
        return ChainState(values, batch, state.updates + 1), logged

    def learned(self, state: ChainState) -> jax.Array:
        """The values."""
        return state.values


# Environments on the host.


@dataclass(frozen=True)
class TrackerConfig:
    """Guesses the next observation from the last one and a memory of those before."""

    env: str = "wanderers"
    """What is learned from."""
    updates: int = 20
    """Budget."""
    num_envs: int = 4
    """Environments over all devices."""
    behind: bool = False
    """Acts by the parameters of one update before."""
    step_size: float = row(0.1)
    """Factor on gradients."""
    forgetting: float = row(0.5)
    """Share of the last observation in what is remembered."""
    exploration: float = row(0.3)
    """Probability of a random action."""

    def check(self, prefix: str) -> None:
        """Any setting will do."""


class Seen(NamedTuple):
    """Steps [S, E, V] of wanderers."""

    x_tm1: Any
    remembered: Any  # what the agent said beside its action
    x_t: Any
    valid: Any


class Wanderers:
    """Numbers that wander, pushed by actions, and begin anew after five steps.

    Seeds take one or two vector steps per update, by turns: in the second one some are not due.
    """

    inner_steps = 1
    _MOST = 2
    _LENGTH = 5

    def __init__(self, seeds: Sequence[int], num_envs: int) -> None:
        self._seeds = seeds
        self._num_envs = num_envs
        rows = (len(seeds), num_envs)
        self._x = np.zeros(rows, np.float32)
        self._vector_steps = np.zeros(len(seeds), np.int32)
        self._begun = np.zeros(rows, np.int32)  # the vector step at which an episode began
        self._ended = np.zeros(len(seeds), np.int32)
        self.closed = False
        for s in range(len(seeds)):
            self._x[s] = self._noise(s)

    def _noise(self, s: int) -> np.ndarray:
        rng = np.random.default_rng((self._seeds[s], int(self._vector_steps[s])))
        return rng.normal(size=self._num_envs).astype(np.float32)

    def next(self, act: Callable[..., Acted], update: int) -> Seen:
        """The steps of an update, leaves [S, E, V]."""
        wanted = [1 + (update + seed) % 2 for seed in self._seeds]
        nothing = np.zeros((*self._x.shape, self._MOST), np.float32)
        seen = Seen(nothing.copy(), nothing.copy(), nothing.copy(), nothing.astype(bool))
        for v in range(self._MOST):
            due = np.array([v < count for count in wanted])
            if not due.any():
                break
            reset = self._vector_steps[:, None] == self._begun
            counts = np.stack([self._vector_steps * self._num_envs, self._vector_steps], axis=1)
            acted = act(self._x, reset, due, counts.astype(np.int32))
            assert acted.action.shape == self._x.shape
            assert acted.action.dtype == np.int32
            for s in np.flatnonzero(due):
                self._step(s, v, acted, seen)
        return seen

    def _step(self, s: int, v: int, acted: Acted, seen: Seen) -> None:
        x = self._x[s]
        self._vector_steps[s] += 1
        noise = self._noise(s)
        following = 0.6 * x + 0.5 * (2 * acted.action[s] - 1) + 0.3 * noise
        seen.x_tm1[s, :, v] = x
        seen.remembered[s, :, v] = acted.extras[s]
        seen.x_t[s, :, v] = following
        seen.valid[s, :, v] = True
        # Environments end at moments of their own.
        age = self._vector_steps[s] - self._begun[s] + np.arange(self._num_envs) % 2
        over = age >= self._LENGTH
        self._ended[s] += over.sum()
        self._begun[s, over] = self._vector_steps[s]
        self._x[s] = np.where(over, noise, following)

    def waits(self, update: int) -> bool:
        """Every update has steps of its own."""
        return True

    def metrics(self) -> list[dict[str, float]]:
        """How many episodes have ended since the last call, where any has."""
        found = [{"train/episodes": float(ended)} if ended else {} for ended in self._ended]
        self._ended[:] = 0
        return found

    def save(self) -> dict[str, np.ndarray]:
        """Everything that wanders."""
        return {
            "x": self._x.copy(),
            "vector_steps": self._vector_steps.copy(),
            "begun": self._begun.copy(),
            "ended": self._ended.copy(),
        }

    def restore(self, saved: dict[str, np.ndarray]) -> None:
        """Continues there."""
        self._x = saved["x"].copy()
        self._vector_steps = saved["vector_steps"].copy()
        self._begun = saved["begun"].copy()
        self._ended = saved["ended"].copy()

    def close(self) -> None:
        """Notes that it was called."""
        self.closed = True


class TrackerState(NamedTuple):
    """What a run knows."""

    w: jax.Array  # [2], on the last observation and on the memory
    updates: jax.Array


@jax.jit
def _mistakes(w: jax.Array, key: jax.Array) -> jax.Array:
    return jnp.abs(w[0] - 0.6) + jnp.abs(w[1])


class Tracker:
    """The agent. It pushes where it expects the number to go."""

    subject = "env"

    @staticmethod
    def check(config: TrackerConfig) -> None:
        """Any setting will do."""

    @staticmethod
    def resources(config: TrackerConfig) -> Evaluation:
        """The distance to the weights of a number that is pushed at random."""
        return _evaluation(Headline("eval/error", False), _mistakes)

    def __init__(self, config: TrackerConfig, resources: Evaluation) -> None:
        self.config = config
        self.evaluation = resources
        self.plan = Plan(config.updates, shared=("num_envs",), behind=config.behind)

    def source(self, seeds: Sequence[int]) -> Wanderers:
        """Wanderers of their own for each seed."""
        return Wanderers(seeds, self.config.num_envs)

    def init(self, key: jax.Array) -> TrackerState:
        """Small weights."""
        return TrackerState(0.1 * jax.random.uniform(key, (2,)), jnp.int32(0))

    def memory(self, envs: int) -> jax.Array:
        """An average of observations."""
        return jnp.zeros(envs)

    def act(
        self,
        learned: jax.Array,
        memory: jax.Array,
        observation: jax.Array,
        reset: jax.Array,
        env_steps: jax.Array,
        key: jax.Array,
    ) -> Acted:
        """Pushes up or down; says what it remembered."""
        before = jnp.where(reset, 0.0, memory)
        after = before + self.config.forgetting * (observation - before)
        guess = learned[0] * observation + learned[1] * before
        drawn = collectives.shard(
            jax.random.uniform(key, (len(observation) * collectives.size(), 2))
        )
        at_random = drawn[:, 1] < 0.5
        up = jnp.where(drawn[:, 0] < self.config.exploration, at_random, guess > 0)
        return Acted(up.astype(jnp.int32), after, before)

    def step(
        self, state: TrackerState, batch: Seen, key: jax.Array
    ) -> tuple[TrackerState, Metrics]:
        """One step down the squared errors of all valid steps of all devices."""
        noise = 1e-3 * jax.random.uniform(key, (2,))
        count = collectives.total(jnp.sum(batch.valid.astype(jnp.float32)))

        def loss(w: jax.Array) -> jax.Array:
            error = w[0] * batch.x_tm1 + w[1] * batch.remembered - batch.x_t
            return jnp.sum(jnp.where(batch.valid, jnp.square(error), 0.0)) / count

        value, grad = collectives.total(jax.value_and_grad(loss)(state.w))
        w = state.w - self.config.step_size * (grad + noise)
        return TrackerState(w, state.updates + 1), {"train/loss": Mean(value * count, count)}

    def learned(self, state: TrackerState) -> jax.Array:
        """The weights."""
        return state.w
