"""Uniform n-step replay (Lin 1992; Mnih et al. 2015) as a pytree of arrays in device memory.

Each environment is a lane with its own ring of rows, so insertion, sampling, vmap over seeds and shards over
devices are the same code. A row is one environment step: the observation, the action taken there and what came
of it; its successor's observation is the next row's, so no observation is stored twice. When an episode ends,
one more row holds its final observation: truncation bootstraps from it, and n-step returns stop at it.

A transition can be sampled once it is complete: n steps old, or its episode over. The n-step return is formed at
sampling time, so the tail of an episode gives n, n-1, ..., 1-step transitions, each with its own discount.

Shapes: E lanes (environments on this device), V steps inserted at once, T rows in a ring, B transitions sampled,
n steps of return.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from missing_bits import collectives
from missing_bits.envs.steps import Steps

STEP, TERMINAL, TRUNCATED, FINAL = range(
    4
)  # what a row is; FINAL holds an observation and starts no transition
_CANDIDATES = 4  # rows drawn at once per sample; all four are unfit in about one batch of a hundred


class Transitions(NamedTuple):
    """n-step transitions; `discount_t` is gamma^k times 0 if terminal, with k <= n the steps `r_t` sums over."""

    s_tm1: jax.Array  # [B, ...]
    a_tm1: jax.Array  # [B] int32
    r_t: jax.Array  # [B] float32
    discount_t: jax.Array  # [B] float32
    s_t: jax.Array  # [B, ...]


class Replay(NamedTuple):
    """The rings. Row i of a lane lies at place i modulo T; row `head` holds the latest successor observation."""

    observation: jax.Array  # [E, T, ...]
    action: jax.Array  # [E, T] int32
    reward: jax.Array  # [E, T] float32
    kind: jax.Array  # [E, T] uint8: STEP, TERMINAL, TRUNCATED or FINAL
    head: jax.Array  # [E] int32: rows completed since the start of the run
    episode_start: jax.Array  # [E] int32: the row at which the open episode began


def init(lanes: int, capacity: int, observation_shape: tuple[int, ...], dtype: jnp.dtype) -> Replay:
    """An empty replay.

    Args:
      lanes: environments on this device.
      capacity: rows that can be sampled from, over all lanes. Every step takes one and every finished episode
        one more.
      observation_shape: the shape of one observation.
      dtype: how observations are stored (images as uint8).
    """
    rows = -(-capacity // lanes) + 1  # the row at `head` is not complete, hence one more
    return Replay(
        observation=jnp.zeros((lanes, rows, *observation_shape), dtype),
        action=jnp.zeros((lanes, rows), jnp.int32),
        reward=jnp.zeros((lanes, rows), jnp.float32),
        kind=jnp.full((lanes, rows), FINAL, jnp.uint8),
        head=jnp.zeros(lanes, jnp.int32),
        episode_start=jnp.zeros(lanes, jnp.int32),
    )


def insert(replay: Replay, steps: Steps) -> Replay:
    """Appends `steps` to their lanes, over the oldest rows once a ring is full; V must not exceed T / 2."""
    lanes, rows = replay.action.shape
    chex.assert_equal_shape(
        [steps.a_tm1, steps.r_t, steps.terminated, steps.truncated, steps.valid]
    )
    chex.assert_shape(steps.a_tm1, (lanes, None))
    if 2 * steps.a_tm1.shape[1] >= rows:
        raise ValueError(
            f"{steps.a_tm1.shape[1]} steps at once do not fit in rings of {rows} rows."
        )
    done = (steps.terminated | steps.truncated) & steps.valid
    taken = (
        steps.valid.astype(jnp.int32) + done
    )  # rows each step fills: one, and one for a final observation
    ends = replay.head[:, None] + jnp.cumsum(taken, axis=1)  # [E, V]
    here = ends - taken
    lane = jnp.arange(lanes)[:, None]
    place = jnp.where(steps.valid, here % rows, rows)  # out of bounds is dropped
    after = jnp.where(steps.valid, (here + 1) % rows, rows)
    kind = jnp.where(
        steps.terminated, TERMINAL, jnp.where(steps.truncated, TRUNCATED, STEP)
    ).astype(jnp.uint8)
    dtype = replay.observation.dtype
    return Replay(
        observation=replay.observation.at[lane, place]
        .set(steps.s_tm1.astype(dtype), mode="drop")
        .at[lane, after]
        .set(steps.s_t.astype(dtype), mode="drop"),
        action=replay.action.at[lane, place].set(steps.a_tm1, mode="drop"),
        reward=replay.reward.at[lane, place].set(steps.r_t, mode="drop"),
        kind=replay.kind.at[lane, place]
        .set(kind, mode="drop")
        .at[lane, jnp.where(done, after, rows)]
        .set(FINAL, mode="drop"),
        head=ends[:, -1],
        episode_start=jnp.maximum(replay.episode_start, jnp.max(jnp.where(done, ends, 0), axis=1)),
    )


def complete(replay: Replay, lane: jax.Array, row: jax.Array, n: int) -> jax.Array:
    """Whether an n-step transition starts at `row` (counted since the start of the run) of `lane`; any shape."""
    stored = (
        (row < replay.head[lane])
        & (row >= replay.head[lane] - replay.kind.shape[1] + 1)
        & (row >= 0)
    )
    whole = (row < replay.episode_start[lane]) | (row + n <= replay.head[lane])
    return stored & whole & (replay.kind[lane, row % replay.kind.shape[1]] != FINAL)


def transitions(
    replay: Replay, lane: jax.Array, row: jax.Array, n: int, discount: float
) -> Transitions:
    """The n-step transitions that start at `row` of `lane` (each [B]); they must be complete."""
    rows = replay.kind.shape[1]
    at = (row[:, None] + jnp.arange(n)[None]) % rows  # [B, n]
    kind = replay.kind[lane[:, None], at]
    going = jnp.cumprod(
        jnp.pad(kind[:, :-1] == STEP, ((0, 0), (1, 0)), constant_values=True), axis=1
    )  # [B, n]
    powers = discount ** jnp.arange(n, dtype=jnp.float32)[None]
    terminal = jnp.any((kind == TERMINAL) & (going > 0), axis=1)
    steps = jnp.sum(going, axis=1)  # [B] k: rewards summed
    return Transitions(
        s_tm1=replay.observation[lane, row % rows],
        a_tm1=replay.action[lane, row % rows],
        r_t=jnp.sum(replay.reward[lane[:, None], at] * going * powers, axis=1),
        discount_t=jnp.where(terminal, 0.0, discount ** steps.astype(jnp.float32)),
        s_t=replay.observation[lane, (row + steps) % rows],
    )


def sample(replay: Replay, key: jax.Array, batch_size: int, n: int, discount: float) -> Transitions:
    """Draws complete transitions with replacement: every lane equally often, uniformly within a lane.

    The b-th of B samples comes from the b-th B-th part of all lanes, on whichever device that lies, so the batch
    does not depend on the number of devices. Rows that start no transition are drawn again, which leaves the
    others equally likely. From a lane with fewer than n steps there is nothing to draw: what comes back for it is
    arbitrary, and the caller must not learn from it.

    Args:
      replay: this device's lanes.
      key: the same key on every device.
      batch_size: B over all devices, a multiple of their number.
      n: steps of return.
      discount: gamma, per step.

    Returns:
      This device's B / devices transitions.
    """
    devices, (lanes, rows) = collectives.size(), replay.kind.shape
    first_key, again_key = jax.random.split(key)
    bits = collectives.shard(jax.random.bits(first_key, (batch_size, 1 + _CANDIDATES)))
    index = jnp.arange(batch_size // devices)
    jitter = (bits[:, 0] % (lanes * devices)).astype(jnp.int32)
    lane = (index * lanes * devices + jitter) // batch_size  # [B] uniform, in integers
    stored = jnp.maximum(jnp.minimum(replay.head, rows - 1), 1)[lane].astype(jnp.uint32)

    def pick(row: jax.Array, missing: jax.Array, bits: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Fills in the first candidate that is fit, where a row is missing."""
        candidates = (
            replay.head[lane][:, None] - 1 - (bits % stored[:, None]).astype(jnp.int32)
        )  # [B, candidates]
        fit = complete(replay, lane[:, None], candidates, n)
        first = jnp.take_along_axis(candidates, jnp.argmax(fit, axis=1)[:, None], axis=1)[:, 0]
        found = jnp.any(fit, axis=1)
        return jnp.where(missing & found, first, row), missing & ~found

    def again(carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        key, row, missing = carry
        key, draw_key = jax.random.split(key)
        return key, *pick(
            row, missing, collectives.shard(jax.random.bits(draw_key, (batch_size, _CANDIDATES)))
        )

    row, missing = pick(jnp.zeros_like(lane), replay.head[lane] >= n, bits[:, 1:])
    _, row, _ = jax.lax.while_loop(
        lambda carry: jnp.any(carry[2]), again, (again_key, row, missing)
    )
    return transitions(replay, lane, row, n, discount)
