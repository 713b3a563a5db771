"""What an environment has promised, held against what it gives; whoever breaks it is named.

Processes that step environments import this module: it knows no JAX.
"""

import textwrap
from typing import Any

import gymnasium as gym
import numpy as np

from missing_bits.errors import UserError

_LARGEST = float(np.finfo(np.float32).max)
_TOO_WIDE = ("int64", "uint64", "uint32")  # JAX holds 32 bits, and would cut off the upper ones
_SLACK = 1e-3  # of the distance between two bounds: what rounding may add


class Fault(Exception):
    """What an environment does against its promises, in words that follow its name."""


def in_words(space: gym.Space) -> str:
    """A space in one line."""
    return textwrap.shorten(str(space), 200)


def in_one_line(error: BaseException) -> str:
    """An exception's kind and what it says."""
    return textwrap.shorten(f"{type(error).__name__}: {error}", 300)


def as_jax_holds(space: gym.Space) -> gym.Space:
    """The space that observations of an environment come out in.

    It is the environment's own, but float32 for integers that are wider than JAX holds.
    """
    if not isinstance(space, gym.spaces.Box) or space.dtype.name not in _TOO_WIDE:
        return space
    low = space.low.astype(np.float32)
    return gym.spaces.Box(low, space.high.astype(np.float32), dtype=np.float32)


class Contract:
    """The spaces of an environment, and that its rewards and observations are finite numbers.

    What is as promised passes at once: that costs half a microsecond a step. What can be converted
    without loss is; all else is a `Fault`.

    Args:
      env: the environment.
    """

    def __init__(self, env: gym.Env) -> None:
        space = env.observation_space
        self._promised = {"observation_space": space, "action_space": env.action_space}
        self._is_box = isinstance(space, gym.spaces.Box)
        self._shape = space.shape if self._is_box else None
        self._dtype = space.dtype
        self._given_dtype = as_jax_holds(space).dtype
        self._zeros = None
        if self._is_box and space.dtype.kind == "f":
            self._zeros = np.zeros(int(np.prod(space.shape)), space.dtype)

    def observation(self, given: Any) -> Any:
        """An observation as an array of the promised shape and dtype, as JAX holds it.

        Spaces other than Box are only asked whether they contain it.
        """
        is_array = type(given) is np.ndarray
        if not is_array or given.shape != self._shape or given.dtype != self._given_dtype:
            given = self._converted(given)
        # A product with zeros is 0 unless something is not finite: a third of isfinite's time.
        if self._zeros is not None and given.ravel().dot(self._zeros) != 0:
            raise Fault(f"an observation is not finite: {_shown(given)}")
        return given

    def reward(self, given: Any) -> float:
        """A reward as a number that float32 holds."""
        number = given if isinstance(given, float) else _number(given)
        if not -_LARGEST <= number <= _LARGEST:  # NaN is in no order
            raise Fault(f"a reward is {_shown(given)}; it must be a finite number")
        return number

    def spaces(self, env: gym.Env) -> None:
        """Raises `Fault` where an environment's spaces are no longer those it promised."""
        for name, promised in self._promised.items():
            now = getattr(env, name)
            if now is not promised and now != promised:
                raise Fault(
                    f"its {name} changed from {in_words(promised)} to {in_words(now)}; it must "
                    "stay the same for all episodes"
                )

    def beyond(self, observation: np.ndarray) -> str:
        """In words, by how much an observation leaves its declared bounds; empty if it does not."""
        if not self._is_box:
            return ""
        space = self._promised["observation_space"]
        low = space.low.astype(np.float64)
        high = space.high.astype(np.float64)
        is_bounded = np.isfinite(low) & np.isfinite(high)
        span = np.subtract(high, low, out=np.zeros(space.shape), where=is_bounded)
        outside = (observation < low - _SLACK * span) | (observation > high + _SLACK * span)
        if not outside.any():
            return ""
        first = tuple(int(i) for i in np.argwhere(outside)[0])
        unless = " unless --no-scaled is given" if observation.ndim == 1 else ""
        return (
            f"observations leave the bounds of its observation_space, by which they are scaled"
            f"{unless}: {observation[first]} lies outside [{space.low[first]}, "
            f"{space.high[first]}]. Declare bounds that hold"
        )

    def _converted(self, given: Any) -> Any:
        space = self._promised["observation_space"]
        broken = f"observation_space is {in_words(space)}, but an observation"
        if not self._is_box:
            if not space.contains(given):
                raise Fault(f"{broken} is {_shown(given)}")
            return given
        try:
            array = np.asarray(given)
        except ValueError as error:  # such as lists of several lengths
            raise Fault(f"{broken} makes no array: {in_one_line(error)}") from error
        # Integers are cast to any dtype; fractions would be lost in all but floats.
        castable = array.dtype.kind in "biu" or np.can_cast(array.dtype, self._dtype, "same_kind")
        if not castable or array.shape != self._shape:
            raise Fault(f"{broken} has shape {array.shape} and dtype {array.dtype}")
        cast = array.astype(self._dtype)
        if self._dtype.kind in "biu" and not np.array_equal(cast, array):
            raise Fault(f"{broken} is {_shown(array)}, which {self._dtype} does not hold")
        return cast.astype(self._given_dtype)


def _number(given: Any) -> float:
    if isinstance(given, int | np.bool_ | np.integer | np.floating):
        return float(given)
    try:
        array = np.asarray(given)
        numeric = array.size == 1 and array.dtype.kind in "biuf"
    except Exception:  # whatever it is, it is no number
        numeric = False
    if not numeric:
        raise Fault(f"a reward is {_shown(given)}; it must be a number")
    return float(array.item())


def _shown(value: Any) -> str:
    return textwrap.shorten(repr(value), 100)


class Checked(gym.Wrapper):
    """Holds an environment to its contract, and counts actions from 0.

    Whatever goes wrong in the environment is a `UserError` of one line that names it. Its info is
    left out: nobody reads it, and not every one can be sent by a worker process.

    Args:
      env: the environment.
      env_id: its name.
    """

    def __init__(self, env: gym.Env, env_id: str) -> None:
        super().__init__(env)
        self.env_id = env_id
        self.contract = Contract(env)
        self.observation_space = as_jax_holds(env.observation_space)
        self._first_action = int(getattr(env.action_space, "start", 0))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict]:
        try:
            begun = self.env.reset(seed=seed, options=options)
            if not isinstance(begun, tuple) or len(begun) != 2:
                raise Fault(
                    f"reset returned {_shown(begun)}; it must return two values: observation, info"
                )
            self.contract.spaces(self.env)
            return self.contract.observation(begun[0]), {}
        except Exception as error:
            raise self._told("no episode can begin", error) from error

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict]:
        try:
            observation, reward, terminated, truncated, _ = self.env.step(
                self._first_action + action
            )
            observation = self.contract.observation(observation)
            return observation, self.contract.reward(reward), bool(terminated), bool(truncated), {}
        except Exception as error:
            raise self._told("a step failed", error) from error

    def _told(self, what: str, error: Exception) -> UserError:
        if isinstance(error, Fault):
            return UserError(f"--env={self.env_id}: {error}.")
        return UserError(f"--env={self.env_id}: {what}: {in_one_line(error)}{_cure(error)}")


def _cure(error: Exception) -> str:
    """What helps against an error that an environment of Gym's former interface causes."""
    said = str(error)
    if isinstance(error, ValueError) and "to unpack" in said:
        return (
            ". If step returns four values, it is of Gym before 0.26: it must return observation, "
            "reward, terminated, truncated, info"
        )
    is_reset = isinstance(error, TypeError) and "reset()" in said and "argument" in said
    if is_reset and ("seed" in said or "options" in said):
        return ". It must be defined as reset(self, *, seed=None, options=None)"
    return ""
