"""Gymnasium environments on the host: found by name, checked, vectorized, and made to reproduce their episodes."""

import difflib
import functools
import multiprocessing
import signal
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from missing_bits.errors import UserError

VECTORIZATIONS = ("serial", "async", "native")
_EXTRAS = {
    "ALE": "atari",
    "box2d": "box2d",
}  # what the id or entry point contains -> the extra that brings it


def make(env_id: str, **kwargs: Any) -> gym.Env:
    """`gymnasium.make`, with every failure told as a `UserError`."""
    if env_id.startswith("ALE/"):
        _register_atari(env_id)
    try:
        return gym.make(env_id, disable_env_checker=True, **kwargs)
    except gym.error.DependencyNotInstalled as error:
        entry_point = str(gym.spec(env_id).entry_point)
        extra = next((name for part, name in _EXTRAS.items() if part in entry_point), None)
        remedy = f"pip install -e '.[{extra}]'" if extra else str(error)
        raise UserError(
            f"--env={env_id} needs packages that are not installed. Install them: {remedy}"
        ) from error
    except (
        gym.error.UnregisteredEnv,
        gym.error.DeprecatedEnv,
        gym.error.Error,
        ModuleNotFoundError,
    ) as error:
        close = difflib.get_close_matches(env_id, gym.registry, n=1, cutoff=0.5)
        hint = (
            f"Did you mean {close[0]}?"
            if close
            else "See gymnasium.pprint_registry() for the known ones."
        )
        raise UserError(
            f"--env={env_id} is not an environment Gymnasium can make here. {hint}"
        ) from error


def _register_atari(env_id: str) -> None:
    try:
        import ale_py
    except ImportError as error:
        raise UserError(
            f"--env={env_id} needs ale-py. Install it: pip install -e '.[atari]'"
        ) from error
    gym.register_envs(ale_py)


def check_spaces(env_id: str, observation_space: gym.Space, action_space: gym.Space) -> None:
    """Raises `UserError` unless observations are a Box of 1 or 3 dimensions and actions are discrete."""
    if not isinstance(action_space, gym.spaces.Discrete):
        kind = "a continuous" if isinstance(action_space, gym.spaces.Box) else "the"
        raise UserError(
            f"--env={env_id} has {kind} action space {action_space}; this experiment needs discrete actions, "
            "such as CartPole-v1's."
        )
    if not isinstance(observation_space, gym.spaces.Box) or len(observation_space.shape) not in (
        1,
        3,
    ):
        raise UserError(
            f"--env={env_id} has the observation space {observation_space}; this experiment needs a Box: "
            "vectors [features] or images [height, width, channels]."
        )


def episode_seed(seed: int, stream: str, env: int, episode: int) -> int:
    """The seed of one episode: a pure function of the run's seed, the purpose, the environment and the episode."""
    entropy = (seed, *stream.encode(), env, episode)
    return int(np.random.SeedSequence(entropy).generate_state(1)[0] >> 1)


class Episodes(gym.Wrapper):
    """Seeds every episode explicitly and keeps the open one's actions, so that it can be played again.

    Most environments cannot save themselves. One whose episodes depend only on their seed and actions can be
    brought back to mid-episode all the same: `resume_at` makes the next `reset` start the given episode and play
    the given actions. Every reset without it starts the next episode; its `seed` argument is ignored.
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
        """Makes the next `reset` return where `episodes[i]` stood after `logs[i]`, i this environment's index."""
        self.episode, self._replayed = int(episodes[self._index]) - 1, logs[self._index]

    def progress(self) -> tuple[int, list[int]]:
        """The open episode's number and the actions taken in it."""
        return self.episode, self.actions

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict]:
        self.episode += 1
        self.actions, replayed, self._replayed = [], self._replayed, ()
        observation, info = self.env.reset(
            seed=episode_seed(*self._seeding, self.episode), options=options
        )
        for action in replayed:
            observation, _, terminated, truncated, info = self.step(int(action))
            if (
                terminated or truncated
            ):  # the log is of an open episode: this one does not reproduce
                return self.reset()
        return observation, info

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict]:
        self.actions.append(int(action))
        return self.env.step(self._first_action + action)


class SerialVectorEnv(VectorEnv):
    """Environments stepped one after another in this process, resetting in the same step.

    Gymnasium's SyncVectorEnv does the same for any space and autoreset mode; for Box observations and one
    environment it spends several times the environment's own time on bookkeeping.
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
        terminated, truncated = np.zeros(self.num_envs, bool), np.zeros(self.num_envs, bool)
        final = None
        for i, (env, action) in enumerate(zip(self.envs, actions.tolist(), strict=True)):
            observation, rewards[i], terminated[i], truncated[i], _ = env.step(action)
            if terminated[i] or truncated[i]:
                final = np.full(self.num_envs, None, object) if final is None else final
                final[i] = np.copy(
                    observation
                )  # an environment may have one buffer for all its observations
                observation, _ = env.reset()
            observations[i] = observation
        return (
            observations,
            rewards,
            terminated,
            truncated,
            {} if final is None else {"final_obs": final},
        )

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        return tuple(env.get_wrapper_attr(name)(*args, **kwargs) for env in self.envs)

    def close_extras(self, **kwargs: Any) -> None:
        for env in self.envs:
            env.close()


def _make_episodes(env_id: str, seed: int, stream: str, index: int) -> gym.Env:
    if multiprocessing.parent_process() is not None:
        signal.signal(
            signal.SIGINT, signal.SIG_IGN
        )  # Ctrl-C reaches workers too; the parent saves, then closes them
    return Episodes(make(env_id), seed, stream, index)


def make_vector(
    env_id: str, num_envs: int, seed: int, stream: str, vectorization: str
) -> VectorEnv:
    """A vector environment whose episodes reproduce, except for "native" ones.

    Args:
      env_id: a Gymnasium id.
      num_envs: how many, from 1 up.
      seed: the run's seed.
      stream: what the environments are for ("train", "eval"): each purpose has its own episodes.
      vectorization: "serial" in this process; "async" with a process for each, for slow environments; "native"
        through the environment's own vector class, whose episodes cannot be played again.
    """
    env_fns = [functools.partial(_make_episodes, env_id, seed, stream, i) for i in range(num_envs)]
    if vectorization == "serial":
        return SerialVectorEnv(env_fns)
    if vectorization == "async":
        return gym.vector.AsyncVectorEnv(
            env_fns, autoreset_mode=AutoresetMode.SAME_STEP, context="forkserver"
        )
    try:
        envs = gym.make_vec(env_id, num_envs, vectorization_mode="vector_entry_point")
    except gym.error.Error as error:
        raise UserError(
            f"--env={env_id} has no vector class of its own. Use --vectorization=serial or async."
        ) from error
    envs.reset(seed=episode_seed(seed, stream, 0, 0))
    return envs


class Stepper:
    """One view of a vector environment for all autoreset modes: every step with its true successor observation.

    NEXT_STEP environments answer the action after an episode's end with a reset: those rows are not steps and come
    back with `valid` false. SAME_STEP ones hide the final observation in their info; DISABLED ones are reset here.
    """

    def __init__(self, envs: VectorEnv) -> None:
        self.envs = envs
        self.mode = AutoresetMode(envs.metadata["autoreset_mode"])
        self.observation = np.asarray(envs.reset()[0])
        self._all, self._resetting = np.ones(envs.num_envs, bool), np.zeros(envs.num_envs, bool)

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, ...]:
        """Steps all environments and moves `observation` to what the next actions are chosen on.

        Args:
          actions: [E] integers.

        Returns:
          Rewards [E], terminated [E], truncated [E], successor observations [E, ...] and valid [E].
        """
        observation, rewards, terminated, truncated, info = self.envs.step(actions)
        observation = successor = np.asarray(observation)
        valid = self._all
        if self.mode is AutoresetMode.SAME_STEP:
            if "final_obs" in info:
                successor = observation.copy()
                for i in np.flatnonzero(terminated | truncated):
                    successor[i] = info["final_obs"][i]
        elif self.mode is AutoresetMode.NEXT_STEP:
            valid, self._resetting = (
                ~self._resetting,
                np.asarray(terminated) | np.asarray(truncated),
            )
        elif (done := terminated | truncated).any():
            observation = np.asarray(self.envs.reset(options={"reset_mask": done})[0])
        self.observation = observation
        return np.asarray(rewards), np.asarray(terminated), np.asarray(truncated), successor, valid
