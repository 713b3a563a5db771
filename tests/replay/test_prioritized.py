"""Prioritized replay against a loop in numpy, by statistics, and at a million items."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from missing_bits.envs.steps import Steps
from missing_bits.replay import prioritized, uniform

N = 3


def steps(rng, lanes, length, p_end=0.2):
    """Random steps whose observations name them."""
    shape = (lanes, length)
    ends = rng.uniform(size=shape) < p_end
    kind = rng.uniform(size=shape) < 0.5
    valid = rng.uniform(size=shape) < 0.8
    return Steps(
        s_tm1=rng.normal(size=(*shape, 1)).astype(np.float32),
        a_tm1=rng.integers(0, 4, shape).astype(np.int32),
        r_t=rng.normal(size=shape).astype(np.float32),
        terminated=ends & kind,
        truncated=ends & ~kind,
        s_t=rng.normal(size=(*shape, 1)).astype(np.float32),
        valid=valid,
    )


insert = jax.jit(prioritized.insert, static_argnums=2)
sample = jax.jit(prioritized.sample, static_argnums=(2, 3))
reprioritize = jax.jit(prioritized.reprioritize)


complete = jax.jit(uniform.complete, static_argnums=3)


def flat(replay):
    """Priorities [E, T]."""
    rows = replay.rings.kind.shape[1]
    return np.asarray(replay.priority).reshape(len(replay.sections), -1)[:, :rows]


def complete_places(replay):
    """For each lane, the places at which complete transitions start, and their rows."""
    rows = replay.rings.kind.shape[1]
    found = []
    for lane, head in enumerate(np.asarray(replay.rings.head)):
        row = head - 1 - np.arange(rows)
        fits = complete(replay.rings, np.full(rows, lane), row, N)
        found.append({int(r) % rows: int(r) for r, fit in zip(row, fits, strict=True) if fit})
    return found


def test_it_is_a_plain_replay_in_numpy():
    """Through inserts and surprises in rings that overflow: who has which priority, and all sums."""
    rng = np.random.default_rng(0)
    replay = prioritized.init(2, 2 * 40, (1,), jnp.float32)
    known: list[dict[int, float]] = [{}, {}]  # lane -> row -> priority
    largest = 1.0
    for turn in range(60):
        replay = insert(replay, steps(rng, 2, 1 + turn % 3), N)
        for lane, places in enumerate(complete_places(replay)):
            known[lane] = {row: known[lane].get(row, largest) for row in places.values()}
        if turn > 5:
            drawn = sample(replay, jax.random.key(turn), 16, N, 0.9, 0.5)
            surprise = rng.exponential(size=16).astype(np.float32) * 3
            replay = reprioritize(replay, drawn, surprise, True, 0.7)
            fresh: dict[tuple[int, int], float] = {}
            for lane, row, much in zip(drawn.lane, drawn.row, surprise, strict=True):
                at = (int(lane), int(row))
                fresh[at] = max(fresh.get(at, 0.0), (much + 1e-6) ** 0.7)
            for (lane, row), priority in fresh.items():
                assert row in known[lane], "drawn where no transition starts"
                known[lane][row] = priority
            largest = max(largest, *fresh.values())
        rows = replay.rings.kind.shape[1]
        expected = np.zeros((2, rows))
        for lane in range(2):
            for row, priority in known[lane].items():
                expected[lane, row % rows] = priority
        np.testing.assert_allclose(flat(replay), expected, rtol=1e-5)
        np.testing.assert_allclose(replay.blocks, np.sum(replay.priority, axis=-1), rtol=1e-6)
        assert np.sum(replay.stored) == np.sum(np.asarray(replay.priority) > 0)
        np.testing.assert_allclose(replay.sections, np.sum(replay.blocks, axis=-1), rtol=1e-6)
    assert float(replay.largest) == pytest.approx(largest, rel=1e-5)


@pytest.fixture(scope="module")
def uneven():
    """A replay of two lanes with priorities that differ by orders of magnitude."""
    rng = np.random.default_rng(1)
    replay = prioritized.init(2, 2 * 60, (1,), jnp.float32)
    for _ in range(40):
        replay = insert(replay, steps(rng, 2, 2), N)
    for turn in range(30):
        drawn = sample(replay, jax.random.key(turn), 64, N, 0.9, 0.5)
        surprise = 10 ** rng.uniform(-3, 1, 64).astype(np.float32)
        replay = reprioritize(replay, drawn, surprise, True, 1.0)
    return replay


def test_transitions_are_drawn_in_proportion_to_their_priorities(uneven):
    """Chi-square over 200,000 draws in each lane, lanes equally likely."""
    drawn = sample(uneven, jax.random.key(0), 400_000, N, 0.9, 0.5)
    rows = uneven.rings.kind.shape[1]
    priorities = flat(uneven)
    for lane in range(2):
        mine = np.asarray(drawn.row)[np.asarray(drawn.lane) == lane] % rows
        assert len(mine) == 200_000
        counts = np.bincount(mine, minlength=rows)
        assert counts[priorities[lane] == 0].sum() == 0
        likely = priorities[lane] > 0
        chances = priorities[lane][likely].astype(float)
        expected = 200_000 * chances / chances.sum()
        often = expected > 5
        observed = np.append(counts[likely][often], counts[likely][~often].sum())
        wanted = np.append(expected[often], expected[~often].sum() + 1e-9)
        keep = wanted > 1
        scaled = wanted[keep] / wanted[keep].sum() * observed[keep].sum()
        result = scipy.stats.chisquare(observed[keep], scaled)
        assert result.pvalue > 1e-4


@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
def test_weights_undo_the_bias(uneven, beta):
    drawn = sample(uneven, jax.random.key(3), 256, N, 0.9, beta)
    priorities = flat(uneven)
    rows = priorities.shape[1]
    p = priorities[np.asarray(drawn.lane), np.asarray(drawn.row) % rows]
    chance = p / priorities.sum(axis=1)[np.asarray(drawn.lane)] / 2
    weights = ((priorities > 0).sum() * chance) ** -beta
    np.testing.assert_allclose(drawn.weights, weights / weights.max(), rtol=1e-4)


def test_fully_weighted_draws_have_the_mean_of_all(uneven):
    """With beta = 1 the weighted mean is that of uniform draws: a mean over a million times N."""
    drawn = sample(uneven, jax.random.key(4), 400_000, N, 0.9, 1.0)
    found = np.average(drawn.transitions.r_t, weights=drawn.weights)
    rewards = []
    for lane, places in enumerate(complete_places(uneven)):
        row = jnp.asarray(list(places.values()))
        full = uniform.transitions(uneven.rings, jnp.full(len(row), lane), row, N, 0.9)
        rewards.append(np.asarray(full.r_t))
    assert found == pytest.approx(np.concatenate(rewards).mean(), abs=0.05)


def test_nothing_changes_where_nothing_was_learned(uneven):
    drawn = sample(uneven, jax.random.key(5), 32, N, 0.9, 0.5)
    again = reprioritize(uneven, drawn, np.full(32, 100, np.float32), False, 1.0)
    for before, after in zip(jax.tree.leaves(uneven), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(before, after)


def test_a_million_items_are_exact_and_nothing_of_priority_zero_is_drawn():
    """One lane; three of four rows have no priority, and the others differ by a million."""
    size = 1_000_000
    rng = np.random.default_rng(2)
    replay = prioritized.init(1, size, (), jnp.float32)
    radix = replay.sections.shape[1]
    leaves = np.zeros(radix**3, np.float32)
    leaves[:size] = np.where(rng.uniform(size=size) < 0.25, 10 ** rng.uniform(-6, 0, size), 0)
    shaped = leaves.reshape(1, radix, radix, radix)
    replay = replay._replace(
        priority=jnp.asarray(shaped),
        blocks=jnp.asarray(shaped.sum(-1)),
        sections=jnp.asarray(shaped.sum(-1).sum(-1)),
        stored=jnp.asarray([np.sum(leaves > 0)], jnp.int32),
        rings=replay.rings._replace(head=jnp.array([size], jnp.int32)),
    )
    drawn = sample(replay, jax.random.key(0), 200_000, 1, 0.9, 0.5)
    places = np.asarray(drawn.row) % replay.rings.kind.shape[1]
    assert (leaves[places] > 0).all()
    # Items in three classes of size: each is drawn as often as its share says.
    edges = [0, 1e-2, 1e-1, 2]
    for low, high in itertools.pairwise(edges):
        mine = (leaves > low) & (leaves <= high)
        share = leaves[mine].sum(dtype=float) / leaves.sum(dtype=float)
        spread = 5 * np.sqrt(share * (1 - share) / 200_000)
        assert mine[places].mean() == pytest.approx(share, abs=spread)
    for _ in range(3):
        replay = reprioritize(
            replay, drawn, np.abs(rng.normal(size=200_000)).astype(np.float32), True, 0.5
        )
    exact = np.asarray(replay.priority, float).sum()
    assert float(jnp.sum(replay.sections)) == pytest.approx(exact, rel=1e-6)
