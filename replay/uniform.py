"""Uniform n-step replay (Lin 1992; Mnih et al. 2015) as a pytree of arrays in device memory.

Each environment is a lane with its own ring of rows, so insertion, sampling, vmap over seeds and
shards over devices are the same code. A row is one environment step: the observation, the action
taken there and what came of it; its successor's observation is the next row's, so no observation is
stored twice. When an episode ends, one more row holds its final observation: truncation bootstraps
from it, and n-step returns stop at it.

A transition can be sampled once it is complete: n steps old, or its episode over. The n-step return
is formed at sampling time, so the tail of an episode gives n, n-1, ..., 1-step transitions, each
with its own discount.

Shapes: E lanes (environments on this device), V steps inserted at once, T rows in a ring, B
transitions sampled, n steps of return.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from missing_bits import collectives, memory
from missing_bits.envs.steps import Steps
from missing_bits.errors import require
from missing_bits.notes import say
from missing_bits.numeric import ceil_div

# What a row is; FINAL holds an observation and starts no transition.
STEP, TERMINAL, TRUNCATED, FINAL = range(4)
_LARGE = 500_000_000  # bytes that are worth a line
_CANDIDATES = 4  # rows drawn at once per sample; all four are unfit in about one batch of a hundred


class Transitions(NamedTuple):
    """n-step transitions, of k <= n steps where the episode ends before."""

    s_tm1: jax.Array  # [B, ...]
    a_tm1: jax.Array  # [B] int32
    r_t: jax.Array  # [B] float32: the discounted sum of k rewards
    discount_t: jax.Array  # [B] float32: gamma^k, or 0 if s_t is terminal
    s_t: jax.Array  # [B, ...]


class Replay(NamedTuple):
    """The rings. Row i of a lane lies at place i modulo T; row `head` is the latest successor."""

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
      capacity: rows that can be sampled from, over all lanes. Every step takes one and every
        finished episode one more.
      observation_shape: the shape of one observation.
      dtype: how observations are stored (images as uint8).
    """
    rows = ceil_div(capacity, lanes) + 1  # the row at `head` is not complete, hence one more
    return Replay(
        observation=jnp.zeros((lanes, rows, *observation_shape), dtype),
        action=jnp.zeros((lanes, rows), jnp.int32),
        reward=jnp.zeros((lanes, rows), jnp.float32),
        kind=jnp.full((lanes, rows), FINAL, jnp.uint8),
        head=jnp.zeros(lanes, jnp.int32),
        episode_start=jnp.zeros(lanes, jnp.int32),
    )


def tell_size(
    seeds: int,
    capacity: int,
    observation_shape: tuple[int, ...],
    dtype: jnp.dtype,
    make: Callable[..., Any] = init,
) -> None:
    """Says how large the replays of a run will be, if they are large.

    Args:
      seeds: how many have one.
      capacity: of each, as of `init`.
      observation_shape: as of `init`.
      dtype: as of `init`.
      make: makes one: `init`, or that of another kind of replay.

    Raises:
      UserError: there is less memory than that, and it is to hold them.
    """
    shapes = jax.eval_shape(lambda: make(1, capacity, observation_shape, dtype))
    size = seeds * sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))
    of_all = f" of {seeds} seeds" if seeds > 1 else ""
    free = memory.available()
    require(
        jax.default_backend() != "cpu" or size <= free,
        f"--replay-capacity={capacity}{of_all} takes {size / 1e9:.1f} GB, and {free / 1e9:.1f} GB "
        "of memory are available; give a smaller one, or smaller observations (images by "
        "--wrappers grayscale resize:84x84).",
    )
    if size >= _LARGE:
        say(f"replay: {capacity:,} transitions{of_all}, {size / 1e9:.1f} GB")


def insert(replay: Replay, steps: Steps) -> Replay:
    """Appends `steps` to their lanes, over the oldest rows once a ring is full.

    Args:
      replay: the rings.
      steps: [E, V, ...]; rows that are not valid are left out.

    Raises:
      ValueError: V is T / 2 or more; `valid` could then be such that a ring overtakes itself.
    """
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
    taken = _taken(steps)
    ends = replay.head[:, None] + jnp.cumsum(taken, axis=1)  # [E, V]
    here = ends - taken
    lane = jnp.arange(lanes)[:, None]
    place = jnp.where(steps.valid, here % rows, rows)  # out of bounds is dropped
    after = jnp.where(steps.valid, (here + 1) % rows, rows)
    after_end = jnp.where(done, after, rows)
    alive = jnp.where(steps.truncated, TRUNCATED, STEP)
    kind = jnp.where(steps.terminated, TERMINAL, alive).astype(jnp.uint8)
    before = steps.s_tm1.astype(replay.observation.dtype)
    successor = steps.s_t.astype(replay.observation.dtype)
    observation = replay.observation.at[lane, place].set(before, mode="drop")
    kinds = replay.kind.at[lane, place].set(kind, mode="drop")
    return Replay(
        observation=observation.at[lane, after].set(successor, mode="drop"),
        action=replay.action.at[lane, place].set(steps.a_tm1, mode="drop"),
        reward=replay.reward.at[lane, place].set(steps.r_t, mode="drop"),
        kind=kinds.at[lane, after_end].set(FINAL, mode="drop"),
        head=ends[:, -1],
        episode_start=jnp.maximum(replay.episode_start, jnp.max(jnp.where(done, ends, 0), axis=1)),
    )


def _taken(steps: Steps) -> jax.Array:
    """The rows [E, V] that each step fills: one, and one more for a final observation."""
    done = (steps.terminated | steps.truncated) & steps.valid
    return steps.valid.astype(jnp.int32) + done


def head_after(replay: Replay, steps: Steps) -> jax.Array:
    """What `head` [E] will be once `steps` are inserted."""
    return replay.head + jnp.sum(_taken(steps), axis=1)


def complete(replay: Replay, lane: jax.Array, row: jax.Array, n: int) -> jax.Array:
    """Whether an n-step transition starts at `row` of `lane`, whose shapes broadcast.

    Args:
      replay: the rings.
      lane: int32.
      row: int32, counted since the start of the run.
      n: steps of return.

    Returns:
      bool.
    """
    rows = replay.kind.shape[1]
    head = replay.head[lane]
    stored = (row < head) & (row >= head - rows + 1) & (row >= 0)
    whole = (row < replay.episode_start[lane]) | (row + n <= head)
    return stored & whole & (replay.kind[lane, row % rows] != FINAL)


def transitions(
    replay: Replay, lane: jax.Array, row: jax.Array, n: int, discount: float
) -> Transitions:
    """The n-step transitions that start at `row` of `lane` (each [B]); they must be complete."""
    rows = replay.kind.shape[1]
    at = (row[:, None] + jnp.arange(n)[None]) % rows  # [B, n]
    kind = replay.kind[lane[:, None], at]
    not_ended = jnp.pad(kind[:, :-1] == STEP, ((0, 0), (1, 0)), constant_values=True)
    going = jnp.cumprod(not_ended, axis=1)  # [B, n]
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


def lanes_of_batch(key: jax.Array, batch_size: int, lanes: int) -> jax.Array:
    """The lanes [B / devices] from which a batch is drawn, every one equally often.

    The b-th of B samples comes from the b-th B-th part of all lanes, on whichever device that lies.

    Args:
      key: the same key on every device.
      batch_size: B over all devices, a multiple of their number.
      lanes: of each device.
    """
    devices = collectives.size()
    bits = collectives.shard(jax.random.bits(key, (batch_size,)))
    return _lanes(bits, batch_size, lanes, devices)


def _lanes(bits: jax.Array, batch_size: int, lanes: int, devices: int) -> jax.Array:
    index = jnp.arange(batch_size // devices)
    jitter = (bits % (lanes * devices)).astype(jnp.int32)
    return (index * lanes * devices + jitter) // batch_size  # uniform, in integers


class _Draw(NamedTuple):
    """The rows of a batch, some of which may have to be drawn again."""

    key: jax.Array
    row: jax.Array  # [B] int32
    missing: jax.Array  # [B] bool


def sample(replay: Replay, key: jax.Array, batch_size: int, n: int, discount: float) -> Transitions:
    """Draws complete transitions with replacement: every lane equally often, uniformly within a
    lane.

    The b-th of B samples comes from the b-th B-th part of all lanes, on whichever device that lies,
    so the batch does not depend on the number of devices. Rows that start no transition are drawn
    again, which leaves the others equally likely. From a lane with fewer than n steps there is
    nothing to draw: what comes back for it is arbitrary, and the caller must not learn from it.

    Args:
      replay: this device's lanes.
      key: the same key on every device.
      batch_size: B over all devices, a multiple of their number.
      n: steps of return.
      discount: gamma, per step.

    Returns:
      This device's B / devices transitions.
    """
    devices = collectives.size()
    lanes, rows = replay.kind.shape
    first_key, again_key = jax.random.split(key)
    bits = collectives.shard(jax.random.bits(first_key, (batch_size, 1 + _CANDIDATES)))
    lane = _lanes(bits[:, 0], batch_size, lanes, devices)
    stored = jnp.maximum(jnp.minimum(replay.head, rows - 1), 1)[lane].astype(jnp.uint32)

    def pick(row: jax.Array, missing: jax.Array, bits: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Fills in the first candidate that is fit, where a row is missing."""
        back = (bits % stored[:, None]).astype(jnp.int32)
        candidates = replay.head[lane][:, None] - 1 - back  # [B, candidates]
        fit = complete(replay, lane[:, None], candidates, n)
        first = jnp.take_along_axis(candidates, jnp.argmax(fit, axis=1)[:, None], axis=1)[:, 0]
        found = jnp.any(fit, axis=1)
        return jnp.where(missing & found, first, row), missing & ~found

    def again(draw: _Draw) -> _Draw:
        key, draw_key = jax.random.split(draw.key)
        bits = collectives.shard(jax.random.bits(draw_key, (batch_size, _CANDIDATES)))
        row, missing = pick(draw.row, draw.missing, bits)
        return _Draw(key, row, missing)

    row, missing = pick(jnp.zeros_like(lane), replay.head[lane] >= n, bits[:, 1:])
    draw = _Draw(again_key, row, missing)
    row = jax.lax.while_loop(lambda draw: jnp.any(draw.missing), again, draw).row
    return transitions(replay, lane, row, n, discount)
