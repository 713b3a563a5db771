"""What an agent asks of its environments, the same for Gymnasium's on the host and for JAX-native ones.

`find` decides which kind an id names; no agent branches on it.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np

from missing_bits import collectives
from missing_bits.envs import functional
from missing_bits.envs.actor import Actor
from missing_bits.envs.gymnasium_envs import (
    VECTORIZATIONS,
    Stepper,
    check_spaces,
    episode_seed,
    make,
    make_vector,
)
from missing_bits.envs.steps import Steps
from missing_bits.errors import UserError, require

EPISODE_LIMIT = (
    27_000  # steps at which an evaluation episode ends where the environment itself sets no limit
)

Greedy = Callable[[Any, jax.Array], jax.Array]  # (parameters, observations [E, ...]) -> actions [E]


class HostEnvironments:
    """Gymnasium environments: an `Actor` on the host makes the steps, an update receives them as its batch."""

    def __init__(self, env_id: str, num_envs: int, period: int, vectorization: str) -> None:
        env = make(env_id)
        check_spaces(env_id, env.observation_space, env.action_space)
        env.close()
        self.env_id = env_id
        self.observation_space = env.observation_space
        self.num_actions = int(env.action_space.n)
        self._num_envs, self._period, self._vectorization = num_envs, period, vectorization

    def source(self, seeds: Sequence[int]) -> Actor:
        """The actor that yields every update's batch."""
        return Actor(self.env_id, self._num_envs, seeds, self._period, self._vectorization)

    def init(self, key: jax.Array) -> tuple[()]:
        """No state on the device."""
        return ()

    def collect(
        self, state: tuple[()], batch: Steps, act: functional.Act, key: jax.Array
    ) -> tuple[tuple[()], Steps]:
        """The steps the actor made."""
        return state, batch

    def metrics(self, state: tuple[()]) -> dict[str, jax.Array]:
        """None: the actor knows the episodes."""
        return {}

    def returns(self, greedy: Greedy, params: Any, episodes: int, key: jax.Array) -> np.ndarray:
        """Returns of whole episodes in environments of their own, one episode each: [episodes] float64."""
        seed = int(jax.random.bits(key))
        envs = make_vector(self.env_id, episodes, seed, "eval", "serial")
        stepper = Stepper(envs)
        going, total = np.ones(episodes, bool), np.zeros(episodes)
        for _ in range(EPISODE_LIMIT):
            action = np.asarray(greedy(params, stepper.observation))
            reward, terminated, truncated, _, _ = stepper.step(action)
            total += np.where(going, reward, 0.0)
            going &= ~(terminated | truncated)
            if not going.any():
                break
        envs.close()
        return total


class FunctionalEnvironments:
    """JAX-native environments: the update itself makes the steps, so there is no source."""

    def __init__(self, env_id: str, env: gym.Env, num_envs: int, period: int) -> None:
        func_env = env.unwrapped.func_env
        check_spaces(env_id, func_env.observation_space, func_env.action_space)
        self.env_id = env_id
        self.observation_space = func_env.observation_space
        self.num_actions = int(func_env.action_space.n)
        self._env, self._num_envs, self._period = func_env, num_envs, period
        self._limit = env.spec.max_episode_steps or EPISODE_LIMIT
        self._returns = jax.jit(self._play, static_argnums=(0, 2))

    def source(self, seeds: Sequence[int]) -> None:
        """None: an update needs no batch."""
        return None

    def init(self, key: jax.Array) -> functional.VectorState:
        """This device's environments at the start of their first episodes."""
        return functional.reset(self._env, self._num_envs, key)

    def collect(
        self, state: functional.VectorState, batch: None, act: functional.Act, key: jax.Array
    ) -> tuple[functional.VectorState, Steps]:
        """Makes the steps that the next update waits for."""
        return functional.collect(
            self._env, self._limit, self._num_envs, self._period, state, act, key
        )

    def metrics(self, state: functional.VectorState) -> dict[str, jax.Array]:
        """The mean over environments of the last finished episode's return (0 before there is one)."""
        return {"train/episode_return": collectives.mean(jnp.mean(state.envs.last_return))}

    def returns(self, greedy: Greedy, params: Any, episodes: int, key: jax.Array) -> np.ndarray:
        """Returns of whole episodes in environments of their own: [episodes] float32."""
        return np.asarray(self._returns(greedy, params, episodes, key))

    def _play(self, greedy: Greedy, params: Any, episodes: int, key: jax.Array) -> jax.Array:
        return functional.returns(
            self._env, self._limit, episodes, lambda x: greedy(params, x), key
        )


Environments = HostEnvironments | FunctionalEnvironments


def find(env_id: str, num_envs: int, period: int, vectorization: str) -> Environments:
    """The environments an id names.

    Args:
      env_id: a Gymnasium id; one built on a `FuncEnv`, such as "phys2d/CartPole-v1", runs inside the jitted update.
      num_envs: environments stepped together.
      period: environment steps per update.
      vectorization: how host environments are stepped: "serial", "async" or "native".

    Raises:
      UserError: unknown id, missing packages, spaces that do not fit, or a vectorization that does not apply.
    """
    require(
        vectorization in VECTORIZATIONS,
        f"--vectorization={vectorization} is unknown; it is one of {', '.join(VECTORIZATIONS)}.",
    )
    env = make(env_id)
    if hasattr(env.unwrapped, "func_env"):
        if vectorization != "serial":
            raise UserError(
                f"--vectorization={vectorization} is for host environments; {env_id} is JAX-native."
            )
        return FunctionalEnvironments(env_id, env, num_envs, period)
    env.close()
    return HostEnvironments(env_id, num_envs, period, vectorization)


def record(
    env_id: str, greedy: Greedy, params: Any, seed: int
) -> tuple[list[np.ndarray], list[float]]:
    """Plays one episode with rendering.

    Returns:
      RGB frames [height, width, 3] uint8 and the return after each; no frames where the environment draws none.
    """
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # frames are drawn off screen
    modes = make(env_id).metadata.get("render_modes", ())
    if "rgb_array" not in modes:
        return [], []
    env = make(env_id, render_mode="rgb_array")
    observation, _ = env.reset(seed=episode_seed(seed, "record", 0, 0))
    frames, returns = [env.render()], [0.0]
    for _ in range(EPISODE_LIMIT):
        action = int(np.asarray(greedy(params, np.asarray(observation)[None]))[0])
        observation, reward, terminated, truncated, _ = env.step(
            action + int(env.action_space.start)
        )
        frames.append(env.render())
        returns.append(returns[-1] + float(reward))
        if terminated or truncated:
            break
    env.close()
    return frames, returns


def stored_dtype(dtype: np.dtype) -> jnp.dtype:
    """How observations of a dtype are kept in replay: bytes as they are, all else as float32."""
    return jnp.uint8 if dtype == np.uint8 else jnp.float32
