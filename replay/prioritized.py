"""Prioritized n-step replay (Schaul et al. 2016, proportional variant) beside the uniform rings.

Lanes are equally likely, as in uniform replay; within a lane a complete transition is drawn with a
probability proportional to its priority, (surprise + 1e-6)^alpha. New ones get the largest
priority there was. Weights undo the bias of drawing: (N P)^-beta, over the largest of the batch of
all devices.

Priorities lie in blocks of R rows, in blocks of R blocks. The sums of blocks are computed anew from
what they hold whenever it changes, never added to: after any number of updates they are exact to
the rounding of R terms, and a row of priority 0 is never drawn. Drawing takes a random number for
each of the three levels, so that none is short of digits.

Shapes: E lanes on this device, T rows of a ring, R^3 >= T, B transitions.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from missing_bits import collectives
from missing_bits.envs.steps import Steps
from missing_bits.replay import uniform

_LEAST = 1e-6  # that a surprise counts
Lanes = jax.Array  # int32 [B]
Rows = jax.Array  # int32 [B], counted since the start of the run


class Replay(NamedTuple):
    """The rings and what is known of their rows."""

    rings: uniform.Replay
    priority: jax.Array  # [E, R, R, R]; 0 where no transition starts
    blocks: jax.Array  # [E, R, R], sums over R rows
    sections: jax.Array  # [E, R], sums over R blocks
    stored: jax.Array  # [E] int32: transitions that can be drawn
    largest: jax.Array  # scalar: the largest priority there was, the same on every device


class Sample(NamedTuple):
    """Transitions, how much each counts, and where they came from."""

    transitions: uniform.Transitions
    weights: jax.Array  # [B], at most 1
    lane: Lanes
    row: Rows


def init(lanes: int, capacity: int, observation_shape: tuple[int, ...], dtype: jnp.dtype) -> Replay:
    """An empty replay; arguments as of `uniform.init`."""
    rings = uniform.init(lanes, capacity, observation_shape, dtype)
    radix = _radix(rings.kind.shape[1])
    return Replay(
        rings=rings,
        priority=jnp.zeros((lanes, radix, radix, radix)),
        blocks=jnp.zeros((lanes, radix, radix)),
        sections=jnp.zeros((lanes, radix)),
        stored=jnp.zeros(lanes, jnp.int32),
        largest=jnp.float32(1),
    )


def _radix(rows: int) -> int:
    """The smallest R with R^3 >= rows."""
    radix = 1
    while radix**3 < rows:
        radix += 1
    return radix


def insert(replay: Replay, steps: Steps, n: int) -> Replay:
    """Appends steps, as `uniform.insert`; what they complete gets the largest priority.

    Args:
      replay: the replay.
      steps: [E, V, ...].
      n: steps of return, of which a transition needs to be complete.
    """
    lanes, rows = replay.rings.kind.shape
    # Rows that may be written, completed or overwritten: those since n before the old head.
    count = min(2 * steps.a_tm1.shape[1] + n + 1, rows)
    head = uniform.head_after(replay.rings, steps)
    row = head[:, None] - jnp.arange(count)[None]  # [E, count]
    lane = jnp.broadcast_to(jnp.arange(lanes)[:, None], row.shape)
    place = row % rows
    was_complete = uniform.complete(replay.rings, lane, row, n)
    known = replay.priority.reshape(lanes, -1)[lane, place]
    # What stood before is read before it is written over: otherwise all of it is copied.
    was_complete, known, replay = jax.lax.optimization_barrier((was_complete, known, replay))
    rings = uniform.insert(replay.rings, steps)
    fresh = jnp.where(was_complete, known, replay.largest)
    priority = jnp.where(uniform.complete(rings, lane, row, n), fresh, 0.0)
    more = jnp.sum((priority > 0).astype(jnp.int32) - (known > 0), axis=1)
    replay = replay._replace(rings=rings, stored=replay.stored + more)
    return _set(replay, lane, place, priority)


def sample(
    replay: Replay,
    key: jax.Array,
    batch_size: int,
    n: int,
    discount: jax.Array | float,
    beta: jax.Array | float,
) -> Sample:
    """Draws complete transitions with replacement, by priority within each lane.

    The b-th of B samples comes from the b-th B-th part of all lanes, as in `uniform.sample`: the
    batch does not depend on the number of devices. From a lane without complete transitions there
    is nothing to draw: what comes back for it is arbitrary.

    Args:
      replay: this device's.
      key: the same key on every device.
      batch_size: B over all devices, a multiple of their number.
      n: steps of return.
      discount: gamma, per step.
      beta: how much of the bias the weights undo, 0 to 1.

    Returns:
      This device's B / devices samples.
    """
    devices = collectives.size()
    lanes, rows = replay.rings.kind.shape
    lane_key, level_key = jax.random.split(key)
    lane = uniform.lanes_of_batch(lane_key, batch_size, lanes)
    draws = collectives.shard(jax.random.uniform(level_key, (batch_size, 3)))
    section = _pick(replay.sections[lane], draws[:, 0])
    block = _pick(replay.blocks[lane, section], draws[:, 1])
    last = _pick(replay.priority[lane, section, block], draws[:, 2])
    radix = replay.sections.shape[1]
    place = (section * radix + block) * radix + last
    head = replay.rings.head[lane]
    row = head - (head - place) % rows  # the latest row at this place
    total = jnp.sum(replay.sections, axis=1)[lane]
    chance = replay.priority[lane, section, block, last] / total / (lanes * devices)
    stored = collectives.total(jnp.sum(replay.stored))
    weights = (stored * chance) ** -beta
    weights = weights / collectives.largest(jnp.max(weights))
    found = uniform.transitions(replay.rings, lane, row, n, discount)
    return Sample(found, weights, lane, row)


def reprioritize(
    replay: Replay,
    sample: Sample,
    surprise: jax.Array,
    counts: jax.Array | bool,
    alpha: jax.Array | float,
) -> Replay:
    """Gives transitions that were just drawn the priorities of their surprise.

    Args:
      replay: from which they were drawn.
      sample: as it was drawn.
      surprise: [B], not below 0.
      counts: whether it says anything; otherwise nothing changes.
      alpha: how much priorities differ; 0 for all alike.
    """
    lanes, rows = replay.rings.kind.shape
    lane = sample.lane
    place = sample.row % rows
    priority = (surprise + _LEAST) ** alpha
    # One that was drawn twice gets the larger one, in whatever order they are written.
    known = replay.priority.reshape(lanes, -1)[lane, place]
    known, replay = jax.lax.optimization_barrier((known, replay))  # read before it is written over
    priority = jnp.where(counts, priority, known)
    flat = replay.priority.reshape(lanes, -1)
    flat = flat.at[lane, place].set(0.0).at[lane, place].max(priority)
    largest = jnp.maximum(replay.largest, collectives.largest(jnp.max(priority)))
    replay = replay._replace(
        priority=flat.reshape(replay.priority.shape),
        largest=jnp.where(counts, largest, replay.largest),
    )
    return _sum(replay, lane, place)


def _set(replay: Replay, lane: jax.Array, place: jax.Array, priority: jax.Array) -> Replay:
    """Writes priorities."""
    shape = replay.priority.shape
    flat = replay.priority.reshape(shape[0], -1).at[lane, place].set(priority)
    return _sum(replay._replace(priority=flat.reshape(shape)), lane, place)


def _sum(replay: Replay, lane: jax.Array, place: jax.Array) -> Replay:
    """Sums anew the blocks that hold what was written."""
    radix = replay.sections.shape[1]
    section = place // radix**2
    block = place // radix % radix
    sums = jnp.sum(replay.priority[lane, section, block], axis=-1)
    blocks = replay.blocks.at[lane, section, block].set(sums)
    sections = replay.sections.at[lane, section].set(jnp.sum(blocks[lane, section], axis=-1))
    return replay._replace(blocks=blocks, sections=sections)


def _pick(priorities: jax.Array, draw: jax.Array) -> jax.Array:
    """Indices [B] into priorities [B, R], each with a probability proportional to its own.

    First one of about sqrt(R) groups, then one of its members: running sums are what is dear.

    Args:
      priorities: not below 0.
      draw: [B] uniform in [0, 1).
    """
    batch, size = priorities.shape
    width = max(1, round(size**0.5))
    missing = -size % width
    groups = jnp.pad(priorities, ((0, 0), (0, missing))).reshape(batch, -1, width)
    sums = jnp.sum(groups, axis=2)
    group, left = _first_beyond(sums, draw * jnp.sum(sums, axis=1))
    members = jnp.take_along_axis(groups, group[:, None, None], axis=1)[:, 0]
    return group * width + _first_beyond(members, left)[0]


def _first_beyond(parts: jax.Array, where: jax.Array) -> tuple[jax.Array, jax.Array]:
    """In which of some parts [B, N], laid end to end, a point [B] lies, and how far into it."""
    ends = jnp.cumsum(parts, axis=1)
    beyond = (ends > where[:, None]) & (parts > 0)
    # Rounding may leave none: then it is the last that can be.
    last = parts.shape[1] - 1 - jnp.argmax(parts[:, ::-1] > 0, axis=1)
    index = jnp.where(jnp.any(beyond, axis=1), jnp.argmax(beyond, axis=1), last)
    start = jnp.take_along_axis(ends - parts, index[:, None], axis=1)[:, 0]
    return index, where - start
