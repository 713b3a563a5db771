"""A counting MDP, whose observations name their episode and step, and one reference loop for it.

An episode's tag fixes its length (1 to 7 steps) and how it ends; every observation is [tag's upper
half, tag's lower half, step, code of the actions so far] and every reward names episode, step and
action. On the host the tag is the seed of the episode, so the environment reproduces from seeds and
actions. No two observations of a test are equal: a transition that mixes episodes, steps or
environments cannot look right.

Importable as `missing_bits.tests.envs.counting` by worker processes too: Gymnasium imports what
stands before the colon of an id. They have no use for JAX, which takes long to import.
"""

import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.experimental.functional import FuncEnv
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from missing_bits.envs import gymnasium_envs

COUNTING = f"{__name__}:Counting-v0"
REUSING = f"{__name__}:Reusing-v0"
DICE = f"{__name__}:Dice-v0"
NUM_ACTIONS = 3
FIRST_ACTION = 2  # agents count from 0, this environment does not
TERMINATES, TRUNCATES, BOTH = range(3)
OBSERVATIONS = gym.spaces.Box(0, 2**16, (4,), np.float32)
ACTIONS = gym.spaces.Discrete(NUM_ACTIONS, start=FIRST_ACTION)


# The dynamics, in integers; they work on Python's, NumPy's and JAX's alike. Actions count from 0.
def length(tag: Any) -> Any:
    """Steps in an episode."""
    return 1 + tag % 7


def ending(tag: Any) -> Any:
    """How the episode ends: TERMINATES, TRUNCATES or BOTH at once (which is a termination)."""
    return tag // 7 % 3


def code(before: Any, action: Any) -> Any:
    """The code of the actions of an episode after one more."""
    return (3 * before + action + 1) % 8191


def reward(tag: Any, step: Any, action: Any) -> Any:
    """The reward of step `step` (from 0)."""
    return step + 8 * action + tag % 64 / 64


def policy(observation: Any) -> Any:
    """A pure function of observations [..., 4] to actions [...], so that every loop acts alike."""
    return (
        (observation[..., 1] + 3 * observation[..., 2] + observation[..., 3]) % NUM_ACTIONS
    ).astype("int32")


def act(observation: np.ndarray, resets: np.ndarray, due: np.ndarray, counts: np.ndarray) -> Any:
    """`policy` as the actor asks for it, which must know where episodes begin."""
    from missing_bits.envs.steps import Acted  # not in worker processes

    assert resets.dtype == bool
    np.testing.assert_array_equal(resets, observation[..., 2] == 0)
    return Acted(policy(observation))


def tag_of(observation: np.ndarray) -> np.ndarray:
    """The tags of observations [..., 4]."""
    return observation[..., 0].astype(np.int64) * 2**16 + observation[..., 1].astype(np.int64)


class Counting(gym.Env):
    """The counting MDP on the host."""

    observation_space = OBSERVATIONS
    action_space = ACTIONS

    def reset(
        self, *, seed: int | None = None, options: dict | None = None
    ) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.tag = int(self.np_random.integers(2**31)) if seed is None else seed
        self.steps = 0
        self.code = 0
        return self.observe(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        assert self.action_space.contains(action)
        assert self.steps < length(self.tag), "stepped past the end of an episode"
        action = int(action) - FIRST_ACTION
        earned = reward(self.tag, self.steps, action)
        self.steps += 1
        self.code = code(self.code, action)
        terminated, truncated = host_end(self.tag, self.steps)
        return self.observe(), earned, terminated, truncated, {}

    def observe(self) -> np.ndarray:
        return np.array([self.tag >> 16, self.tag & 0xFFFF, self.steps, self.code], np.float32)


class Reusing(Counting):
    """The same, with one buffer for all its observations, as around a C library."""

    def __init__(self) -> None:
        self.buffer = np.zeros(4, np.float32)

    def observe(self) -> np.ndarray:
        self.buffer[:] = super().observe()
        return self.buffer


class Dice(Counting):
    """The same, but the process's own random numbers draw the tag: no seed repeats an episode."""

    def reset(
        self, *, seed: int | None = None, options: dict | None = None
    ) -> tuple[np.ndarray, dict]:
        return super().reset(seed=random.getrandbits(31), options=options)


for _env in (Counting, Reusing, Dice):
    gym.register(f"{_env.__name__}-v0", _env)


class CountingState(NamedTuple):
    """A functional counting MDP in mid-episode; int32 scalars."""

    tag: Any
    steps: Any
    code: Any


class FunctionalCounting(FuncEnv):
    """The counting MDP as a JAX-native one; what does not terminate runs into the time limit."""

    observation_space = OBSERVATIONS
    action_space = ACTIONS

    def initial(self, rng: Any, params: Any = None) -> CountingState:
        import jax  # not in worker processes

        tag = jax.random.randint(rng, (), 0, 2**31 - 1)
        return CountingState(tag, jax.numpy.int32(0), jax.numpy.int32(0))

    def transition(
        self, state: CountingState, action: Any, rng: Any, params: Any = None
    ) -> CountingState:
        return CountingState(state.tag, state.steps + 1, code(state.code, action - FIRST_ACTION))

    def observation(self, state: CountingState, rng: Any, params: Any = None) -> Any:
        import jax.numpy as jnp

        return jnp.stack([state.tag >> 16, state.tag & 0xFFFF, state.steps, state.code]).astype(
            jnp.float32
        )

    def reward(
        self,
        state: CountingState,
        action: Any,
        next_state: CountingState,
        rng: Any,
        params: Any = None,
    ) -> Any:
        return reward(state.tag, state.steps, action - FIRST_ACTION)

    def terminal(self, state: CountingState, rng: Any, params: Any = None) -> Any:
        return (state.steps >= length(state.tag)) & (ending(state.tag) != TRUNCATES)


# The reference: one environment, one plain loop.
class Step(NamedTuple):
    """One environment step."""

    s_tm1: np.ndarray
    a_tm1: int
    r_t: float
    terminated: bool
    truncated: bool
    s_t: np.ndarray


def seeds_of(seed: int, index: int, stream: str = "train") -> Iterator[int]:
    """The tags of the episodes of environment `index`, from the first."""
    episode = 0
    while True:
        yield gymnasium_envs.episode_seed(seed, stream, index, episode)
        episode += 1


def host_end(tag: int, steps: int) -> tuple[bool, bool]:
    """Whether the host's episode is (terminated, truncated) after so many steps."""
    over = steps == length(tag)
    how = ending(tag)
    return over and how != TRUNCATES, over and how != TERMINATES


def limited_end(limit: int) -> Callable[[int, int], tuple[bool, bool]]:
    """The same for the functional environment under a time limit."""

    def end(tag: int, steps: int) -> tuple[bool, bool]:
        terminated = steps == length(tag) and ending(tag) != TRUNCATES
        return terminated, not terminated and steps == limit

    return end


def reference_steps(tags: Iterable[int], count: int, end: Callable = host_end) -> list[Step]:
    """The first `count` steps of one environment whose episodes have these tags."""
    made: list[Step] = []
    for tag in tags:
        steps = 0
        codes = 0
        over = False
        while not over:
            if len(made) == count:
                return made
            before = np.array([tag >> 16, tag & 0xFFFF, steps, codes], np.float32)
            action = int(policy(before))
            earned = reward(tag, steps, action)
            steps += 1
            codes = code(codes, action)
            after = np.array([tag >> 16, tag & 0xFFFF, steps, codes], np.float32)
            terminated, truncated = end(tag, steps)
            made.append(Step(before, action, earned, terminated, truncated, after))
            over = terminated or truncated
    return made


class Transition(NamedTuple):
    """An n-step transition and the row of replay at which it starts."""

    row: int
    s_tm1: np.ndarray
    a_tm1: int
    r_t: float
    discount_t: float
    s_t: np.ndarray


def reference_transitions(steps: list[Step], n: int, gamma: float) -> tuple[list[Transition], int]:
    """All complete n-step transitions of one environment, and the rows of replay they fill."""
    found = []
    row = 0
    for start, first in enumerate(steps):
        total = 0.0
        discount = 1.0
        k = 0
        last = first
        for step in steps[start : start + n]:
            total += discount * step.r_t
            discount *= gamma
            k += 1
            last = step
            if step.terminated or step.truncated:
                break
        over = last.terminated or last.truncated
        if k == n or over:
            bootstrap = 0.0 if last.terminated else discount
            found.append(Transition(row, first.s_tm1, first.a_tm1, total, bootstrap, last.s_t))
        ended = first.terminated or first.truncated
        row += 2 if ended else 1  # an end takes a row for the final observation
    return found, row


# Vector environments in every mode that Gymnasium has, and our own.
def _sync(mode: AutoresetMode) -> Callable[[list], VectorEnv]:
    return lambda env_fns: SyncVectorEnv(env_fns, autoreset_mode=mode)


VECTORS: dict[str, Callable[[list], VectorEnv]] = {
    "next_step": _sync(AutoresetMode.NEXT_STEP),
    "same_step": _sync(AutoresetMode.SAME_STEP),
    "disabled": _sync(AutoresetMode.DISABLED),
    "serial": gymnasium_envs.SerialVectorEnv,
    "async_next_step": lambda fns: AsyncVectorEnv(
        fns, autoreset_mode=AutoresetMode.NEXT_STEP, context="forkserver"
    ),
}
