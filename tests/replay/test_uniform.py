"""Uniform replay: what is drawn, how often, the same however it is laid over devices and seeds."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from missing_bits import collectives, memory
from missing_bits.envs.steps import Steps
from missing_bits.errors import UserError
from missing_bits.replay import uniform

GAMMA = 0.9
N = 3
ROWS = 41
# Compiling takes far longer than running: tests keep to a few shapes, which share these programs.
CHUNK = 10
insert = jax.jit(uniform.insert)


@functools.partial(jax.jit, static_argnums=2)
def sample(replay, seed, batch_size):
    """Draw a batch; a seed is cheaper to hand over than a key."""
    return uniform.sample(replay, jax.random.key(seed), batch_size, N, GAMMA)


def empty(lanes):
    """Return a replay with nothing in it, whose observations are two numbers."""
    return uniform.init(lanes, (ROWS - 1) * lanes, (2,), jnp.float32)


def random_steps(seed, lanes, count, end_probability=0.2, invalid_probability=0.0):
    """Make steps [lanes, count] of episodes of random length.

    Observations are [lane, row of replay they lie in].
    """
    rng = np.random.default_rng(seed)
    terminated = rng.random((lanes, count)) < end_probability / 2
    truncated = rng.random((lanes, count)) < end_probability / 2
    valid = rng.random((lanes, count)) >= invalid_probability
    done = terminated | truncated
    taken = valid * (1 + done)  # every end adds an observation, which no action follows
    number = np.cumsum(taken, axis=1) - taken
    lane = np.broadcast_to(np.arange(lanes)[:, None], number.shape)
    return Steps(
        s_tm1=np.stack([lane, number], -1).astype(np.float32),
        a_tm1=rng.integers(0, 4, (lanes, count)).astype(np.int32),
        r_t=rng.normal(size=(lanes, count)).astype(np.float32),
        terminated=terminated,
        truncated=truncated,
        s_t=np.stack([lane, number + 1], -1).astype(np.float32),
        valid=valid,
    )


def chunks(steps, size=CHUNK):
    """Cut steps [E, V, ...] into pieces of `size` along V."""
    for first in range(0, steps.valid.shape[1], size):
        yield jax.tree.map(lambda x, i=first: x[:, i : i + size], steps)


def filled(seed, lanes, count, **probabilities):
    """Return a replay with `count` steps in each of its lanes."""
    replay = empty(lanes)
    for chunk in chunks(random_steps(seed, lanes, count, **probabilities)):
        replay = insert(replay, chunk)
    return replay


def complete_rows(replay, n=N):
    """List, for each lane, the rows at which complete transitions start: one by one, in Python."""
    lanes, rows = replay.kind.shape
    kind = np.asarray(replay.kind)
    found = []
    for lane in range(lanes):
        head = int(replay.head[lane])
        mine = []
        for row in range(max(0, head - rows + 1), head):
            span = [kind[lane, r % rows] for r in range(row, min(row + n, head))]
            ended = any(k in (uniform.TERMINAL, uniform.TRUNCATED) for k in span)
            if span[0] != uniform.FINAL and (len(span) == n or ended):
                mine.append(row)
        found.append(mine)
    return found


def draw(replay, batches=500, batch_size=64):
    """Draw many batches; return the lanes and rows they start at, each [batches, batch_size]."""
    drawn = np.stack([sample(replay, seed, batch_size).s_tm1 for seed in range(batches)])
    return drawn[..., 0].astype(int), drawn[..., 1].astype(int)


@pytest.mark.parametrize("count", [30, 200], ids=["filling", "wrapped"])
def test_every_complete_transition_of_a_lane_is_equally_likely_and_no_other_row_is_drawn(count):
    replay = filled(0, lanes=2, count=count)
    assert (count < ROWS) == (int(replay.head.max()) < ROWS)
    lanes, rows = draw(replay)
    for lane, fit in enumerate(complete_rows(replay)):
        drawn, times = np.unique(rows[lanes == lane], return_counts=True)
        # Each about 500 times: a row left out by chance has probability e^-500.
        assert drawn.tolist() == fit
        assert scipy.stats.chisquare(times).pvalue > 1e-3


def test_rows_at_the_end_of_an_open_episode_wait_until_they_are_n_steps_old():
    """With no end in sight, of 10 steps the first 8 have seen 3 rewards."""
    replay = filled(0, lanes=2, count=10, end_probability=0.0)
    assert complete_rows(replay) == [list(range(8))] * 2
    _, rows = draw(replay)
    assert sorted(set(rows.ravel().tolist())) == list(range(8))


def test_a_batch_that_is_a_multiple_of_the_lanes_takes_equally_from_each():
    lanes, _ = draw(filled(1, lanes=2, count=60))
    np.testing.assert_array_equal(lanes.sum(axis=1), 32)  # of 64, from lane 1


@pytest.mark.parametrize(("num_lanes", "batch_size"), [(6, 8), (8, 4)])
def test_every_lane_is_drawn_equally_often(num_lanes, batch_size):
    lanes, _ = draw(filled(2, num_lanes, count=60), 2000, batch_size)
    times = np.bincount(lanes.ravel(), minlength=num_lanes)
    # Draws are stratified over lanes, so counts vary less than a multinomial's: the test can only
    # be too kind to chance, never to a bias.
    assert scipy.stats.chisquare(times).pvalue > 1e-3
    if num_lanes % batch_size == 0:  # each of the batch has lanes of its own
        parts = lanes // (num_lanes // batch_size)
        np.testing.assert_array_equal(parts, np.broadcast_to(np.arange(batch_size), parts.shape))


def test_samples_are_drawn_independently_of_each_other():
    """Two draws from a lane in one batch agree about as often as chance has it."""
    replay = filled(3, lanes=2, count=60)
    lanes, rows = draw(replay)
    assert not lanes[:, :32].any()
    pairs = rows[:, :32].reshape(-1, 2)
    agree = int(np.sum(pairs[:, 0] == pairs[:, 1]))
    assert scipy.stats.binomtest(agree, len(pairs), 1 / len(complete_rows(replay)[0])).pvalue > 1e-3


def test_a_lane_with_nothing_to_draw_holds_up_no_other():
    """What stands for the empty lane is arbitrary; sampling ends, and the other lane is right."""
    steps = random_steps(4, 2, 10)
    steps = steps._replace(valid=steps.valid & np.array([[True], [False]]))
    replay = insert(empty(2), steps)
    assert replay.head[1] == 0
    lanes, rows = draw(replay)
    assert not lanes[:, :32].any()  # the first half of the batch belongs to the first of two lanes
    assert sorted(set(rows[:, :32].ravel().tolist())) == complete_rows(replay)[0]


@pytest.mark.parametrize(("num_lanes", "batch_size", "devices"), [(8, 4, 4), (6, 8, 2)])
def test_the_batch_does_not_depend_on_the_number_of_devices(num_lanes, batch_size, devices):
    replay = filled(5, num_lanes, count=70)
    assert len(np.unique(np.asarray(replay.head))) > 1, "lanes, and so devices, differ"
    shards = jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), replay)
    mapped = jax.pmap(
        lambda replay, seed: sample(replay, seed, batch_size),
        collectives.AXIS,
        in_axes=(0, None),
        devices=jax.local_devices()[:devices],
    )
    for seed in range(5):
        parts = mapped(shards, seed)
        assert parts.a_tm1.shape == (devices, batch_size // devices)
        whole = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), parts)
        chex.assert_trees_all_equal(whole, sample(replay, seed, batch_size))


def test_seeds_under_vmap_equal_each_alone():
    replays = [filled(seed, 2, 30, invalid_probability=0.2) for seed in range(3)]
    steps = [random_steps(seed, 2, CHUNK, invalid_probability=0.2) for seed in range(3, 6)]

    def stack(trees):
        return jax.tree.map(lambda *x: np.stack(x), *trees)

    together = jax.jit(jax.vmap(uniform.insert))(stack(replays), stack(steps))
    alone = [insert(replay, new) for replay, new in zip(replays, steps, strict=True)]
    chex.assert_trees_all_equal(together, stack(alone))
    seeds = np.array([7, 8, 9])
    drawn = [sample(replay, seed, 64) for replay, seed in zip(alone, seeds, strict=True)]
    sample_seeds = jax.jit(jax.vmap(lambda replay, seed: sample(replay, seed, 64)))
    chex.assert_trees_all_equal(sample_seeds(together, seeds), stack(drawn))
    assert not np.array_equal(drawn[0].s_tm1, drawn[1].s_tm1)


def test_hand_computed_transitions():
    """Two rewards, then a truncation; one reward, then a terminal state: gamma = 0.5, n = 3.

    Rows: 0, 1 steps with rewards 1, 2; 2 the final observation; 3 a step with reward 4; 4 the final
    observation.
    """
    steps = Steps(
        s_tm1=np.array([[[10.0], [11.0], [20.0]]], np.float32),
        a_tm1=np.array([[0, 1, 2]], np.int32),
        r_t=np.array([[1.0, 2.0, 4.0]], np.float32),
        terminated=np.array([[False, False, True]]),
        truncated=np.array([[False, True, False]]),
        s_t=np.array([[[11.0], [12.0], [21.0]]], np.float32),
        valid=np.ones((1, 3), bool),
    )
    replay = insert(uniform.init(1, 12, (1,), jnp.float32), steps)
    assert complete_rows(replay, 3) == [[0, 1, 3]]
    found = jax.jit(uniform.transitions, static_argnums=3)(
        replay, np.zeros(3, int), np.array([0, 1, 3]), 3, 0.5
    )
    np.testing.assert_array_equal(found.s_tm1[:, 0], [10, 11, 20])
    np.testing.assert_array_equal(found.a_tm1, [0, 1, 2])
    np.testing.assert_allclose(found.r_t, [1 + 0.5 * 2, 2, 4], rtol=1e-6)
    # Truncation bootstraps, death does not.
    np.testing.assert_allclose(found.discount_t, [0.5**2, 0.5, 0], rtol=1e-6)
    np.testing.assert_array_equal(found.s_t[:, 0], [12, 12, 21])


def test_rows_that_are_not_valid_leave_no_trace():
    steps = random_steps(6, 2, CHUNK, invalid_probability=0.4)
    valid = steps.valid
    dirty = jax.tree.map(
        lambda x, y: np.where(valid.reshape(valid.shape + (1,) * (x.ndim - 2)), x, y),
        steps,
        random_steps(7, 2, CHUNK),
    )._replace(valid=valid)
    replay = insert(empty(2), dirty)
    one_by_one = empty(2)
    for step in chunks(steps, 1):
        one_by_one = insert(one_by_one, step)
    chex.assert_trees_all_equal(replay, one_by_one)
    np.testing.assert_array_equal(
        replay.head, (valid * (1 + (steps.terminated | steps.truncated))).sum(axis=1)
    )
    nothing = insert(replay, dirty._replace(valid=np.zeros_like(valid)))
    chex.assert_trees_all_equal(nothing, replay)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**31), ends=st.sampled_from([0.0, 0.2, 0.7, 1.0]))
def test_any_chunking_stores_what_row_by_row_insertion_stores(data, seed, ends):
    """Steps spread over calls with gaps anywhere, each lane in its own way, round 12 rows."""
    lanes = 2
    rows = 12
    most = 5
    counts = [data.draw(st.integers(0, 30)) for _ in range(lanes)]
    steps = random_steps(seed, lanes, max([*counts, 1]), end_probability=ends)
    many = uniform.init(lanes, (rows - 1) * lanes, (2,), jnp.float32)
    one_by_one = many
    for v in range(max(counts)):
        row = jax.tree.map(lambda x, v=v: np.repeat(x[:, v : v + 1], most, axis=1), steps)
        valid = np.zeros((lanes, most), bool)
        valid[:, 0] = [v < count for count in counts]
        one_by_one = insert(one_by_one, row._replace(valid=valid))
    made = [0] * lanes
    while made != counts:
        gaps = data.draw(st.lists(st.booleans(), min_size=lanes * most, max_size=lanes * most))
        valid = np.array(gaps).reshape(lanes, most)
        source = np.zeros((lanes, most), int)
        if not valid.any():
            valid[:, 0] = True
        for lane in range(lanes):
            for v in range(most):
                valid[lane, v] &= made[lane] < counts[lane]
                source[lane, v] = min(made[lane], steps.a_tm1.shape[1] - 1)
                made[lane] += int(valid[lane, v])
        chunk = jax.tree.map(lambda x, s=source: x[np.arange(lanes)[:, None], s], steps)
        many = insert(many, chunk._replace(valid=valid))
    chex.assert_trees_all_equal(many, one_by_one)


def test_a_step_too_many_at_once_is_refused():
    """2 V rows may be filled; they must leave the row at the head alone."""
    replay = uniform.init(1, 9, (2,), jnp.float32)  # 10 rows
    with pytest.raises(ValueError, match="5 steps at once do not fit in rings of 10 rows"):
        uniform.insert(replay, random_steps(0, 1, 5))
    jax.eval_shape(uniform.insert, replay, random_steps(0, 1, 4))


def test_observations_keep_their_dtype():
    replay = uniform.init(1, 10, (2, 2, 1), jnp.uint8)
    steps = random_steps(0, 1, 3)
    frames = np.full((1, 3, 2, 2, 1), 255, np.uint8)
    replay = insert(replay, steps._replace(s_tm1=frames, s_t=frames))
    assert replay.observation.dtype == jnp.uint8
    assert replay.observation.max() == 255


def test_insertion_and_sampling_work_in_place_when_the_replay_is_donated():
    """No second replay is made, for a buffer as large as memory allows."""

    def update(replay, steps, key):
        replay = uniform.insert(replay, steps)
        return replay, uniform.sample(replay, key, 8, N, GAMMA)

    replay = uniform.init(2, 20_000, (16,), jnp.float32)
    steps = random_steps(0, 2, 4)
    wide = steps._replace(
        s_tm1=np.zeros((2, 4, 16), np.float32), s_t=np.zeros((2, 4, 16), np.float32)
    )
    compiled = jax.jit(update, donate_argnums=0).lower(replay, wide, jax.random.key(0)).compile()
    usage = compiled.memory_analysis()
    if usage is None:
        pytest.skip("this backend does not tell what memory a program takes")
    assert usage.alias_size_in_bytes >= replay.observation.nbytes
    # No temporary is as large as the smallest of the rings.
    assert usage.temp_size_in_bytes < replay.action.nbytes
    place = replay.observation.unsafe_buffer_pointer()
    replay, _ = compiled(replay, wide, jax.random.key(0))
    assert replay.observation.unsafe_buffer_pointer() == place


def test_a_large_replay_is_told_before_it_is_made(monkeypatch, capsys):
    """Frames of 210 x 160 x 3 bytes, and 9 bytes beside each: 50,001 rows take 5.04 GB."""
    monkeypatch.setattr(memory, "available", lambda: 10**10)
    uniform.tell_size(1, 50_000, (210, 160, 3), jnp.uint8)
    assert capsys.readouterr().err == "replay: 50,000 transitions, 5.0 GB\n"
    uniform.tell_size(2, 50_000, (84, 84, 3), jnp.uint8)
    assert capsys.readouterr().err == "replay: 50,000 transitions of 2 seeds, 2.1 GB\n"
    uniform.tell_size(1, 50_000, (4,), jnp.float32)
    assert capsys.readouterr().err == ""


def test_a_replay_that_no_memory_holds_is_refused(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 4 * 10**9)
    with pytest.raises(UserError, match=r"--replay-capacity=50000 takes 5.0 GB, and 4.0 GB .*give"):
        uniform.tell_size(1, 50_000, (210, 160, 3), jnp.uint8)
    with pytest.raises(UserError, match=r"--replay-capacity=50000 of 2 seeds takes"):
        uniform.tell_size(2, 50_000, (150, 160, 3), jnp.uint8)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")  # it will not lie on the host
    uniform.tell_size(1, 50_000, (210, 160, 3), jnp.uint8)
