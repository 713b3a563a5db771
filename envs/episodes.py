"""Whole episodes of Gymnasium environments: their returns, and what is seen of them."""

import contextlib
import itertools
import os
import warnings
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from gymnasium.vector import VectorEnv
from gymnasium.wrappers import HumanRendering

from missing_bits.envs.contract import Checked, in_one_line
from missing_bits.envs.gymnasium_envs import (
    Recipe,
    close,
    episode_seed,
    has_own_vector_class,
    make,
    make_vector,
)
from missing_bits.envs.steps import Player
from missing_bits.errors import UserError

MOST = 16  # environments of an evaluation


class Judging(NamedTuple):
    """How the episodes of an evaluation are played."""

    steps: int = 0
    """Steps at which an episode is cut; 0 for none."""
    epsilon: float = 0.0
    """Probability of a random action."""


class Frame(NamedTuple):
    """A moment of an episode."""

    picture: Any
    """What the environment drew: RGB [height, width, 3] uint8 by Gymnasium's rules; None if it
    draws into a window, or not at all."""
    total: float  # the sum of rewards so far


def shares(episodes: int) -> list[int]:
    """How many episodes each environment of an evaluation plays: a fixed number.

    Whoever ends first must not play more: short episodes would count more often.
    """
    lanes = min(MOST, episodes)
    return [episodes // lanes + (i < episodes % lanes) for i in range(lanes)]


def tell_of_cuts(env_id: str, steps: int) -> None:
    """Warns that returns are not of whole episodes."""
    warnings.warn(
        f"{env_id}: episodes of evaluations are cut at --eval-steps={steps}; their returns are of "
        "that many steps.",
        stacklevel=2,
    )


class Judge:
    """Plays whole episodes in environments of its own, made once, whatever training does.

    An environment is seeded at its first reset in an evaluation and not after, as seeding may take
    long, and plays a fixed share of the episodes: returns depend on the evaluation's key alone.
    Where Gymnasium has a vector class for it, as for CartPole-v1, all episodes are played in that,
    each in a place of its own.

    Args:
      recipe: what an environment is made of.
      judging: how episodes are played.
    """

    def __init__(self, recipe: Recipe, judging: Judging) -> None:
        self._recipe = recipe
        self._judging = judging
        self._envs: list[Checked] = []
        self._at_once: VectorEnv | None = None

    def returns(self, player: Player, learned: Any, episodes: int, key: jax.Array) -> np.ndarray:
        """The returns of whole episodes.

        Args:
          player: the agent.
          learned: what it has learned.
          episodes: how many.
          key: random key.

        Returns:
          [episodes] float64, those of an environment side by side.
        """
        play = self._all_at_once if has_own_vector_class(self._recipe) else self._in_shares
        returns, is_cut = play(player, learned, episodes, int(jax.random.bits(key)))
        if is_cut:
            tell_of_cuts(self._recipe.env, self._judging.steps)
        return returns

    def _all_at_once(
        self, player: Player, learned: Any, episodes: int, seed: int
    ) -> tuple[np.ndarray, bool]:
        """Plays every episode in a place of its own; returns, and whether one was cut."""
        if self._at_once is None or self._at_once.num_envs != episodes:
            self._at_once = make_vector(self._recipe, episodes, 0, "eval", "native")
        envs = self._at_once
        rng = np.random.default_rng((seed, *b"epsilon"))
        observation, _ = envs.reset(seed=episode_seed(seed, "eval", 0, 0))
        reset = np.ones(episodes, bool)
        memory = player.memory(episodes)
        returns = np.zeros(episodes)
        going = np.ones(episodes, bool)
        for elapsed in itertools.count():
            is_cut = elapsed > 0 and elapsed == self._judging.steps
            if is_cut or not going.any():
                return returns, is_cut and bool(going.any())
            action, memory = player.act(learned, memory, observation, reset)
            count = int(envs.single_action_space.n)
            action = _explored(np.asarray(action), self._judging.epsilon, count, rng)
            reset = np.zeros(episodes, bool)
            observation, rewards, terminated, truncated, _ = envs.step(action)
            returns[going] += rewards[going]
            going &= ~(terminated | truncated)

    def _in_shares(
        self, player: Player, learned: Any, episodes: int, seed: int
    ) -> tuple[np.ndarray, bool]:
        """Plays episodes in up to `MOST` environments; returns, and whether one was cut."""
        left = shares(episodes)
        lanes = len(left)
        while len(self._envs) < lanes:
            self._envs.append(Checked(make(self._recipe), self._recipe.env))
        rng = np.random.default_rng((seed, *b"epsilon"))
        starts = [
            env.reset(seed=episode_seed(seed, "eval", i, 0))[0]
            for i, env in enumerate(self._envs[:lanes])
        ]
        observation = np.stack(starts)
        reset = np.ones(lanes, bool)
        memory = player.memory(lanes)
        returns: list[list[float]] = [[] for _ in range(lanes)]
        total = np.zeros(lanes)
        elapsed = np.zeros(lanes, int)
        is_cut = False
        while any(left):
            action, memory = player.act(learned, memory, observation, reset)
            count = int(self._envs[0].action_space.n)
            action = _explored(np.asarray(action), self._judging.epsilon, count, rng)
            observation = np.copy(observation)  # JAX may still hold what it was given
            reset = np.zeros(lanes, bool)
            for i in np.flatnonzero(left):
                env = self._envs[i]
                observation[i], reward, terminated, truncated, _ = env.step(int(action[i]))
                total[i] += reward
                elapsed[i] += 1
                over = terminated or truncated
                if not over and elapsed[i] == self._judging.steps:
                    over = True
                    is_cut = True
                if over:
                    returns[i].append(float(total[i]))
                    total[i] = 0.0
                    elapsed[i] = 0
                    left[i] -= 1
                    reset[i] = True
                    if left[i]:
                        observation[i], _ = env.reset()
        return np.concatenate(returns), is_cut

    def close(self) -> None:
        """Closes the environments; the next evaluation makes others."""
        for env in self._envs:
            close(env, self._recipe.env)
        self._envs = []
        if self._at_once is not None:
            close(self._at_once, self._recipe.env)
            self._at_once = None


def record(
    recipe: Recipe, judging: Judging, player: Player, learned: Any, seed: int
) -> Iterator[Frame]:
    """Plays one episode with rendering; yields a frame before its first step and after each.

    Nothing is yielded where the environment draws nothing.

    Args:
      recipe: what the environment is made of.
      judging: says where the episode is cut; no action is random.
      player: the agent.
      learned: what it has learned.
      seed: of the run.

    Raises:
      UserError: the environment cannot be made with rendering, or fails.
    """
    if "rgb_array" not in drawings(recipe):
        return
    with opened(recipe, "rgb_array") as env:
        greedy = judging._replace(epsilon=0.0)
        yield from play(env, greedy, player, learned, episode_seed(seed, "record", 0, 0), True)


Drawing = Literal["", "rgb_array", "human"]
"""What is seen of episodes: nothing, frames, or a window."""


def drawings(recipe: Recipe) -> set[str]:
    """In which of Gymnasium's ways an environment draws itself, such as "rgb_array"."""
    env = make(recipe)
    modes = (env.metadata or {}).get("render_modes") or ()
    close(env, recipe.env)
    return set(modes)


@contextlib.contextmanager
def opened(recipe: Recipe, drawing: Drawing) -> Iterator[Checked]:
    """An environment that draws, closed at the end. A window shows frames where it has no own.

    Raises:
      UserError: it cannot be made.
    """
    with contextlib.ExitStack() as stack:
        if drawing == "rgb_array":
            stack.enter_context(_off_screen())
        if not drawing:
            env = make(recipe)
        elif drawing == "human" and "human" not in drawings(recipe):
            env = make(recipe, render_mode="rgb_array")
            env.metadata = {"render_fps": 30, **env.metadata}
            env = HumanRendering(env)
        else:
            env = make(recipe, render_mode=drawing)
        stack.callback(close, env, recipe.env)
        yield Checked(env, recipe.env)


def play(
    env: Checked, judging: Judging, player: Player, learned: Any, seed: int, with_pictures: bool
) -> Iterator[Frame]:
    """Plays one episode; yields a frame before its first step and after each.

    Args:
      env: the environment.
      judging: how the episode is played.
      player: the agent.
      learned: what it has learned.
      seed: of the episode.
      with_pictures: whether frames hold pictures; the environment must draw in "rgb_array".

    Raises:
      UserError: the environment fails.
    """
    observation, _ = env.reset(seed=seed)
    rng = np.random.default_rng((seed, *b"epsilon"))
    count = int(env.action_space.n)
    memory = player.memory(1)
    reset = np.ones(1, bool)
    total = 0.0
    elapsed = 0
    over = False
    yield Frame(_drawn(env) if with_pictures else None, total)
    while not over:
        # A copy: the environment may have one buffer for all its observations.
        seen = np.array(observation)[None]
        action, memory = player.act(learned, memory, seen, reset)
        action = _explored(np.asarray(action), judging.epsilon, count, rng)
        reset = np.zeros(1, bool)
        observation, reward, terminated, truncated, _ = env.step(int(action[0]))
        total += reward
        elapsed += 1
        over = terminated or truncated or elapsed == judging.steps
        yield Frame(_drawn(env) if with_pictures else None, total)


def _explored(
    action: np.ndarray, epsilon: float, count: int, rng: np.random.Generator
) -> np.ndarray:
    """Actions [E], each with probability epsilon one of `count` at random instead."""
    if epsilon == 0:
        return action
    explores = rng.random(len(action)) < epsilon
    return np.where(explores, rng.integers(count, size=len(action)), action)


def _drawn(env: Checked) -> Any:
    try:
        return env.render()
    except Exception as error:
        raise UserError(f"--env={env.env_id}: render failed: {in_one_line(error)}") from error


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
