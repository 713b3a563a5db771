"""Episodes that MinAtar has played, played again by our games with its actions and draws."""

import zlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from missing_bits.envs.games.minatar import MinAtar, Played


class Episodes(NamedTuple):
    """T steps of several episodes, one after another; arrays [T, ...]."""

    is_first: np.ndarray  # an episode begins with this step
    start_draws: np.ndarray  # float32: of its first state
    action: np.ndarray  # int32, of the six
    draws: np.ndarray  # float32: of the step, the first for stickiness
    reward: np.ndarray
    is_over: np.ndarray
    checksum: np.ndarray  # uint32: of the observation after the step


def checksums(observations: np.ndarray) -> np.ndarray:
    """[T] uint32 of observations [T, 10, 10, planes] of zeros and ones."""
    rows = np.packbits(np.asarray(observations, bool).reshape(len(observations), -1), axis=1)
    return np.array([zlib.crc32(row.tobytes()) for row in rows], np.uint32)


def replayed(game: MinAtar, episodes: Episodes) -> Episodes:
    """The same with rewards, ends and checksums of our game."""

    def step(state, row):
        is_first, start_draws, action, draws = row
        fresh = Played(game.start(start_draws), jnp.int32(0))
        state = jax.tree.map(lambda new, old: jnp.where(is_first, new, old), fresh, state)
        state = game.advance(state, action, draws)
        return state, (state.game.reward, state.game.is_over, game.observation(state, None))

    first = Played(game.start(jnp.zeros(game.start_draws)), jnp.int32(0))
    play = jax.jit(lambda rows: jax.lax.scan(step, first, rows)[1])
    reward, is_over, observation = jax.tree.map(np.asarray, play(tuple(episodes[:4])))
    return episodes._replace(reward=reward, is_over=is_over, checksum=checksums(observation))


def assert_equal(ours: Episodes, theirs: Episodes) -> None:
    """Rewards, ends and observations are the same in every step."""
    np.testing.assert_array_equal(ours.reward, theirs.reward)
    np.testing.assert_array_equal(ours.is_over, theirs.is_over)
    np.testing.assert_array_equal(ours.checksum, theirs.checksum)
