"""JAX-native environments: Gymnasium's functional API (`FuncEnv`), vectorized, time-limited, resetting themselves.

Environment, replay and learner then run in one jitted call. Every environment's randomness is drawn for all
environments and sliced per device, so a run does not depend on how many devices share it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from gymnasium.experimental.functional import FuncEnv

from missing_bits import collectives
from missing_bits.envs.steps import Steps

Act = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


class EnvState(NamedTuple):
    """One environment in mid-episode."""

    inner: Any  # the FuncEnv's own state
    observation: jax.Array  # what the next action is chosen on
    elapsed: jax.Array  # int32: steps made in this episode
    open_return: jax.Array  # float32: rewards of this episode so far
    last_return: jax.Array  # float32: return of the episode before; 0 until one has finished


class VectorState(NamedTuple):
    """This device's environments and the cadence's counters, which are the same on every device."""

    envs: EnvState  # leaves [E, ...]
    vector_steps: jax.Array  # int32
    updates: jax.Array  # int32


def initial(env: FuncEnv, key: jax.Array) -> EnvState:
    """One environment at the start of an episode."""
    state_key, observation_key = jax.random.split(key)
    inner = env.initial(state_key)
    zero = jnp.float32(0)
    return EnvState(inner, env.observation(inner, observation_key), jnp.int32(0), zero, zero)


def step(
    env: FuncEnv, limit: int, state: EnvState, action: jax.Array, key: jax.Array
) -> tuple[EnvState, tuple[jax.Array, ...]]:
    """One step of one environment; at an episode's end the next one starts at once.

    Args:
      env: the environment.
      limit: steps after which an episode is truncated.
      state: the environment's state.
      action: int32 scalar, from 0.
      key: random key.

    Returns:
      The state the next action is chosen on, and (reward, terminated, truncated, successor observation).
    """
    transition_key, observation_key, reset_key = jax.random.split(key, 3)
    action = action + env.action_space.start
    inner = env.transition(state.inner, action, transition_key)
    successor = env.observation(inner, observation_key)
    reward = jnp.asarray(env.reward(state.inner, action, inner, transition_key), jnp.float32)
    terminated = jnp.asarray(env.terminal(inner, observation_key), bool)
    truncated = ~terminated & (state.elapsed + 1 >= limit)
    done = terminated | truncated
    total = state.open_return + reward
    going = EnvState(inner, successor, state.elapsed + 1, total, state.last_return)
    fresh = initial(env, reset_key)._replace(last_return=total)
    following = jax.tree.map(lambda new, old: jnp.where(done, new, old), fresh, going)
    return following, (reward, terminated, truncated, successor)


def reset(env: FuncEnv, num_envs: int, key: jax.Array) -> VectorState:
    """This device's share of `num_envs` environments at the start of their first episodes."""
    keys = collectives.shard(jax.random.split(key, num_envs))
    envs = jax.vmap(lambda k: initial(env, k))(keys)
    return VectorState(envs, jnp.int32(0), jnp.int32(0))


def collect(
    env: FuncEnv,
    limit: int,
    num_envs: int,
    period: int,
    state: VectorState,
    act: Act,
    key: jax.Array,
) -> tuple[VectorState, Steps]:
    """Makes the vector steps that the next update waits for: environment steps reach updates times `period`.

    Args:
      env: the environment.
      limit: steps after which an episode is truncated.
      num_envs: environments over all devices.
      period: environment steps per update.
      state: this device's environments.
      act: maps observations [E, ...], environment steps made so far and a key to actions [E].
      key: random key, the same on every device.

    Returns:
      The new state, and Steps [E, V, ...] in which rows beyond those due are not valid.
    """
    due_steps = (state.updates + 1) * period

    def vector_step(state: VectorState, key: jax.Array) -> tuple[VectorState, Steps]:
        act_key, env_key = jax.random.split(key)
        env_steps = state.vector_steps * num_envs
        action = act(state.envs.observation, env_steps, act_key)
        keys = collectives.shard(jax.random.split(env_key, num_envs))
        envs, outcome = jax.vmap(lambda s, a, k: step(env, limit, s, a, k))(
            state.envs, action, keys
        )
        due = env_steps < due_steps  # static shapes: a step that is not due is made and forgotten
        envs = jax.tree.map(lambda new, old: jnp.where(due, new, old), envs, state.envs)
        reward, terminated, truncated, successor = outcome
        valid = jnp.broadcast_to(due, reward.shape)
        steps = Steps(
            state.envs.observation, action, reward, terminated, truncated, successor, valid
        )
        return state._replace(envs=envs, vector_steps=state.vector_steps + due), steps

    state, steps = jax.lax.scan(vector_step, state, jax.random.split(key, -(-period // num_envs)))
    steps = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), steps)  # [V, E, ...] -> [E, V, ...]
    return state._replace(updates=state.updates + 1), steps


def returns(
    env: FuncEnv, limit: int, episodes: int, act: Callable[[jax.Array], jax.Array], key: jax.Array
) -> jax.Array:
    """The returns of `episodes` whole episodes, one per environment.

    Args:
      env: the environment.
      limit: steps after which an episode is truncated.
      episodes: how many.
      act: maps observations [episodes, ...] to actions [episodes].
      key: random key.

    Returns:
      [episodes] float32.
    """
    reset_key, step_key = jax.random.split(key)
    envs = jax.vmap(lambda k: initial(env, k))(jax.random.split(reset_key, episodes))

    def going(carry):
        return ~jnp.all(carry[1])

    def advance(carry):
        envs, done, total, key = carry
        key, step_key = jax.random.split(key)
        keys = jax.random.split(step_key, episodes)
        envs, (reward, terminated, truncated, _) = jax.vmap(
            lambda s, a, k: step(env, limit, s, a, k)
        )(envs, act(envs.observation), keys)
        return envs, done | terminated | truncated, total + jnp.where(done, 0.0, reward), key

    start = (envs, jnp.zeros(episodes, bool), jnp.zeros(episodes), step_key)
    return jax.lax.while_loop(going, advance, start)[2]
