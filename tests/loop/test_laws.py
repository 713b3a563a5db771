"""The laws of the loop, on three toys: keys, calls, devices, rows, numbers, what is saved."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import chex
import jax
import numpy as np
import pytest

from missing_bits import options
from missing_bits.envs.steps import Acted
from missing_bits.loop.checkpoint import digest
from missing_bits.loop.experiment import Acting, DeviceSource, Pretraining
from missing_bits.loop.family import Family
from missing_bits.loop.parallel import Layout
from missing_bits.tests.loop.drive import Drive
from missing_bits.tests.loop.toys import (
    Chain,
    ChainConfig,
    Regression,
    RegressionConfig,
    Tracker,
    TrackerConfig,
)

UPDATES = 20
TOYS = {
    "regression": (Regression, RegressionConfig()),
    "chain": (Chain, ChainConfig()),
    "tracker": (Tracker, TrackerConfig()),
}
# For each toy, another value for every number.
OTHER = {
    "regression": {"step_size": 0.03, "penalty": 0.2, "jitter": (-0.3, 0.5)},
    "chain": {"step_size": 0.3, "discount": 0.5, "exploration": 0.9},
    "tracker": {"step_size": 0.03, "forgetting": 0.9, "exploration": 0.9},
}
every_toy = pytest.mark.parametrize("toy", TOYS)


class Solo(NamedTuple):
    """What a row is alone, on one device, after `UPDATES` updates."""

    learned: Any
    sums: Any


_solos: dict[Any, Solo] = {}
_programs: dict[str, dict[Any, Any]] = {toy: {} for toy in TOYS}


def start(toy: str, seeds: Sequence[int], devices: int = 1, **settings: Any) -> Drive:
    """Rows of a toy before their first update; its programs are compiled once for all tests."""
    method, config = TOYS[toy]
    room = UPDATES if toy == "regression" else 1
    settings = {"configs": config, "programs": _programs[toy], "room": room, **settings}
    return Drive(method, seeds=seeds, devices=devices, **settings)


def solo(toy: str, seed: int = 0, **changed: Any) -> Solo:
    """A run of its own."""
    key = (toy, seed, *changed.items())
    if key not in _solos:
        configs = dataclasses.replace(TOYS[toy][1], **changed)
        made = start(toy, [seed], configs=configs).advance(*calls(toy, UPDATES))
        _solos[key] = Solo(made.learned[0], made.sums[0])
    return _solos[key]


def calls(toy: str, updates: int) -> list[int]:
    """One call, or as many as updates where the host acts in between."""
    return [1] * updates if toy == "tracker" else [updates]


def assert_same(learned: Any, sums: Any, wanted: Solo, rtol: float = 1e-4) -> None:
    """Equal but for the order of sums."""
    chex.assert_trees_all_close(learned, wanted.learned, rtol=rtol, atol=1e-6)
    chex.assert_trees_all_close(sums, wanted.sums, rtol=1e-4, atol=1e-4)


def test_the_toys_are_what_they_are_for():
    assert not isinstance(Tracker(TrackerConfig(), None), Pretraining)
    made = {toy: method(config, method.resources(config)) for toy, (method, config) in TOYS.items()}
    assert [toy for toy, one in made.items() if isinstance(one, Acting)] == ["chain", "tracker"]
    assert [toy for toy, one in made.items() if isinstance(one, Pretraining)] == ["regression"]
    sources = {toy: one.source([0]) for toy, one in made.items()}
    on_device = [toy for toy, source in sources.items() if isinstance(source, DeviceSource)]
    assert on_device == ["chain"]


# Keys.


def stream(seed, number, update):
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), number), update)


def initial_key(seed, number=1):
    return jax.random.fold_in(jax.random.key(seed), number)


def test_update_i_gets_the_key_of_the_seed_folded_with_i():
    """By a plain loop: parameters from stream 1, update i from stream 0."""
    config = RegressionConfig()
    method = Regression(config, Regression.resources(config))
    source = method.source([3])
    state = method.init(initial_key(3))
    step = jax.jit(method.step)
    for i in range(UPDATES):
        batch = jax.tree.map(lambda x: x[0], source.next(None, i))
        state, _ = step(state, batch, stream(3, 0, i))
    chex.assert_trees_all_close(solo("regression", 3).learned, state, rtol=1e-5, atol=1e-6)


def test_a_device_source_draws_from_streams_of_its_own():
    """Where it begins from stream 5, what it draws in update i from stream 4."""
    config = ChainConfig()
    method = Chain(config, Chain.resources(config))
    source = method.source([3])
    places = jax.jit(lambda key: source.init(method.memory, key))(initial_key(3, 5))
    state = method.init(initial_key(3))

    @jax.jit
    def update(state, places, key, feed_key):
        def act(*seen):
            return method.act(method.learned(state), *seen)

        places, batch, returns = source.next(places, act, feed_key)
        state, logged = method.step(state, batch, key)
        return state, places, {**logged, **returns}

    total = Counter()
    for i in range(UPDATES):
        state, places, logged = update(state, places, stream(3, 0, i), stream(3, 4, i))
        total["return"] += float(logged["train/episode_return"].total)
        total["episodes"] += float(logged["train/episode_return"].count)
    learned, sums = solo("chain", 3)
    np.testing.assert_allclose(learned, state.values, rtol=1e-5, atol=1e-6)
    assert sums["train/episode_return"] == (total["return"], total["episodes"])
    assert total["episodes"] > 10


def test_a_host_is_answered_with_keys_by_vector_step():
    """Stream 2, folded with the vector steps made; memory goes from answer to answer."""
    config = TrackerConfig()
    method = Tracker(config, Tracker.resources(config))
    source = method.source([3])
    state = method.init(initial_key(3))
    memory = method.memory(config.num_envs)
    answer = jax.jit(method.act)
    step = jax.jit(method.step)

    def act(observation, reset, due, counts):
        nonlocal memory
        made = counts[0, 1]
        assert counts[0, 0] == made * config.num_envs
        key = stream(3, 2, made)
        acted = answer(state.w, memory, observation[0], reset[0], counts[0, 0], key)
        memory = acted.memory
        return Acted(np.asarray(acted.action)[None], (), np.asarray(acted.extras)[None])

    for i in range(UPDATES):
        batch = jax.tree.map(lambda x: x[0], source.next(act, i))
        state, _ = step(state, batch, stream(3, 0, i))
    np.testing.assert_allclose(solo("tracker", 3).learned, state.w, rtol=1e-5, atol=1e-6)


def test_evaluations_have_keys_of_their_own_for_each_row_and_moment():
    layout = Layout([5, 6], 1)
    keys = [layout.evaluation_key(row, update) for row in (0, 1) for update in (0, 7)]
    expected = [stream(seed, 3, update) for seed in (5, 6) for update in (0, 7)]
    assert [jax.random.key_data(key).tolist() for key in keys] == [
        jax.random.key_data(key).tolist() for key in expected
    ]


# Calls.


@pytest.mark.parametrize("counts", [[1] * 12, [5, 7], [0, 12, 0]])
@pytest.mark.parametrize("toy", ["regression", "chain"])
def test_k_updates_in_one_call_equal_k_calls_bit_for_bit(toy, counts):
    """Parameters, statistics, environments and the window of metrics."""
    together = start(toy, [0]).advance(12)
    apart = start(toy, [0]).advance(*counts)
    assert digest(apart.everything) == digest(together.everything)


def test_a_call_without_updates_changes_nothing():
    """The loop makes one to compile."""
    drive = start("chain", [0]).advance(3)
    before = digest(drive.everything)
    drive.advance(0)
    assert digest(drive.everything) == before


# Devices.


@pytest.mark.parametrize("devices", [2, 4])
@every_toy
def test_devices_that_share_a_row_agree_with_one(toy, devices):
    drive = start(toy, [0], devices).advance(*calls(toy, UPDATES))
    assert_same(drive.learned[0], drive.sums[0], solo(toy), rtol=1e-5)
    copies = jax.device_get(drive.running.state)
    for name, part in copies._asdict().items():
        same = jax.tree.map(lambda x: bool((x == x[:1]).all()), part)
        owned = name in drive.experiment.plan.owned
        assert all(jax.tree.leaves(same)) != owned, f"{name} on {devices} devices"


def test_devices_see_different_data():
    """Or the test before would not tell whether statistics span devices."""
    x = RegressionConfig().batch_size // 4
    batch = start("regression", [0]).take(1)
    shares = batch.x[0, 0].reshape(4, x, 3).mean(axis=1)
    assert np.ptp(shares, axis=0).min() > 1


def test_owned_parts_of_devices_are_those_of_one_device_together():
    """The steps that a chain keeps of its environments, and the environments themselves."""
    alone = start("chain", [0]).advance(UPDATES)
    shared = start("chain", [0], 4).advance(UPDATES)

    def joined(x):
        return x.reshape(-1, *x.shape[2:])

    for part in ("state", "feed"):
        one = jax.device_get(getattr(alone.running, part))
        four = jax.device_get(getattr(shared.running, part))
        if part == "state":
            chex.assert_trees_all_equal(one.before, jax.tree.map(joined, four.before))
        else:
            for name in ("place", "fresh", "memory", "open_return"):
                np.testing.assert_array_equal(getattr(one, name), joined(getattr(four, name)))


# Rows.


@pytest.mark.parametrize("devices", [1, 2, 4])
@every_toy
def test_row_i_of_several_seeds_equals_the_solo_run(toy, devices):
    drive = start(toy, range(4), devices).advance(*calls(toy, UPDATES))
    for seed in range(4):
        assert_same(drive.learned[seed], drive.sums[seed], solo(toy, seed))
    assert len({digest(learned) for learned in drive.learned}) == 4


@every_toy
def test_all_seeds_start_from_their_own_parameters(toy):
    assert len({digest(learned) for learned in start(toy, range(4), 2).learned}) == 4


def test_the_memory_of_a_seed_that_is_not_due_stays():
    drive = start("tracker", range(4)).advance(1)
    before = drive.everything.memory
    observation = np.ones((4, 4), np.float32)
    begins = np.zeros((4, 4), bool)
    due = np.array([False, True, False, True])
    drive.acting(drive.running, observation, begins, due, np.full((4, 2), 9, np.int32))
    stays = (drive.everything.memory == before).all(axis=-1).reshape(4)
    assert stays.tolist() == (~due).tolist()


# Numbers.


def rows_of(toy):
    """Four rows: as it is, each number alone changed or not, all changed."""
    _, config = TOYS[toy]
    changes = [{}, *({name: value} for name, value in OTHER[toy].items()), OTHER[toy]]
    return config, changes


@pytest.mark.parametrize("devices", [1, 2])
@every_toy
def test_rows_with_different_numbers_equal_their_solo_runs(toy, devices):
    config, changes = rows_of(toy)
    changes = changes[:4]
    configs = [dataclasses.replace(config, **change) for change in changes]
    drive = start(toy, [0, 0, 1, 1], devices, configs=configs).advance(*calls(toy, UPDATES))
    for row, (seed, change) in enumerate(zip([0, 0, 1, 1], changes, strict=True)):
        assert_same(drive.learned[row], drive.sums[row], solo(toy, seed, **change))


@every_toy
def test_every_number_alone_moves_parameters(toy):
    _, changes = rows_of(toy)
    _, config = TOYS[toy]
    assert {name.replace("-", "_") for name in options.number_names(type(config))} == set(
        OTHER[toy]
    )
    found = {digest(solo(toy, **change).learned) for change in changes}
    assert len(found) == len(changes)


def test_each_row_has_its_own_true_configuration():
    """To the decimal, not as float32; and its method too. Equal rows share one."""
    config = RegressionConfig()
    configs = [config, dataclasses.replace(config, step_size=0.3), config]
    family = Family(Regression, configs, Regression.resources(config))
    assert [row.config.step_size for row in family.rows] == [0.1, 0.3, 0.1]
    assert family.rows[0] is family.rows[2] is family.first
    np.testing.assert_array_equal(
        family.numbers,
        np.float32([[0.1, 0.01, 0.1, 0.2], [0.3, 0.01, 0.1, 0.2], family.numbers[0]]),
    )


def test_rows_may_differ_in_numbers_alone():
    config = RegressionConfig()
    other = dataclasses.replace(config, batch_size=4)
    with pytest.raises(AssertionError, match="numbers alone"):
        Family(Regression, [config, other], Regression.resources(config))


@pytest.mark.parametrize("toy", ["regression", "chain"])
def test_many_rows_trace_no_more_than_one_and_further_calls_not_at_all(toy, monkeypatch):
    method, _ = TOYS[toy]
    config, changes = rows_of(toy)
    configs = [dataclasses.replace(config, **change) for change in changes[:4]]
    traced = Counter()
    step = method.step

    def counted(self, *arguments):
        traced["step"] += 1
        return step(self, *arguments)

    monkeypatch.setattr(method, "step", counted)
    start(toy, [0], programs={}).advance(4, 4)
    for_one = traced.pop("step")
    drive = start(toy, range(4), 2, configs=configs, programs={}).advance(4)
    for_four = traced["step"]
    drive.advance(4)
    assert traced["step"] == for_four <= for_one


@every_toy
def test_numbers_without_a_type_do_not_compile_again(toy):
    """`where(x, 1.0, 0.0)` has none; as an argument of the next call it would be another one."""
    for leaf in jax.tree.leaves(start(toy, [0]).advance(1).running):
        assert not jax.typeof(leaf).weak_type


@every_toy
def test_resources_of_poisoned_numbers_change_nothing(toy):
    """The program is the same to the letter."""
    method, config = TOYS[toy]
    poison = np.full_like(options.numbers(config), np.nan)
    poisoned = method.resources(options.with_numbers(config, poison))
    programs = []
    for resources in (method.resources(config), poisoned):
        drive = start(toy, [0], resources=resources)
        update = drive.layout._update(drive.family, drive.source)
        batch = jax.tree.map(lambda x: x[0, 0], drive.take(1))
        keys = np.zeros((2, 2), np.uint32)
        traced = jax.make_jaxpr(update)(drive.running, batch, keys, drive.family.numbers[0], 0)
        programs.append((str(traced), digest(traced.consts)))
    assert programs[0] == programs[1]
    learned = drive.learned[0]
    scores = drive.experiment.evaluation.scores(learned, jax.random.key(0), True)
    assert np.isfinite(list(scores.values())).all()


# Windows.


def test_a_window_holds_sums_and_counts_of_what_was_there():
    """`train/third` is there in updates 2, 5, 8, ...: in 3 of ten; `train/never` in none."""
    drive = start("regression", [0])
    losses = []
    for _ in range(10):
        before = 0.0 if drive.window is None else float(drive.sums[0]["train/loss"].total)
        drive.advance(1)
        losses.append(float(drive.sums[0]["train/loss"].total) - before)
    sums = drive.sums[0]
    assert {name: float(mean.count) for name, mean in sums.items()} == {
        "train/loss": 10,
        "train/third": 3,
        "train/never": 0,
    }
    assert float(sums["train/third"].total) == pytest.approx(sum(losses[2::3]), rel=1e-4)
    assert float(sums["train/never"].total) == 0.0  # not NaN, though the figure is


@pytest.mark.parametrize(("seeds", "devices"), [([0], 1), ([0], 2), (range(4), 1), (range(4), 2)])
def test_a_mean_over_steps_of_all_devices_counts_each_once(seeds, devices):
    """A tracker's figure comes with counts: its mean is that of valid steps in any layout."""
    drive = start("tracker", seeds, devices).advance(1, 1, 1)
    for seed, sums in zip(seeds, drive.sums, strict=True):
        vector_steps = sum(1 + (update + seed) % 2 for update in range(3))
        assert float(sums["train/loss"].count) == 4 * vector_steps


# What is saved.

LAYOUTS = [([0], 1), ([0], 2), ([0], 4), (range(4), 1), (range(4), 2), (range(4), 4)]


@pytest.mark.parametrize(("seeds", "devices"), LAYOUTS)
@every_toy
def test_what_is_saved_continues_bit_for_bit(toy, seeds, devices):
    """Parameters, owned parts, environments, memory, the window and the source."""
    counts = calls(toy, 5)
    drive = start(toy, seeds, devices).advance(*counts)
    saved = jax.tree.map(np.array, drive.everything)
    restored = start(toy, seeds, devices).restore(saved, 5)
    assert digest(restored.everything) == digest(saved)
    drive.advance(*counts)
    restored.advance(*counts)
    assert digest(restored.everything) == digest(drive.everything)
    assert digest(drive.everything) != digest(saved)


def size(tree):
    return sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(tree))


@every_toy
def test_devices_that_share_a_row_do_not_multiply_what_is_saved(toy):
    """Only counters of a source, one of which every device has, are stored again."""
    sizes = []
    for devices in (1, 4):
        drive = start(toy, [0], devices).advance(*calls(toy, 2))
        sizes.append(drive.everything.running)
    alone, shared = sizes
    assert size(alone.state) == size(shared.state)
    assert size(shared.feed) - size(alone.feed) == (12 if toy == "chain" else 0)


@pytest.mark.parametrize("devices", [1, 2])
def test_seeds_are_all_saved(devices):
    drive = start("regression", range(4), devices).advance(3)
    alone = start("regression", [0]).advance(3)
    assert size(drive.everything.running) == 4 * size(alone.everything.running)


# What is learned.


def test_a_chain_learns_its_known_values():
    """With discount 0.9: Q = [[0.81, 0.9], [0.9, 1]]."""
    drive = start("chain", [0], configs=ChainConfig(step_size=0.3)).advance(400)
    np.testing.assert_allclose(drive.learned[0], [[0.81, 0.9], [0.9, 1.0]], rtol=0.01)


def test_a_regression_finds_the_weights():
    """Standardized, where the deviations of inputs are nearly equal: proportions remain."""
    config = RegressionConfig(penalty=0.0, jitter=(0.0, 0.0))
    drive = start("regression", [0], configs=config).advance(*[20] * 10)
    w = drive.learned[0].params.w
    np.testing.assert_allclose(w[1] / w[0], -2, rtol=0.15)


def test_a_tracker_learns_to_guess():
    drive = start("tracker", [0], configs=TrackerConfig(step_size=0.05, exploration=1.0))
    drive.advance(*[1] * 300)
    np.testing.assert_allclose(drive.learned[0], [0.6, 0.0], atol=0.15)


def test_behind_a_host_is_answered_by_what_was_learned_one_update_before():
    drive = start("tracker", [0], configs=TrackerConfig(behind=True))
    before = drive.learned
    for _ in range(4):
        drive.advance(1)
        assert digest(drive.layout.rows(drive.acting.held)) == digest(before)
        assert digest(drive.learned) != digest(before)
        before = drive.learned


def test_what_is_held_is_what_answers():
    drive = start("tracker", [0], configs=TrackerConfig(exploration=0.0))
    seen = np.ones((1, 4), np.float32), np.ones((1, 4), bool), np.ones(1, bool), np.zeros((1, 2))
    seen = (*seen[:3], seen[3].astype(np.int32))
    up = drive.running._replace(state=drive.running.state._replace(w=np.float32([1, 0])))
    down = drive.running._replace(state=drive.running.state._replace(w=np.float32([-1, 0])))
    assert drive.acting(up, *seen).action.tolist() == [[1, 1, 1, 1]]
    drive.acting.hold(down)
    assert drive.acting(up, *seen).action.tolist() == [[0, 0, 0, 0]]
