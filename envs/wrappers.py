"""Wrappers around Gymnasium environments, by name: `--wrappers grayscale resize:84x84`."""

import difflib
import importlib
import re
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import FlattenObservation, GrayscaleObservation, TransformObservation

from missing_bits.envs.contract import in_one_line
from missing_bits.errors import UserError, require

Wrap = Callable[[gym.Env], gym.Env]


def one_hot(env: gym.Env) -> gym.Env:
    """Discrete observations as vectors [n] float32 with a single 1."""
    space = env.observation_space
    if not isinstance(space, gym.spaces.Discrete):
        raise TypeError(f"one_hot needs Discrete observations, not {space}")
    first = int(space.start)
    count = int(space.n)

    def vector(number: Any) -> np.ndarray:
        made = np.zeros(count, np.float32)
        made[int(number) - first] = 1
        return made

    return TransformObservation(env, vector, gym.spaces.Box(0, 1, (count,), np.float32))


def grayscale(env: gym.Env) -> gym.Env:
    """RGB images as gray ones [height, width, 1] uint8."""
    return GrayscaleObservation(env, keep_dim=True)


def resize(env: gym.Env, height: int, width: int | None = None) -> gym.Env:
    """Images [height, width, channels] uint8 of another size.

    Each pixel is the mean of the area it covers, as in Gymnasium's ResizeObservation, which needs
    OpenCV.
    """
    from PIL import Image

    space = env.observation_space
    is_image = isinstance(space, gym.spaces.Box) and len(space.shape) == 3
    if not is_image or space.dtype != np.uint8:
        raise TypeError(f"resize needs images [height, width, channels] of uint8, not {space}")
    width = width or height
    channels = space.shape[2]

    def resized(image: np.ndarray) -> np.ndarray:
        planes = [Image.fromarray(np.ascontiguousarray(image[..., c])) for c in range(channels)]
        small = [
            np.asarray(plane.resize((width, height), Image.Resampling.BOX)) for plane in planes
        ]
        return np.stack(small, axis=-1)

    return TransformObservation(
        env, resized, gym.spaces.Box(0, 255, (height, width, channels), np.uint8)
    )


def channels_last(env: gym.Env) -> gym.Env:
    """Images [channels, height, width] as [height, width, channels].

    Gray ones [height, width] get a channel; frames [count, height, width, channels], as of
    Gymnasium's FrameStackObservation, become channels, the oldest first.
    """
    space = env.observation_space
    if not isinstance(space, gym.spaces.Box) or len(space.shape) not in (2, 3, 4):
        raise TypeError(f"channels_last needs images, not {space}")
    axes = len(space.shape)

    def turned(image: np.ndarray) -> np.ndarray:
        image = np.asarray(image)
        if axes == 2:
            return image[..., None]
        if axes == 4:  # [count, height, width, channels]
            return np.concatenate(list(image), axis=-1)
        return np.ascontiguousarray(np.moveaxis(image, 0, -1))

    made = gym.spaces.Box(turned(space.low), turned(space.high), dtype=space.dtype)
    return TransformObservation(env, turned, made)


class FrameStack(gym.Wrapper):
    """Joins every observation with those before it along the last axis, the oldest first.

    Images become [height, width, channels * count], vectors [count * features]. An episode begins
    with its first observation `count` times. Gymnasium's FrameStackObservation stacks along a new
    first axis, and does not copy what it keeps: an environment with one buffer for all its
    observations would overwrite it.
    """

    def __init__(self, env: gym.Env, count: int) -> None:
        super().__init__(env)
        space = env.observation_space
        if not isinstance(space, gym.spaces.Box) or len(space.shape) not in (1, 3):
            raise TypeError(f"frame_stack needs vectors or images, not {space}")
        low = np.concatenate([space.low] * count, axis=-1)
        high = np.concatenate([space.high] * count, axis=-1)
        self.observation_space = gym.spaces.Box(low, high, dtype=space.dtype)
        self._count = count
        self._frames: deque[np.ndarray] = deque(maxlen=count)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict]:
        observation, info = self.env.reset(seed=seed, options=options)
        self._frames.extend([np.array(observation)] * self._count)
        return np.concatenate(self._frames, axis=-1), info

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._frames.append(np.array(observation))
        return np.concatenate(self._frames, axis=-1), reward, terminated, truncated, info


class _Known(NamedTuple):
    """A wrapper that has a name here."""

    wrap: Callable[..., gym.Env]  # (environment, *numbers)
    example: str
    numbers: str = ""  # what follows the name, as a pattern whose groups are the numbers


_NUMBER = r"([1-9]\d{0,3})"
_KNOWN = {
    "flatten": _Known(FlattenObservation, "flatten"),
    "one_hot": _Known(one_hot, "one_hot"),
    "grayscale": _Known(grayscale, "grayscale"),
    "resize": _Known(resize, "resize:84x84", f":{_NUMBER}(?:x{_NUMBER})?"),
    "channels_last": _Known(channels_last, "channels_last"),
    "frame_stack": _Known(FrameStack, "frame_stack:4", f":{_NUMBER}"),
}


def imports_code(text: str) -> bool:
    """Whether a wrapper is the user's own, "module:function"."""
    return ":" in text and text.partition(":")[0] not in _KNOWN


def find(text: str) -> Wrap:
    """What a wrapper's name stands for; the user's own is imported when it is first used.

    Args:
      text: such as "flatten", "frame_stack:4" or "module:function".

    Raises:
      UserError: the name is unknown, or not written as it must be.
    """
    name = text.partition(":")[0]
    if name in _KNOWN:
        known = _KNOWN[name]
        match = re.fullmatch(name + known.numbers, text)
        require(match is not None, f"--wrappers {text} is not understood; write {known.example}.")
        numbers = [int(number) for number in match.groups() if number is not None]
        return lambda env: known.wrap(env, *numbers)
    require(
        re.fullmatch(r"[\w.]+:\w+", text) is not None,
        f"--wrappers {text} is unknown. {_those_there_are(name)}",
    )
    return lambda env: _load(text)(env)


def wrap(env: gym.Env, env_id: str, wrappers: Sequence[str]) -> gym.Env:
    """The environment within its wrappers, the first of them innermost.

    Args:
      env: the environment.
      env_id: its name, for messages.
      wrappers: names as `find` takes them.

    Raises:
      UserError: a wrapper is unknown, cannot be imported, fails, or makes something else than an
        environment.
    """
    for text in wrappers:
        wrapper = find(text)
        try:
            env = wrapper(env)
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"--wrappers {text} cannot be put around {env_id}: {in_one_line(error)}"
            ) from error
        require(
            isinstance(env, gym.Env),
            f"--wrappers {text} made a {type(env).__name__} of {env_id}; it must return a "
            "gymnasium.Env.",
        )
    return env


def _those_there_are(meant: str) -> str:
    close = difflib.get_close_matches(meant, _KNOWN, n=1, cutoff=0.5)
    hint = f" Did you mean {_KNOWN[close[0]].example}?" if close else ""
    examples = ", ".join(known.example for known in _KNOWN.values())
    return f"There are {examples} and your own module:function.{hint}"


def _load(text: str) -> Wrap:
    module, _, function = text.partition(":")
    try:
        loaded = vars(importlib.import_module(module)).get(function)
    except Exception as error:
        raise UserError(
            f"--wrappers {text} cannot be imported: {in_one_line(error)}. "
            f"{_those_there_are(module)}"
        ) from error
    require(
        callable(loaded),
        f"--wrappers {text}: {module} has no function {function}; it must map an environment to "
        "another.",
    )
    return loaded
