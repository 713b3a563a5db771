"""JAX-native environments: Gymnasium's `FuncEnv`, vectorized, time-limited, resetting themselves.

Environment, replay and learner then run in one jitted call. Every environment's randomness is drawn
for all environments and sliced per device, so a run does not depend on how many devices share it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from gymnasium.experimental.functional import FuncEnv

from missing_bits import collectives
from missing_bits.envs.episodes import Judging
from missing_bits.envs.steps import EPISODE_RETURN, Acted, Outcome, Player, Steps
from missing_bits.metrics import Mean
from missing_bits.numeric import ceil_div

LANES = 128
"""Episodes of an evaluation side by side. A step of so many costs little more than one of a few."""

DeviceAct = Callable[[Any, jax.Array, jax.Array, jax.Array, jax.Array], Acted]
"""(memory, observation [E, ...], reset [E], environment steps, key) -> Acted, leaves [E, ...]."""


class EnvState(NamedTuple):
    """One environment in mid-episode."""

    inner: Any  # the FuncEnv's own state
    observation: jax.Array  # what the next action is chosen on
    elapsed: jax.Array  # int32: steps made in this episode
    open_return: jax.Array  # float32: rewards of this episode so far


class VectorState(NamedTuple):
    """This device's environments, and the cadence's counters, the same on every device."""

    envs: EnvState  # leaves [E, ...]
    memory: Any  # leaves [E, ...]: what the agent remembers
    vector_steps: jax.Array  # int32
    updates: jax.Array  # int32


def initial(env: FuncEnv, key: jax.Array) -> EnvState:
    """One environment at the start of an episode."""
    state_key, observation_key = jax.random.split(key)
    inner = env.initial(state_key)
    return EnvState(inner, env.observation(inner, observation_key), jnp.int32(0), jnp.float32(0))


def step(
    env: FuncEnv, limit: int, state: EnvState, action: jax.Array, key: jax.Array
) -> tuple[EnvState, Outcome]:
    """One step of one environment; at an episode's end the next one starts at once.

    Args:
      env: the environment.
      limit: steps after which an episode is truncated.
      state: the environment's state.
      action: int32 scalar, from 0.
      key: random key.

    Returns:
      The state the next action is chosen on, and what came of this one.
    """
    transition_key, observation_key, reset_key = jax.random.split(key, 3)
    going, outcome = advanced(env, limit, state, action, transition_key, observation_key)
    done = outcome.terminated | outcome.truncated
    fresh = initial(env, reset_key)
    return jax.tree.map(lambda new, old: jnp.where(done, new, old), fresh, going), outcome


def advanced(
    env: FuncEnv,
    limit: int,
    state: EnvState,
    action: jax.Array,
    transition_key: jax.Array,
    observation_key: jax.Array,
) -> tuple[EnvState, Outcome]:
    """As `step`, but where an episode ends its last state stays."""
    action = action + env.action_space.start
    inner = env.transition(state.inner, action, transition_key)
    successor = env.observation(inner, observation_key)
    # Arrays of one element count as numbers.
    reward = env.reward(state.inner, action, inner, transition_key)
    reward = jnp.asarray(reward, jnp.float32).reshape(())
    terminated = jnp.asarray(env.terminal(inner, observation_key), bool).reshape(())
    truncated = ~terminated & (state.elapsed + 1 >= limit)
    going = EnvState(inner, successor, state.elapsed + 1, state.open_return + reward)
    return going, Outcome(reward, terminated, truncated, successor)


class DeviceActor:
    """Makes, inside each update, the steps that it waits for.

    Those of update i are taken until (i + 1) times `period` environment steps have been made.
    Shapes: E environments on this device, V vector steps in a batch.

    Args:
      env: the environment.
      limit: steps after which an episode is truncated.
      num_envs: environments over all devices.
      period: environment steps per update.
    """

    def __init__(self, env: FuncEnv, limit: int, num_envs: int, period: int) -> None:
        self._env = env
        self._limit = limit
        self._num_envs = num_envs
        self._period = period

    def init(self, memory: Callable[[int], Any], key: jax.Array) -> VectorState:
        """This device's environments at the start of their first episodes.

        Args:
          memory: makes what the agent remembers at first, for so many environments.
          key: random key, the same on every device.
        """
        keys = collectives.shard(jax.random.split(key, self._num_envs))
        envs = jax.vmap(lambda k: initial(self._env, k))(keys)
        mine = self._num_envs // collectives.size()
        return VectorState(envs, memory(mine), jnp.int32(0), jnp.int32(0))

    def next(
        self, state: VectorState, act: DeviceAct, key: jax.Array
    ) -> tuple[VectorState, Steps, dict[str, Mean]]:
        """Makes the vector steps that the next update waits for.

        Args:
          state: this device's environments.
          act: answers to observations.
          key: random key, the same on every device.

        Returns:
          The new state; Steps [E, V, ...], in which rows beyond those due are not valid; and the
          mean return of the episodes that ended, on all devices.
        """
        due_steps = (state.updates + 1) * self._period

        def vector_step(
            state: VectorState, key: jax.Array
        ) -> tuple[VectorState, tuple[Steps, Mean]]:
            act_key, env_key = jax.random.split(key)
            env_steps = state.vector_steps * self._num_envs
            observation = state.envs.observation
            acted = act(state.memory, observation, state.envs.elapsed == 0, env_steps, act_key)
            keys = collectives.shard(jax.random.split(env_key, self._num_envs))
            envs, outcome = jax.vmap(lambda s, a, k: step(self._env, self._limit, s, a, k))(
                state.envs, acted.action, keys
            )
            # Static shapes: a step that is not due is made and forgotten.
            due = env_steps < due_steps
            envs, memory = jax.tree.map(
                lambda new, old: jnp.where(due, new, old),
                (envs, acted.memory),
                (state.envs, state.memory),
            )
            extras = jax.tree.map(lambda x: jnp.where(due, x, jnp.zeros_like(x)), acted.extras)
            valid = jnp.broadcast_to(due, outcome.r_t.shape)
            steps = Steps(observation, acted.action, *outcome, valid, extras)
            ended = (outcome.terminated | outcome.truncated) & due
            returned = jnp.where(ended, state.envs.open_return + outcome.r_t, 0.0)
            returns = Mean(jnp.sum(returned), jnp.sum(ended.astype(jnp.float32)))
            state = VectorState(envs, memory, state.vector_steps + due, state.updates)
            return state, (steps, returns)

        most = ceil_div(self._period, self._num_envs)
        state, (steps, returns) = jax.lax.scan(vector_step, state, jax.random.split(key, most))
        steps = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), steps)  # [V, E, ...] -> [E, V, ...]
        returns = collectives.total(jax.tree.map(jnp.sum, returns))
        return state._replace(updates=state.updates + 1), steps, {EPISODE_RETURN: returns}


class _Play(NamedTuple):
    """Episodes of an evaluation, side by side; leaves [E, ...] but for the key."""

    envs: EnvState
    memory: Any
    over: jax.Array  # bool
    cut: jax.Array  # bool: cut by the evaluation, in mid-episode
    total: jax.Array  # float32: rewards up to the end
    key: jax.Array


def returns(
    env: FuncEnv,
    limit: int,
    judging: Judging,
    episodes: int,
    player: Player,
    learned: Any,
    key: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """The returns of whole episodes, at most `LANES` of them side by side.

    One that is over is stepped with the others until the last one is, and counts for nothing.

    Args:
      env: the environment.
      limit: steps after which an episode is truncated.
      judging: how episodes are played.
      episodes: how many.
      player: the agent.
      learned: what it has learned.
      key: random key.

    Returns:
      [episodes] float32; and whether one was cut.
    """
    rounds = ceil_div(episodes, LANES)
    lanes = ceil_div(episodes, rounds)
    cut_at = judging.steps or limit

    def going(play: _Play) -> jax.Array:
        return ~jnp.all(play.over)

    def advance(play: _Play) -> _Play:
        # All at once: each call of the random number generator is to be compiled.
        drawn = jax.random.split(play.key, 2 + 2 * lanes)
        key, explore_key = drawn[:2]
        keys = drawn[2:].reshape(lanes, 2)
        envs = play.envs
        action, memory = player.act(learned, play.memory, envs.observation, envs.elapsed == 0)
        if judging.epsilon > 0:
            draw_key, action_key = jax.random.split(explore_key)
            explores = jax.random.uniform(draw_key, (lanes,)) < judging.epsilon
            other = jax.random.randint(action_key, (lanes,), 0, int(env.action_space.n))
            action = jnp.where(explores, other, action)
        envs, outcome = jax.vmap(lambda s, a, k: advanced(env, min(limit, cut_at), s, a, *k))(
            envs, action, keys
        )
        ends = ~play.over & (outcome.terminated | outcome.truncated)
        cut = play.cut
        if cut_at < limit:
            cut = cut | (ends & outcome.truncated)
        total = jnp.where(play.over, play.total, play.total + outcome.r_t)
        return _Play(envs, memory, play.over | ends, cut, total, key)

    def play(key: jax.Array) -> _Play:
        reset_key, step_key = jax.random.split(key)
        envs = jax.vmap(lambda k: initial(env, k))(jax.random.split(reset_key, lanes))
        none = jnp.zeros(lanes, bool)
        start = _Play(envs, player.memory(lanes), none, none, jnp.zeros(lanes), step_key)
        return jax.lax.while_loop(going, advance, start)

    played = jax.lax.map(play, jax.random.split(key, rounds))  # leaves [rounds, lanes, ...]
    counted = slice(episodes)  # the last round may play a few more
    return played.total.reshape(-1)[counted], jnp.any(played.cut.reshape(-1)[counted])
