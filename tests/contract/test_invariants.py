"""The invariants of the house, over every experiment in the table of run.py (docs/design of the loop: loop/).

An experiment joins by a row in `CASES`: settings small enough to run in a moment, with at least ten updates.
"""

import atexit
import functools
import importlib
import shutil
import tempfile
from pathlib import Path
from typing import Any

import chex
import jax
import numpy as np
import pytest

from missing_bits import run
from missing_bits.augment.views import Views
from missing_bits.encoders import files
from missing_bits.encoders.images import ImageEncoder
from missing_bits.loop.checkpoint import digest
from missing_bits.loop.parallel import Layout
from missing_bits.optimizers import Optimizer


@functools.cache
def _fresh_encoder() -> str:
    """The file of an encoder for fine-tuning to start from, in a folder that goes when the tests end."""
    path = Path(tempfile.mkdtemp()) / "encoder.safetensors"
    atexit.register(shutil.rmtree, path.parent)
    encoder = ImageEncoder("convnet", (16, 16, 1), (0.3,), (0.35,))
    files.save(path, encoder, jax.device_get(jax.jit(encoder.init)(jax.random.key(9))), {})
    return str(path)


@functools.cache
def _short_documents() -> str:
    """The value of --data for text whose rows have unequal numbers of tokens to guess: in some, half are ends.

    Few rows, which a network can learn by heart.
    """
    folder, words = (
        Path(tempfile.mkdtemp()),
        ["one", "two", "three", "four", "five", "six", "seven"],
    )
    atexit.register(shutil.rmtree, folder)
    for number in range(260):
        (folder / f"{number:03}.txt").write_text(" ".join(words[: 1 if number < 200 else 7]))
    return f"txt:{folder}"


_DQN = {
    "env_steps": 2_000,
    "num_envs": 4,
    "hidden_sizes": (16, 16),
    "learning_rate": 1e-3,
    "batch_size": 16,
    "replay_capacity": 400,
    "learning_starts": 40,
    "train_period": 6,
    "target_period": 12,
    "n_step": 3,
    "eval_episodes": 2,
}
# A small step size, because Adam's first steps are signs: they turn the last bit of a small gradient into a whole step.
_IMAGES = {
    "data": "digits",
    "updates": 300,
    "batch_size": 16,
    "optimizer": Optimizer(learning_rate=3e-5),
}
# For transformers too: what biases of keys add to attention cancels, so their gradients are last bits.
_MASKED = _IMAGES | {"optimizer": Optimizer("lars", 0.01), "decoder_layers": 1, "decoder_width": 16}
_TWINS = (
    _IMAGES
    | {
        "network": "vit_micro",  # smooth: a last bit that moves an activation across the corner of a ReLU moves gradients
        "projector_sizes": (32, 32),
        "optimizer": Optimizer("lars", 0.003, vector_scale=1e-4),
    }
)
# And smaller still: the slope of an absolute error jumps where a last bit changes the error's sign.
_SIMMIM = _MASKED | {"method": "simmim", "optimizer": Optimizer("lars", 3e-4)}
_IBOT = _IMAGES | {
    "optimizer": Optimizer("lars", 0.01),
    "prototypes": 16,
    "head_hidden": 16,
    "head_bottleneck": 8,
}
_LANGUAGE = {
    "data": _short_documents,
    "updates": 300,
    "batch_size": 16,
    "length": 32,
    "vocabulary": 256,
    "network": "bert_tiny",
    "dropout": 0.1,  # keys of an example's own
    "optimizer": Optimizer("lars", 0.01),
}
# Before two normalizations the gradient of a scale is zero but for its last bits.
_SMALLER = {"optimizer": Optimizer(learning_rate=2e-6)}
CASES = {  # a setting that is a function is called for its value
    "dqn-host": ("dqn", _DQN | {"env": "CartPole-v1"}),
    "dqn-jax": ("dqn", _DQN | {"env": "phys2d/CartPole-v1"}),
    "barlow_twins": ("barlow_twins", _TWINS),
    "ibot": ("ibot", _IBOT),
    "masked_image": ("masked_image", _MASKED),
    "simmim": ("masked_image", _SIMMIM),
    "masked_language": ("masked_language", _LANGUAGE),
    "supervised": ("supervised", _IMAGES),
    "finetune": (
        "finetune",
        _IMAGES | {"init_from": _fresh_encoder, "classifier_rate": 1.0} | _SMALLER,
    ),
}
WARM_UP, UPDATES = (
    8,
    10,
)  # updates before learning starts at the latest, and those that are compared
# These make the loss a plain regression.
FIXED_TARGET = {
    "dqn": {"target_period": 10**9, "learning_rate": 3e-3},
    "barlow_twins": {"views": Views(crop_scale=(0.9, 1.0)), "optimizer": Optimizer()},
    "ibot": {  # the same view twice, and a teacher at rest that tells images apart without its centers
        "views": Views(
            crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip=0.0, jitter=0.0, solarize=(0.0, 0.0)
        ),
        "prototypes": 256,
        "head_hidden": 64,
        "head_bottleneck": 32,
        "mask_probability": 0.0,
        "momentum": 1.0,
        "center_momentum": 1.0,
        "teacher_temperature": (
            0.002,
            0.002,
        ),  # the loss is at least the entropy of what the teacher says
        "optimizer": Optimizer(learning_rate=1e-3),
    },
    "masked_image": {
        "views": Views(crop_scale=(0.9, 1.0)),
        "normalize_targets": False,
        "optimizer": Optimizer(learning_rate=1e-3, warmup=0.5),
    },
    "masked_language": {"dropout": 0.0, "optimizer": Optimizer(learning_rate=1e-3)},
    "supervised": {"views": Views(crop_scale=(0.9, 1.0)), "optimizer": Optimizer()},
    "finetune": {"views": Views(crop_scale=(0.9, 1.0)), "optimizer": Optimizer()},
}

pytestmark = pytest.mark.usefixtures("small_vit")
every_case = pytest.mark.parametrize("case", CASES)


def make(case: str, **overrides: Any) -> Any:
    """The experiment of a case."""
    name, settings = CASES[case]
    settings = {option: value() if callable(value) else value for option, value in settings.items()}
    module_name, class_name = run.EXPERIMENTS[name][0].split(":")
    module = importlib.import_module(module_name)
    return getattr(module, class_name)(module.Config(**settings | overrides))


@functools.cache
def batches(case: str, seeds: tuple[int, ...], count: int) -> Any:
    """`count` batches of these seeds, leaves [count, seeds, ...]; actions do not depend on the state."""
    source = make(case).source(list(seeds))
    if source is None:
        return None

    def act(observation: np.ndarray, counts: np.ndarray) -> np.ndarray:
        rows = [
            np.random.default_rng((seed, steps))
            for seed, steps in zip(seeds, counts[:, 1], strict=True)
        ]
        return np.stack([rng.integers(0, 2, observation.shape[1]) for rng in rows]).astype(np.int32)

    made = [source.next(act, i) for i in range(count)]
    source.close()
    return jax.tree.map(lambda *leaves: np.stack(leaves), *made)


def train(experiment: Any, layout: Layout, data: Any, count: int) -> tuple[list[Any], list[Any]]:
    """What each seed has learned, and its last metrics, after `count` updates in one call."""
    state, metrics = layout.updates(experiment)(layout.init(experiment), data, 0, count)
    return layout.learned(experiment, state), layout.rows(metrics)


@pytest.fixture(scope="module", params=CASES)
def solo(request: pytest.FixtureRequest, small_vit: None) -> tuple[str, Any, list[Any], list[Any]]:
    """A case, and what seeds 0 to 3 learn one at a time on one device."""
    experiment, count = make(request.param), WARM_UP + UPDATES
    runs = [
        train(experiment, Layout([seed], 1), batches(request.param, (seed,), count), count)
        for seed in range(4)
    ]
    return (
        request.param,
        experiment,
        [learned[0] for learned, _ in runs],
        [metrics[0] for _, metrics in runs],
    )


def test_every_experiment_has_a_case():
    assert {name for name, _ in CASES.values()} == set(run.EXPERIMENTS)


@every_case
def test_update_i_gets_the_key_of_the_seed_folded_with_i(case):
    experiment, count = make(case), WARM_UP + 2
    data = batches(case, (3,), count)
    learned, _ = train(experiment, Layout([3], 1), data, count)
    seed_key = jax.random.key(3)
    state = jax.jit(experiment.init)(jax.random.fold_in(seed_key, 1))
    step = jax.jit(experiment.step)
    for i in range(count):
        batch = jax.tree.map(lambda x, i=i: x[i, 0], data)
        state, _ = step(state, batch, jax.random.fold_in(jax.random.fold_in(seed_key, 0), i))
    chex.assert_trees_all_close(experiment.learned(state), learned[0], rtol=1e-4, atol=1e-6)


@every_case
def test_k_updates_in_one_call_equal_k_calls_bit_for_bit(case):
    experiment, layout, count = make(case), Layout([0], 1), WARM_UP + UPDATES
    data = batches(case, (0,), count)
    updates = layout.updates(experiment)
    together, metrics = updates(layout.init(experiment), data, 0, count)
    apart = layout.init(experiment)
    for i in range(count):
        apart, last = updates(apart, jax.tree.map(lambda x, i=i: x[i : i + 1], data), i, 1)
    assert digest(jax.device_get(together)) == digest(jax.device_get(apart))
    assert digest(jax.device_get(metrics)) == digest(jax.device_get(last))


@pytest.mark.parametrize("devices", [2, 4])
def test_devices_that_share_a_seed_agree_with_one(solo, devices):
    case, experiment, learned, metrics = solo
    count = WARM_UP + UPDATES
    shared, shared_metrics = train(
        experiment, Layout([0], devices), batches(case, (0,), count), count
    )
    chex.assert_trees_all_close(shared[0], learned[0], rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(shared_metrics[0], metrics[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("devices", [1, 2])
def test_row_i_of_several_seeds_equals_the_solo_run_of_seed_i(solo, devices):
    case, experiment, learned, metrics = solo
    count = WARM_UP + UPDATES
    rows, row_metrics = train(
        experiment, Layout(range(4), devices), batches(case, (0, 1, 2, 3), count), count
    )
    chex.assert_trees_all_close(rows, learned, rtol=1e-4, atol=1e-6)
    chex.assert_trees_all_close(row_metrics, metrics, rtol=1e-4, atol=1e-5)
    assert len({digest(row) for row in rows}) == 4


@every_case
def test_all_seeds_start_from_their_own_network(case):
    experiment, layout = make(case), Layout(range(4), 2)
    assert len({digest(row) for row in layout.learned(experiment, layout.init(experiment))}) == 4


@every_case
def test_step_traces_once_keeps_its_types_and_moves_finite_parameters(case):
    experiment, count = make(case), WARM_UP + UPDATES
    data = batches(case, (0,), count)
    chex.clear_trace_counter()  # it counts by name, over all cases
    step = jax.jit(chex.assert_max_traces(experiment.step, n=1))
    first = state = jax.jit(experiment.init)(jax.random.key(0))
    for i in range(count):
        state, metrics = step(state, jax.tree.map(lambda x, i=i: x[i, 0], data), jax.random.key(i))
        chex.assert_tree_all_finite((state, metrics))
    chex.assert_trees_all_equal_shapes_and_dtypes(first, state)
    moved = jax.tree.map(
        lambda a, b: bool((a != b).any()), experiment.learned(first), experiment.learned(state)
    )
    assert all(jax.tree.leaves(moved))


@every_case
def test_the_loss_falls_against_a_fixed_target(case):
    experiment = make(case, **FIXED_TARGET[CASES[case][0]])
    data, layout = batches(case, (0,), WARM_UP + UPDATES), Layout([0], 1)
    updates, state, losses = layout.updates(experiment), layout.init(experiment), []
    for i in range(300):
        batch = jax.tree.map(lambda x, i=i: x[[i % len(x)]], data)
        state, metrics = updates(state, batch, i, 1)
        losses.append(float(metrics["train/loss"]))
    assert np.mean(losses[-20:]) < 0.5 * np.mean(losses[WARM_UP : WARM_UP + 20])
