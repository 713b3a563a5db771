"""Gymnasium environments on the host: made from names, vectorized, with episodes that reproduce."""

import difflib
import functools
import json
import multiprocessing
import signal
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from missing_bits.envs.wrappers import in_one_line, wrap
from missing_bits.errors import UserError

VECTORIZATIONS = ("serial", "async", "native")
SET_HERE = ("id", "render_mode", "disable_env_checker")
"""Arguments of `gymnasium.make` that a recipe's `kwargs` must leave alone: `make` sets them."""
# Part of an entry point -> the extra that brings it.
_INSTALLED_BY = {"ALE": "atari", "box2d": "box2d"}


@dataclass(frozen=True)
class Recipe:
    """What one environment is made of; worker processes make theirs from it too."""

    env: str
    """A Gymnasium id."""
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of `gymnasium.make`, but those `SET_HERE`."""
    wrappers: tuple[str, ...] = ()
    """Names of wrappers, the innermost first."""


def make(recipe: Recipe, **settings: Any) -> gym.Env:
    """The environment of a recipe within its wrappers, with every failure told as a `UserError`.

    Args:
      recipe: what to make.
      settings: further arguments of `gymnasium.make`, such as `render_mode`.
    """
    env_id = recipe.env
    kwargs = {"disable_env_checker": True, **recipe.kwargs, **settings}
    if env_id.startswith("ALE/"):
        _register_atari(env_id)
    try:
        env = gym.make(env_id, **kwargs)
    except gym.error.DependencyNotInstalled as error:
        entry_point = str(gym.spec(env_id).entry_point)
        extra = next((name for part, name in _INSTALLED_BY.items() if part in entry_point), None)
        remedy = f"pip install -e '.[{extra}]'" if extra else str(error)
        raise UserError(
            f"--env={env_id} needs packages that are not installed. Install them: {remedy}"
        ) from error
    except (gym.error.Error, ModuleNotFoundError) as error:
        close = difflib.get_close_matches(env_id, gym.registry, n=1, cutoff=0.5)
        hint = (
            f"Did you mean {close[0]}?"
            if close
            else "See gymnasium.pprint_registry() for the known ones."
        )
        raise UserError(
            f"--env={env_id} is not an environment Gymnasium can make here. {hint}"
        ) from error
    except Exception as error:
        what = f"--env={env_id} cannot be made"
        if recipe.kwargs:
            what = f"--env-kwargs='{json.dumps(recipe.kwargs)}' does not suit {env_id}"
        raise UserError(f"{what}: {in_one_line(error)}") from error
    return wrap(env, env_id, recipe.wrappers)


def _register_atari(env_id: str) -> None:
    try:
        import ale_py
    except ImportError as error:
        raise UserError(
            f"--env={env_id} needs ale-py. Install it: pip install -e '.[atari]'"
        ) from error
    gym.register_envs(ale_py)


def check_spaces(env_id: str, observation_space: gym.Space, action_space: gym.Space) -> None:
    """Raises `UserError` unless observations are vectors or images and actions are discrete."""
    if not isinstance(action_space, gym.spaces.Discrete):
        kind = "a continuous" if isinstance(action_space, gym.spaces.Box) else "the"
        raise UserError(
            f"--env={env_id} has {kind} action space {in_words(action_space)}; this experiment "
            "needs discrete actions, such as CartPole-v1's."
        )
    is_box = isinstance(observation_space, gym.spaces.Box)
    if is_box and len(observation_space.shape) in (1, 3):
        return
    is_discrete = isinstance(observation_space, gym.spaces.Discrete)
    remedy = "--wrappers one_hot" if is_discrete else "--wrappers flatten"
    raise UserError(
        f"--env={env_id} has the observation space {in_words(observation_space)}; this experiment "
        "needs a Box: vectors [features] or images [height, width, channels]. "
        f"{remedy} makes vectors of them."
    )


def in_words(space: gym.Space) -> str:
    """A space in one line."""
    return textwrap.shorten(str(space), 200)


def episode_seed(seed: int, stream: str, env: int, episode: int) -> int:
    """The seed of one episode: a pure function of run, purpose, environment and episode."""
    entropy = (seed, *stream.encode(), env, episode)
    return int(np.random.SeedSequence(entropy).generate_state(1)[0] >> 1)


class Episodes(gym.Wrapper):
    """Seeds every episode and keeps the open one's actions, so that it can be played again.

    Most environments cannot save themselves. One whose episodes depend only on their seed and
    actions can be brought back to mid-episode all the same: `resume_at` makes the next `reset`
    start the given episode and play the given actions. Every reset without it starts the next
    episode; its `seed` argument is ignored.
    """

    def __init__(self, env: gym.Env, seed: int, stream: str, index: int) -> None:
        super().__init__(env)
        self._seeding = (seed, stream, index)
        self._index = index
        self._first_action = int(env.action_space.start)
        self.episode = -1
        self.actions: list[int] = []
        self._replayed: Sequence[int] = ()

    def resume_at(self, episodes: Sequence[int], logs: Sequence[Sequence[int]]) -> None:
        """Makes the next `reset` return where `episodes[index]` stood after `logs[index]`."""
        self.episode = int(episodes[self._index]) - 1
        self._replayed = logs[self._index]

    def progress(self) -> tuple[int, list[int]]:
        """The open episode's number and the actions taken in it."""
        return self.episode, self.actions

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict]:
        self.episode += 1
        self.actions = []
        replayed = self._replayed
        self._replayed = ()
        observation, info = self.env.reset(
            seed=episode_seed(*self._seeding, self.episode), options=options
        )
        for action in replayed:
            observation, _, terminated, truncated, info = self.step(int(action))
            if terminated or truncated:  # the log is of an open episode: it does not reproduce
                return self.reset()
        return observation, info

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict]:
        self.actions.append(int(action))
        return self.env.step(self._first_action + action)


class SerialVectorEnv(VectorEnv):
    """Environments stepped one after another in this process, resetting in the same step.

    Gymnasium's SyncVectorEnv does the same for any space and autoreset mode; for Box observations
    and one environment it spends several times the environment's own time on bookkeeping.
    """

    def __init__(self, env_fns: Sequence[Callable[[], gym.Env]]) -> None:
        self.envs = [make_one() for make_one in env_fns]
        self.num_envs = len(self.envs)
        self.single_observation_space = self.envs[0].observation_space
        self.single_action_space = self.envs[0].action_space
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict]:
        return np.stack([env.reset(options=options)[0] for env in self.envs]), {}

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict]:
        space = self.single_observation_space
        observations = np.empty((self.num_envs, *space.shape), space.dtype)
        rewards = np.empty(self.num_envs)
        terminated = np.zeros(self.num_envs, bool)
        truncated = np.zeros(self.num_envs, bool)
        final = None
        for i, (env, action) in enumerate(zip(self.envs, actions.tolist(), strict=True)):
            observation, rewards[i], terminated[i], truncated[i], _ = env.step(action)
            if terminated[i] or truncated[i]:
                final = np.full(self.num_envs, None, object) if final is None else final
                # A copy: an environment may have one buffer for all its observations.
                final[i] = np.copy(observation)
                observation, _ = env.reset()
            observations[i] = observation
        info = {} if final is None else {"final_obs": final}
        return observations, rewards, terminated, truncated, info

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        return tuple(env.get_wrapper_attr(name)(*args, **kwargs) for env in self.envs)

    def close_extras(self, **kwargs: Any) -> None:
        for env in self.envs:
            env.close()


def _make_episodes(recipe: Recipe, seed: int, stream: str, index: int) -> gym.Env:
    if multiprocessing.parent_process() is not None:
        # Ctrl-C reaches workers too; the parent saves, then closes them.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return Episodes(make(recipe), seed, stream, index)


def make_vector(
    recipe: Recipe, num_envs: int, seed: int, stream: str, vectorization: str
) -> VectorEnv:
    """A vector environment whose episodes reproduce, except for "native" ones.

    Args:
      recipe: what each environment is made of.
      num_envs: how many, from 1 up.
      seed: the run's seed.
      stream: what the environments are for ("train", "eval"): each purpose has its own episodes.
      vectorization: "serial" in this process; "async" with a process for each, for slow
        environments; "native" through the environment's own vector class, without wrappers, whose
        episodes cannot be played again.
    """
    env_fns = [functools.partial(_make_episodes, recipe, seed, stream, i) for i in range(num_envs)]
    if vectorization == "serial":
        return SerialVectorEnv(env_fns)
    if vectorization == "async":
        return gym.vector.AsyncVectorEnv(
            env_fns, autoreset_mode=AutoresetMode.SAME_STEP, context="forkserver"
        )
    try:
        envs = gym.make_vec(
            recipe.env, num_envs, vectorization_mode="vector_entry_point", **recipe.kwargs
        )
    except gym.error.Error as error:
        raise UserError(
            f"--env={recipe.env} has no vector class of its own. "
            "Use --vectorization=serial or async."
        ) from error
    except Exception as error:
        raise UserError(
            f"--vectorization=native: the vector class of {recipe.env} cannot be made with "
            f"--env-kwargs='{json.dumps(recipe.kwargs)}': {in_one_line(error)}"
        ) from error
    envs.reset(seed=episode_seed(seed, stream, 0, 0))
    return envs
