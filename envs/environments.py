"""Environments on the host and on the device, and the way of an observation from them to the loss.

Axes: E environments of one seed, or this device's share of them; V vector steps between two
updates; S seeds; K updates in one call. An agent is written for one seed and one update: it sees
[E, ...] when it acts and [E, V, ...] when it learns.

1. An observation [E, ...] waits in its environments. What the agent remembers of the episode, its
   memory [E, ...], waits beside it; a flag [E] says where an episode begins and the memory is of
   the one before.
2. The agent answers: `act(learned, memory, observation, reset, env_steps, key)` returns
   `Acted(action, memory, extras)`. The loop asks on behalf of the environments, and binds `learned`
   to what the parameters are in this update. On the host, `Actor.next` has the observations
   [S, E, ...] of all seeds answered in one call, and the loop keeps the memory. On the device,
   `DeviceActor.next` asks inside the update, and keeps the memory itself.
3. The environments step: rewards, ends and successor observations [E, ...] join the observation,
   the action and the extras in one row of `Steps`. Back to 1, until the steps that the update waits
   for are made.
4. The rows become one batch `Steps` [E, V, ...]; V is always the same, and rows that were not
   needed are not valid. A batch from the host is [S, E, V, ...]; the loop makes it
   [K, S, E, V, ...] (K is 1, as acting needs the parameters of the update before), lays S and E out
   over devices and walks along K.
5. `step(state, batch, key)`, one update of one seed, gets `Steps` [E, V, ...] of either kind. An
   agent with a replay inserts them and samples transitions [B, ...]; another one learns from them
   as they are. Losses are written for one transition or one sequence, and mapped.

`Envs.find` decides which kind an id names; no agent branches on it.
"""

import contextlib
import json
import os
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np

from missing_bits.envs import functional, wrappers
from missing_bits.envs.actor import Actor
from missing_bits.envs.functional import DeviceActor
from missing_bits.envs.gymnasium_envs import (
    SET_HERE,
    VECTORIZATIONS,
    Recipe,
    check_spaces,
    episode_seed,
    in_words,
    make,
    make_vector,
)
from missing_bits.envs.stepper import Stepper
from missing_bits.envs.steps import Player
from missing_bits.errors import UserError, require, require_positive

EPISODE_LIMIT = 27_000
"""Steps at which an evaluation episode ends where the environment itself sets no limit."""

Recording = tuple[list[np.ndarray], list[float]]
"""RGB frames [height, width, 3] uint8, before the first step and after each; the return at each."""


class HostEnvironments:
    """Gymnasium environments: an `Actor` on the host makes the steps, an update receives them.

    Args:
      recipe: what an environment is made of.
      num_envs: environments stepped together.
      period: environment steps per update.
      vectorization: how they are stepped: "serial", "async" or "native".
    """

    def __init__(self, recipe: Recipe, num_envs: int, period: int, vectorization: str) -> None:
        env = make(recipe)
        check_spaces(recipe.env, env.observation_space, env.action_space)
        if recipe.wrappers:
            _try_wrappers(recipe, env)
        env.close()
        self.env_id = recipe.env
        self.observation_space = env.observation_space
        self.num_actions = int(env.action_space.n)
        self._recipe = recipe
        self._num_envs = num_envs
        self._period = period
        self._vectorization = vectorization

    def source(self, seeds: Sequence[int]) -> Actor:
        """What makes every update's steps, on the host."""
        return Actor(self._recipe, self._num_envs, seeds, self._period, self._vectorization)

    def returns(self, player: Player, learned: Any, episodes: int, key: jax.Array) -> np.ndarray:
        """The returns of whole episodes in environments of their own, one episode each.

        Args:
          player: the agent.
          learned: what it has learned.
          episodes: how many.
          key: random key.

        Returns:
          [episodes] float64.
        """
        seed = int(jax.random.bits(key))
        stepper = Stepper(make_vector(self._recipe, episodes, seed, "eval", "serial"))
        memory = player.memory(episodes)
        going = np.ones(episodes, bool)
        total = np.zeros(episodes)
        for _ in range(EPISODE_LIMIT):
            action, memory = player.act(learned, memory, stepper.observation, stepper.resets)
            outcome, _ = stepper.step(np.asarray(action))
            total += np.where(going, outcome.r_t, 0.0)
            going &= ~(outcome.terminated | outcome.truncated)
            if not going.any():
                break
        stepper.envs.close()
        return total

    def record(self, player: Player, learned: Any, seed: int) -> Recording:
        """Plays one episode with rendering; no frames where the environment draws none."""
        return _record(self._recipe, player, learned, seed)


class FunctionalEnvironments:
    """JAX-native environments: the update itself makes the steps.

    Args:
      recipe: what an environment is made of; no wrappers.
      env: the environment that Gymnasium makes of it.
      num_envs: environments stepped together, over all devices.
      period: environment steps per update.
    """

    def __init__(self, recipe: Recipe, env: gym.Env, num_envs: int, period: int) -> None:
        func_env = env.unwrapped.func_env
        check_spaces(recipe.env, func_env.observation_space, func_env.action_space)
        self.env_id = recipe.env
        self.observation_space = func_env.observation_space
        self.num_actions = int(func_env.action_space.n)
        self._recipe = recipe
        self._env = func_env
        self._num_envs = num_envs
        self._period = period
        self._limit = env.spec.max_episode_steps or EPISODE_LIMIT
        self._returns = jax.jit(self._play, static_argnums=(0, 2))

    def source(self, seeds: Sequence[int]) -> DeviceActor:
        """What makes every update's steps, on the device; it does not depend on the seeds."""
        return DeviceActor(self._env, self._limit, self._num_envs, self._period)

    def returns(self, player: Player, learned: Any, episodes: int, key: jax.Array) -> np.ndarray:
        """The returns of whole episodes in environments of their own: [episodes] float32."""
        return np.asarray(self._returns(player, learned, episodes, key))

    def record(self, player: Player, learned: Any, seed: int) -> Recording:
        """Plays one episode with rendering; no frames where the environment draws none."""
        return _record(self._recipe, player, learned, seed)

    def _play(self, player: Player, learned: Any, episodes: int, key: jax.Array) -> jax.Array:
        return functional.returns(self._env, self._limit, episodes, player, learned, key)


Environments = HostEnvironments | FunctionalEnvironments


@dataclass(frozen=True)
class Envs:
    """The environments that an agent learns from and is judged in."""

    env: str = "CartPole-v1"
    """Gymnasium id with discrete actions; phys2d/CartPole-v1 runs inside the jitted update."""
    num_envs: int = 1
    """Environments stepped together."""
    vectorization: str = "serial"
    """How host environments are stepped: serial, async (a process each), native (their class)."""
    env_kwargs: str = ""
    """What the environment is made with, as a JSON object, such as '{"is_slippery": false}'."""
    wrappers: tuple[str, ...] = ()
    """Around each environment, the innermost first: flatten, one_hot, grayscale, resize:84x84,
    frame_stack:4, or your own module:function, which maps an environment to one."""
    eval_episodes: int = 100
    """Episodes of a greedy evaluation, each in an environment of its own."""

    def check(self, prefix: str) -> None:
        """Raises `UserError` for settings that cannot run."""
        require_positive(self, "num_envs", "eval_episodes", prefix=prefix)
        require(
            self.vectorization in VECTORIZATIONS,
            f"--{prefix}vectorization={self.vectorization} is unknown; it is one of "
            f"{', '.join(VECTORIZATIONS)}.",
        )
        self._kwargs(prefix)
        for name in self.wrappers:
            wrappers.find(name)
        require(
            not self.wrappers or self.vectorization != "native",
            f"--{prefix}vectorization=native steps a vector class of the environment's own, which "
            f"wrappers do not fit; leave out --{prefix}wrappers, or use serial or async.",
        )

    def modules(self) -> list[str]:
        """The values that name code to be imported, such as "my_package.envs:Maze-v0"."""
        ids = [self.env] if ":" in self.env else []
        return ids + [name for name in self.wrappers if wrappers.imports_code(name)]

    def find(self, period: int) -> Environments:
        """The environments that these settings name; `check` holds.

        Args:
          period: environment steps per update.

        Raises:
          UserError: unknown id, missing packages, arguments or wrappers that do not suit the
            environment, spaces that do not suit an agent, or settings that do not apply to
            JAX-native environments.
        """
        recipe = Recipe(self.env, self._kwargs(""), self.wrappers)
        env = make(Recipe(recipe.env, recipe.kwargs))
        if not hasattr(env.unwrapped, "func_env"):
            env.close()
            return HostEnvironments(recipe, self.num_envs, period, self.vectorization)
        require(
            self.vectorization == "serial",
            f"--vectorization={self.vectorization} is for host environments; {self.env} is "
            "JAX-native.",
        )
        require(
            not self.wrappers,
            f"--wrappers {' '.join(self.wrappers)} are for host environments; {self.env} is "
            "JAX-native.",
        )
        return FunctionalEnvironments(recipe, env, self.num_envs, period)

    def _kwargs(self, prefix: str) -> dict[str, Any]:
        if not self.env_kwargs:
            return {}
        try:
            kwargs = json.loads(self.env_kwargs)
        except json.JSONDecodeError:
            kwargs = None
        require(
            isinstance(kwargs, dict),
            f"--{prefix}env-kwargs={self.env_kwargs} is no JSON object; write one, such as "
            """'{"is_slippery": false}'.""",
        )
        for name in SET_HERE:
            require(
                name not in kwargs,
                f"--{prefix}env-kwargs='{json.dumps(kwargs)}' sets {name}, which every "
                "environment is given anyway; leave it out.",
            )
        return kwargs


def _try_wrappers(recipe: Recipe, env: gym.Env) -> None:
    """Raises `UserError` where an observation does not come out of the wrappers as they promise.

    They are to blame only where the environment without them is sound.

    Args:
      recipe: what the environment is made of.
      env: the environment within its wrappers.
    """
    fault = _fault(env)
    if not fault:
        return
    bare = make(Recipe(recipe.env, recipe.kwargs))
    own_fault = _fault(bare)
    bare.close()
    if own_fault:
        raise UserError(
            f"--env={recipe.env}: {own_fault}. Mend the environment; its wrappers are not to blame."
        )
    raise UserError(
        f"--wrappers {' '.join(recipe.wrappers)} around {recipe.env}: {fault}. Mend them, or leave "
        "them out."
    )


def _fault(env: gym.Env) -> str:
    """What is wrong with the first observation of an episode; empty if nothing is.

    Bounds are not looked at, as nothing depends on them: many an environment leaves its own.
    """
    try:
        observation, _ = env.reset(seed=0)
    except Exception as error:
        return f"no episode can begin: {wrappers.in_one_line(error)}"
    space = env.observation_space
    broken = f"observation_space is {in_words(space)}, but the first observation"
    if not isinstance(space, gym.spaces.Box):
        shown = textwrap.shorten(repr(observation), 100)
        return "" if space.contains(observation) else f"{broken} is {shown}"
    try:
        array = np.asarray(observation)
    except ValueError as error:  # such as lists of several lengths
        return f"{broken} makes no array: {wrappers.in_one_line(error)}"
    # Integers are cast to any dtype; fractions would be lost in all but floats.
    castable = array.dtype.kind in "biu" or np.can_cast(array.dtype, space.dtype, "same_kind")
    if castable and array.shape == space.shape:
        return ""
    return f"{broken} has shape {array.shape} and dtype {array.dtype}"


def _record(recipe: Recipe, player: Player, learned: Any, seed: int) -> Recording:
    with _off_screen():
        return _play(recipe, player, learned, seed)


@contextlib.contextmanager
def _off_screen() -> Iterator[None]:
    """Frames are drawn off screen, unless the environment variable says where to."""
    name = "SDL_VIDEODRIVER"
    lacking = name not in os.environ
    if lacking:
        os.environ[name] = "dummy"
    try:
        yield
    finally:
        if lacking:
            del os.environ[name]


def _play(recipe: Recipe, player: Player, learned: Any, seed: int) -> Recording:
    silent = make(recipe)
    modes = silent.metadata.get("render_modes", ())
    silent.close()
    if "rgb_array" not in modes:
        return [], []
    env = make(recipe, render_mode="rgb_array")
    first_action = int(env.action_space.start)
    observation, _ = env.reset(seed=episode_seed(seed, "record", 0, 0))
    memory = player.memory(1)
    reset = np.ones(1, bool)
    frames = [env.render()]
    returns = [0.0]
    for _ in range(EPISODE_LIMIT):
        action, memory = player.act(learned, memory, np.asarray(observation)[None], reset)
        reset = np.zeros(1, bool)
        choice = int(np.asarray(action)[0])
        observation, reward, terminated, truncated, _ = env.step(first_action + choice)
        frames.append(env.render())
        returns.append(returns[-1] + float(reward))
        if terminated or truncated:
            break
    env.close()
    return frames, returns


def stored_dtype(dtype: np.dtype) -> jnp.dtype:
    """How observations of a dtype are kept in replay: bytes as they are, all else as float32."""
    return jnp.uint8 if dtype == np.uint8 else jnp.float32
