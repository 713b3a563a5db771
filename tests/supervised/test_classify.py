"""Training with labels: the loss by hand, labels that belong to their images, refusals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from missing_bits import options
from missing_bits.data.load import Images
from missing_bits.encoders import files
from missing_bits.errors import UserError
from missing_bits.loop.family import Family
from missing_bits.loop.parallel import Layout
from missing_bits.supervised import classify
from missing_bits.supervised.classify import Classify, Config, Learned, Parts

SMALL = classify.TINY | {"updates": 10}


def make(**changed):
    """The method with small settings, but for what is changed, as the loop makes it."""
    config = options.make(Config, **SMALL | changed)
    options.check(config)
    Classify.check(config)
    return Classify(config, Classify.resources(config))


@functools.cache
def shared():
    return make()


def with_classifier(state, weights, biases):
    """A state whose classifier is another."""
    classifier = {"linear": {"w": weights, "b": biases}}
    return state._replace(params=state.params._replace(classifier=classifier))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_loss_by_hand(smoothing):
    """With a classifier of zeros all ten logits are equal: the loss is ln 10 whatever the targets.

    With logits b, and b = (ln 3, 0, ..., 0): softmax (3, 1, ..., 1) / 12. Of target 0, smoothed by
    a, the loss is -(1 - a + a / 10) ln(3 / 12) - (9 a / 10) ln(1 / 12).
    """
    config = options.replace(shared().config, {"label_smoothing": smoothing})
    experiment = Classify(config, shared().resources)
    state = experiment.init(jax.random.key(0))
    x = jnp.asarray(np.random.default_rng(0).uniform(size=(4, 16, 16, 1)), jnp.float32)
    labels = jnp.zeros(4, jnp.int32)
    no_weights = jnp.zeros_like(state.params.classifier["linear"]["w"])

    blank = with_classifier(state, no_weights, jnp.zeros(10))
    loss, _ = experiment.loss(blank.params, blank.statistics, x, labels)
    assert loss == pytest.approx(np.log(10), rel=1e-5)

    biased = with_classifier(state, no_weights, jnp.zeros(10).at[0].set(np.log(3)))
    loss, (_, accuracy) = experiment.loss(biased.params, biased.statistics, x, labels)
    expected = -(1 - 0.9 * smoothing) * np.log(3 / 12) - 0.9 * smoothing * np.log(1 / 12)
    assert loss == pytest.approx(expected, rel=1e-5)
    assert accuracy == 1


def test_batches_carry_the_labels_of_their_images():
    experiment = shared()
    source = experiment.source([0, 5])
    batch = source.next(None, 3)
    source.close()
    train = experiment.resources.data.train
    for seed in range(2):
        for image, label in zip(batch.images[seed], batch.labels[seed], strict=True):
            found = (train.images == image[None]).all(axis=(1, 2, 3))
            assert label in train.labels[found]


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"label_smoothing": 1.0}, "--label-smoothing is 1.0"),
        ({"batch_size": 0}, "--batch-size is 0"),
        (
            {"batch_size": 1, "network": "convnet"},
            "--batch-size is 1, but --network=convnet normalizes over the batch",
        ),
        (
            {"batch_size": 1, "network": "resnet18"},
            "--batch-size is 1, but --network=resnet18 normalizes over the batch",
        ),
        ({"updates": 0}, "--updates is 0"),
        ({"views": {"flip": 2.0}}, "--views.flip is 2.0"),
        ({"optimizer": {"warmup": 2.0}}, "--optimizer.warmup is 2.0"),
        ({"data": "npz:plain.npz"}, "has no labels"),
    ],
)
def test_settings_that_cannot_run_are_refused_by_name(changed, named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("plain.npz", images=np.random.default_rng(0).integers(0, 256, (40, 16, 16), np.uint8))
    with pytest.raises(UserError, match=named):
        make(**changed)


def test_a_transformer_takes_one_image_at_a_time():
    """It normalizes every token alone."""
    Classify.check(options.make(Config, network="vit_nano", batch_size=1))


def test_the_headline_is_the_classifiers_accuracy_on_the_test_split():
    """A classifier that always says 7, beside the probes of the encoder."""
    experiment = shared()
    state = experiment.init(jax.random.key(0))
    no_weights = jnp.zeros_like(state.params.classifier["linear"]["w"])
    state = with_classifier(state, no_weights, jax.nn.one_hot(7, 10))
    evaluation = experiment.evaluation
    scores = evaluation.scores(experiment.learned(state), jax.random.key(0), True)
    assert evaluation.headline.name == "eval/accuracy"
    labels = experiment.resources.data.test.labels
    assert scores["eval/accuracy"] == pytest.approx(np.mean(labels == 7))
    assert {"eval/knn_accuracy", "eval/linear_accuracy"} < scores.keys()


def test_the_encoder_is_handed_over_without_its_classifier(tmp_path):
    """And a run may start from it."""
    experiment = shared()
    learned = jax.device_get(experiment.learned(experiment.init(jax.random.key(4))))
    experiment.hand_over(learned, tmp_path / "one.safetensors", {})
    loaded = files.load(tmp_path / "one.safetensors")
    assert loaded.encoder == experiment.encoder
    assert not loaded.head
    jax.tree.map(np.testing.assert_array_equal, loaded.variables.params, learned.params.encoder)
    next_one = make(init_from=str(tmp_path / "one.safetensors")).init(jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, next_one.params.encoder, learned.params.encoder)


def test_presets_are_of_sets_that_exist():
    for name in classify.PRESETS:
        Images(name).check("")


def test_it_learns_digits(optimized):
    updates = 150
    config = options.make(Config, data="digits", updates=updates, batch_size=64, probe_images=100)
    family = Family(Classify, [config], Classify.resources(config))
    experiment = family.first
    layout = Layout([0], 1)
    source = experiment.source([0])
    batches = [source.next(None, i) for i in range(updates)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *batches)
    source.close()
    running = layout.init(family, source)
    running, _ = layout.updates(family, source)(running, {}, stacked, 0, updates)
    (learned,) = layout.learned(experiment, running)
    assert isinstance(learned, Learned)
    assert isinstance(learned.params, Parts)
    scores = experiment.evaluation.scores(learned, jax.random.key(0), True)
    assert scores["eval/accuracy"] > 0.9
