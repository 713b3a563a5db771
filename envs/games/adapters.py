"""What `gymnasium.make` and `gymnasium.make_vec` return for the games of this folder.

`NativeVectorEnv` takes the place of Gymnasium's FunctionalJaxVectorEnv, which holds states of one
array only and, whenever an episode begins in some environments, loses the step of all others.
"""

import importlib
from typing import Any

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium.envs.functional_jax_env import FunctionalJaxEnv
from gymnasium.experimental.functional import FuncEnv
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space


def find(game: str, settings: dict[str, Any]) -> FuncEnv:
    """The functional environment "file:Class" of this folder, made with the settings."""
    file, _, name = game.partition(":")
    module = importlib.import_module(f"missing_bits.envs.games.{file}")
    return getattr(module, name)(**settings)


class NativeEnv(FunctionalJaxEnv):
    """One environment with Gymnasium's interface.

    Args:
      game: file and class, such as "cartpole:CartPole".
      render_mode: None or "rgb_array".
      settings: the game's own.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30, "jax": True}  # noqa: RUF012

    def __init__(self, game: str, render_mode: str | None = None, **settings: Any) -> None:
        func_env = find(game, settings)
        func_env.transform(jax.jit)
        super().__init__(func_env, self.metadata, render_mode)


class NativeVectorEnv(gym.vector.VectorEnv):
    """E environments stepped together; the step after an episode's end begins the next one.

    Args:
      game: file and class, such as "cartpole:CartPole".
      num_envs: E.
      max_episode_steps: steps after which an episode is truncated.
      render_mode: None; nothing is drawn.
      settings: the game's own.
    """

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP, "jax": True}  # noqa: RUF012

    def __init__(
        self,
        game: str,
        num_envs: int,
        max_episode_steps: int,
        render_mode: str | None = None,
        **settings: Any,
    ) -> None:
        self.func_env = find(game, settings)
        self.num_envs = num_envs
        self.render_mode = render_mode
        self.single_observation_space = self.func_env.observation_space
        self.single_action_space = self.func_env.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._limit = max_episode_steps
        self._begin_all = jax.jit(jax.vmap(self._begin))
        self._advance_all = jax.jit(jax.vmap(self._advance))
        self._key = jax.random.key(int(np.random.SeedSequence().generate_state(1)[0]))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[jax.Array, dict]:
        if seed is not None:
            self._key = jax.random.key(seed)
        self._state, observation = self._begin_all(self._keys())
        self._elapsed = jnp.zeros(self.num_envs, jnp.int32)
        self._is_over = jnp.zeros(self.num_envs, bool)
        return observation, {}

    def step(
        self, actions: Any
    ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array, dict[str, Any]]:
        self._state, self._elapsed, observation, reward, terminated, truncated = self._advance_all(
            self._state, self._elapsed, self._is_over, jnp.asarray(actions), self._keys()
        )
        self._is_over = terminated | truncated
        return observation, reward, terminated, truncated, {}

    def _keys(self) -> jax.Array:
        self._key, key = jax.random.split(self._key)
        return jax.random.split(key, self.num_envs)

    def _begin(self, key: jax.Array) -> tuple[Any, jax.Array]:
        state_key, observation_key = jax.random.split(key)
        state = self.func_env.initial(state_key)
        return state, self.func_env.observation(state, observation_key)

    def _advance(
        self, state: Any, elapsed: jax.Array, is_over: jax.Array, action: jax.Array, key: jax.Array
    ) -> tuple[Any, ...]:
        """One environment; where its episode is over, the action means nothing."""
        step_key, observation_key, begin_key = jax.random.split(key, 3)
        game = self.func_env
        going = game.transition(state, action, step_key)
        reward = game.reward(state, action, going, step_key)
        terminated = game.terminal(going, step_key)
        following, fresh_observation, elapsed = jax.tree.map(
            lambda new, old: jnp.where(is_over, new, old),
            (*self._begin(begin_key), 0),
            (going, game.observation(going, observation_key), elapsed + 1),
        )
        truncated = ~terminated & (elapsed >= self._limit)
        return (
            following,
            elapsed,
            fresh_observation,
            jnp.where(is_over, 0.0, reward),
            ~is_over & terminated,
            ~is_over & truncated,
        )
