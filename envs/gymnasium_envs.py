"""Gymnasium environments on the host: made from names, vectorized, with episodes that reproduce."""

import contextlib
import difflib
import functools
import json
import multiprocessing
import re
import signal
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.async_vector_env import AsyncState

import missing_bits.envs.native  # noqa: F401 (registers the ids that begin with jax/)
from missing_bits.envs.contract import Checked, as_jax_holds, in_one_line, in_words
from missing_bits.envs.wrappers import wrap
from missing_bits.errors import UserError, require

VECTORIZATIONS = ("serial", "async", "native")
SET_HERE = ("id", "render_mode", "disable_env_checker")
"""Arguments of `gymnasium.make` that a recipe's `kwargs` must leave alone: `make` sets them."""
# Part of an entry point -> the extra that brings it.
_INSTALLED_BY = {"ALE": "atari", "box2d": "box2d"}
# A module that cannot be imported -> the extra that brings it.
_BROUGHT_BY = {"flax": "phys2d"}
# Beginnings of ids that a package registers once it is imported -> the package, and what makes
# images of its observations.
_REGISTERED_BY = {
    "MiniGrid-": ("minigrid", "--wrappers minigrid.wrappers:ImgObsWrapper"),
    "BabyAI-": ("minigrid", "--wrappers minigrid.wrappers:ImgObsWrapper"),
}
_GAMES = "Asterix|BeamRider|Breakout|Enduro|Freeway|MsPacman|Pong|Qbert|Seaquest|SpaceInvaders"
_OLD_ATARI = re.compile(rf"(\w+?)(?:-ram)?(?:NoFrameskip|Deterministic)-v\d|({_GAMES})-v\d")


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
    module, colon, name = env_id.partition(":")
    require(
        not colon or (bool(module) and bool(name) and ":" not in name),
        f"--env={env_id} is no environment's name; write Id-v0, or module:Id-v0 with one colon.",
    )
    if env_id.startswith("ALE/"):
        _register_atari(env_id)
    try:
        env = gym.make(env_id, **kwargs)
    except (Exception, SystemExit) as error:  # a module that is imported may exit
        raise UserError(_why_not(recipe, error)) from error
    return wrap(env, env_id, recipe.wrappers)


def _why_not(recipe: Recipe, error: BaseException) -> str:
    """Why an environment cannot be made, and what to do, in one line."""
    env_id = recipe.env
    module = env_id.partition(":")[0]
    if isinstance(error, gym.error.DependencyNotInstalled):
        spec = _registered(env_id)
        entry_point = str(spec.entry_point) if spec else ""
        extra = next((name for part, name in _INSTALLED_BY.items() if part in entry_point), None)
        remedy = f"pip install -e '.[{extra}]'" if extra else str(error)
        return f"--env={env_id} needs packages that are not installed. Install them: {remedy}"
    # Gymnasium raises another error of the kind, which names no module, from the first.
    missing = getattr(error, "name", None) or getattr(error.__cause__, "name", None)
    if missing in _BROUGHT_BY:
        return (
            f"--env={env_id} needs {missing}, which is not installed. Install it: pip install -e "
            f"'.[{_BROUGHT_BY[missing]}]'"
        )
    is_missing = isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{missing}.")
    if isinstance(error, gym.error.Error) or is_missing:
        return f"--env={env_id} is not an environment Gymnasium can make here. {_hint(env_id)}"
    what = f"--env={env_id} cannot be made"
    if recipe.kwargs:
        what = f"--env-kwargs='{json.dumps(recipe.kwargs)}' does not suit {env_id}"
    return f"{what}: {in_one_line(error)}"


def _registered(env_id: str) -> Any:
    """What Gymnasium knows of an id, whose module is imported; None if that is nothing."""
    return gym.registry.get(env_id.rpartition(":")[2])


def has_own_vector_class(recipe: Recipe) -> bool:
    """Whether Gymnasium itself brings a vector class for just this environment.

    Others' vector classes may differ from their environment, as that of Atari does.
    """
    spec = _registered(recipe.env)
    if spec is None or recipe.kwargs or recipe.wrappers or spec.additional_wrappers:
        return False
    places = spec.entry_point, spec.vector_entry_point
    return all(str(place).startswith("gymnasium.envs.") for place in places)


def _hint(env_id: str) -> str:
    """What may have been meant by an id that nobody registered."""
    for beginning, (package, wrapper) in _REGISTERED_BY.items():
        if env_id.startswith(beginning):
            return (
                f"It comes with a package: pip install {package}, then --env={package}:{env_id} "
                f"{wrapper}."
            )
    atari = _OLD_ATARI.fullmatch(env_id)
    if atari:
        return (
            f"Did you mean ALE/{atari[1] or atari[2]}-v5? It needs pip install -e '.[atari]', and "
            """--env-kwargs='{"frameskip": 1}' gives every frame."""
        )
    by_small_letters = {known.lower(): known for known in gym.registry}
    close = difflib.get_close_matches(env_id.lower(), by_small_letters, n=1, cutoff=0.5)
    if close:
        return f"Did you mean {by_small_letters[close[0]]}?"
    return "See gymnasium.pprint_registry() for the known ones."


def _register_atari(env_id: str) -> None:
    try:
        import ale_py
    except ImportError as error:
        raise UserError(
            f"--env={env_id} needs ale-py. Install it: pip install -e '.[atari]'"
        ) from error
    gym.register_envs(ale_py)


def check_spaces(env_id: str, env: Any) -> None:
    """Raises `UserError` unless observations are vectors or images and actions are discrete.

    Args:
      env_id: the environment's name.
      env: what has an `observation_space` and an `action_space`.
    """
    action_space = getattr(env, "action_space", None)
    observation_space = getattr(env, "observation_space", None)
    for name, space in (("action_space", action_space), ("observation_space", observation_space)):
        require(
            isinstance(space, gym.Space),
            f"--env={env_id}: its {name} is {space}; it must be one of gymnasium.spaces.",
        )
    if not isinstance(action_space, gym.spaces.Discrete):
        is_continuous = isinstance(action_space, gym.spaces.Box) and action_space.dtype.kind == "f"
        kind = "a continuous" if is_continuous else "the"
        raise UserError(
            f"--env={env_id} has {kind} action space {in_words(action_space)}; this experiment "
            "needs discrete actions (Discrete), such as CartPole-v1's."
        )
    has = f"--env={env_id} has the observation space {in_words(observation_space)}; "
    is_box = isinstance(observation_space, gym.spaces.Box)
    if is_box and len(observation_space.shape) == 3:
        channels, height, width = observation_space.shape
        few = channels <= 4 and min(height, width) >= 16
        frames = height == width >= 32 and 2 * channels < height
        require(
            not (few or frames),
            f"{has}images must be [height, width, channels], and these look like [channels, "
            "height, width]. --wrappers channels_last transposes them.",
        )
    if is_box and len(observation_space.shape) in (1, 3):
        return
    is_discrete = isinstance(observation_space, gym.spaces.Discrete)
    remedy = "--wrappers one_hot" if is_discrete else "--wrappers flatten"
    images = ""
    if is_box and len(observation_space.shape) in (2, 4):
        images = "; --wrappers channels_last makes images, if they are some"
    raise UserError(
        f"{has}this experiment needs a Box: vectors [features] or images [height, width, "
        f"channels]. {remedy} makes vectors of them{images}."
    )


def episode_seed(seed: int, stream: str, env: int, episode: int) -> int:
    """The seed of one episode: a pure function of run, purpose, environment and episode."""
    entropy = (seed, *stream.encode(), env, episode)
    return int(np.random.SeedSequence(entropy).generate_state(1)[0] >> 1)


class Episodes(Checked):
    """Seeds every episode and keeps the open one's actions, so that it can be played again.

    Most environments cannot save themselves. One whose episodes depend only on their seed and
    actions can be brought back to mid-episode all the same: `resume_at` makes the next `reset`
    start the given episode and play the given actions. Every reset without it starts the next
    episode; its `seed` argument is ignored.
    """

    def __init__(self, env: gym.Env, env_id: str, seed: int, stream: str, index: int) -> None:
        super().__init__(env, env_id)
        self._seeding = (seed, stream, index)
        self._index = index
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
        seed = episode_seed(*self._seeding, self.episode)
        observation, info = super().reset(seed=seed, options=options)
        for action in replayed:
            observation, _, terminated, truncated, info = self.step(int(action))
            if terminated or truncated:  # the log is of an open episode: it does not reproduce
                return self.reset()
        return observation, info

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict]:
        self.actions.append(int(action))
        return super().step(action)


class SerialVectorEnv(VectorEnv):
    """Environments stepped one after another in this process, resetting in the same step.

    Gymnasium's SyncVectorEnv does the same for any space and autoreset mode; for Box observations
    and one environment it spends several times the environment's own time on bookkeeping.
    """

    def __init__(self, env_fns: Sequence[Callable[[], Checked]]) -> None:
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
            close(env, env.env_id)


def close(env: gym.Env | VectorEnv, env_id: str) -> None:
    """Closes an environment; one that refuses costs a warning, not what was done with it."""
    try:
        env.close()
    except Exception as error:
        warnings.warn(f"{env_id} could not be closed: {in_one_line(error)}", stacklevel=2)


class Processes(gym.vector.AsyncVectorEnv):
    """A process for each environment; what goes wrong in one is a `UserError` that names it.

    Gymnasium writes a process's traceback to standard error and raises what it raised.

    Args:
      env_fns: what makes each environment, a `Checked`.
      env_id: its name.
    """

    def __init__(self, env_fns: Sequence[Callable[[], gym.Env]], env_id: str) -> None:
        self._env_id = env_id
        self._is_broken = False
        mode = AutoresetMode.SAME_STEP
        with self._watched():
            super().__init__(env_fns, autoreset_mode=mode, context="forkserver")

    def reset(self, **settings: Any) -> tuple[Any, dict]:
        with self._watched():
            return super().reset(**settings)

    def step(self, actions: np.ndarray) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict]:
        with self._watched():
            return super().step(actions)

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        with self._watched():
            return super().call(name, *args, **kwargs)

    def close_extras(self, timeout: float | None = None, terminate: bool = False) -> None:
        super().close_extras(timeout, terminate or self._is_broken)

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, OSError) as error:  # a pipe whose other end is gone
            self._break()
            raise UserError(
                f"--env={self._env_id}: a process that steps it ended; killed, out of memory, or "
                "crashed within the environment."
            ) from error

    def _break(self) -> None:
        self._state = AsyncState.DEFAULT  # nothing is waited for when it is closed
        self._is_broken = True

    def _raise_if_errors(self, successes: Sequence[bool]) -> None:
        """Raises what one of the processes that failed has met, in its own words."""
        if all(successes):
            return
        self._break()
        _, kind, error, _ = self.error_queue.get()
        if issubclass(kind, UserError):
            raise UserError(str(error))
        raise UserError(f"--env={self._env_id}: its process failed: {in_one_line(error)}")


class Native(gym.vector.VectorWrapper):
    """A vector class of the environment's own, with actions from 0, and named where it goes wrong.

    Args:
      envs: the vector environment.
      env_id: its name.
    """

    def __init__(self, envs: VectorEnv, env_id: str) -> None:
        super().__init__(envs)
        self._env_id = env_id
        self._first_action = int(getattr(envs.single_action_space, "start", 0))

    def reset(self, **settings: Any) -> tuple[np.ndarray, dict]:
        try:
            observation, info = self.env.reset(**settings)
        except Exception as error:
            raise self._told(f"no episode can begin: {in_one_line(error)}") from error
        return self._checked(observation), info

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict]:
        try:
            observation, rewards, terminated, truncated, info = self.env.step(
                self._first_action + actions
            )
            rewards = np.asarray(rewards, np.float64)
            ends = np.asarray([terminated, truncated], bool)
        except Exception as error:
            raise self._told(f"a step failed: {in_one_line(error)}") from error
        if rewards.shape != (self.num_envs,) or not np.isfinite(rewards).all():
            raise self._told(f"rewards are {rewards}; each must be a finite number")
        if ends.shape != (2, self.num_envs):
            raise self._told(
                f"terminated is {terminated} and truncated {truncated}; both must be "
                f"{self.num_envs} booleans"
            )
        return self._checked(observation), rewards, *ends, info

    def _checked(self, observation: Any) -> np.ndarray:
        array = np.asarray(observation)
        space = self.single_observation_space
        castable = array.dtype.kind in "biu" or np.can_cast(array.dtype, space.dtype, "same_kind")
        if array.shape != (self.num_envs, *space.shape) or not castable:
            raise self._told(
                f"its observation_space is {in_words(space)}, but {self.num_envs} observations "
                f"have shape {array.shape} and dtype {array.dtype}"
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise self._told("an observation is not finite")
        return array.astype(as_jax_holds(space).dtype, copy=False)

    def _told(self, what: str) -> UserError:
        return UserError(f"--vectorization=native: the vector class of {self._env_id}: {what}.")


def _make_episodes(recipe: Recipe, seed: int, stream: str, index: int) -> gym.Env:
    is_worker = multiprocessing.parent_process() is not None
    if is_worker:
        # Ctrl-C reaches workers too; the parent saves, then closes them.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return Episodes(make(recipe), recipe.env, seed, stream, index)
    except UserError as error:
        if is_worker:  # without a traceback; the parent sees a pipe that ends
            raise SystemExit(f"error: {error}") from None
        raise


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
        return Processes(env_fns, recipe.env)
    try:
        envs = gym.make_vec(
            recipe.env, num_envs, vectorization_mode="vector_entry_point", **recipe.kwargs
        )
    except gym.error.Error as error:
        spec = _registered(recipe.env)
        why = "has no vector class of its own"
        if spec and spec.additional_wrappers:
            why = "is registered with wrappers, which its vector class does not fit"
        raise UserError(
            f"--env={recipe.env} {why}. Use --vectorization=serial or async."
        ) from error
    except Exception as error:
        raise UserError(
            f"--vectorization=native: the vector class of {recipe.env} cannot be made with "
            f"--env-kwargs='{json.dumps(recipe.kwargs)}': {in_one_line(error)}"
        ) from error
    envs = Native(envs, recipe.env)
    envs.reset(seed=episode_seed(seed, stream, 0, 0))
    return envs
