"""Training with labels: the loss by hand, labels that belong to their images, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from missing_bits.classify.classify import Config, Supervised
from missing_bits.errors import UserError
from missing_bits.loop.config import replace
from missing_bits.loop.parallel import Layout
from missing_bits.supervised import classify

TINY = Config(data="digits", updates=10, batch_size=16)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_loss_by_hand(smoothing):
    """With a classifier of zeros all ten logits are equal: the loss is ln 10 whatever the targets.

    With logits b, and b = (ln 3, 0, ..., 0): softmax (3, 1, ..., 1) / 12. Of target 0, smoothed by a, the loss is
    -(1 - a + a / 10) ln(3 / 12) - (9 a / 10) ln(1 / 12).
    """
    experiment = Supervised(replace(TINY, {"label_smoothing": smoothing}))
    state = experiment.init(jax.random.key(0))
    x = jnp.asarray(np.random.default_rng(0).uniform(size=(4, 16, 16, 1)), jnp.float32)
    labels = jnp.zeros(4, jnp.int32)
    state.params["classifier"] = jax.tree.map(jnp.zeros_like, state.params["classifier"])
    assert experiment.loss(state.params, state.statistics, x, labels)[0] == pytest.approx(
        np.log(10), rel=1e-5
    )
    state.params["classifier"]["linear"]["b"] = jnp.zeros(10).at[0].set(np.log(3))
    loss, (_, accuracy) = experiment.loss(state.params, state.statistics, x, labels)
    expected = -(1 - 0.9 * smoothing) * np.log(3 / 12) - 0.9 * smoothing * np.log(1 / 12)
    assert loss == pytest.approx(expected, rel=1e-5)
    assert accuracy == 1


def test_batches_carry_the_labels_of_their_images():
    experiment = Supervised(TINY)
    source = experiment.source([0, 5])
    batch = source.next(None, 3)
    source.close()
    train = experiment.data.train
    for seed in range(2):
        for image, label in zip(batch.images[seed], batch.labels[seed], strict=True):
            found = (train.images == image[None]).all(axis=(1, 2, 3))
            assert label in train.labels[found]


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"label_smoothing": 1.0}, "--label-smoothing is 1.0"),
        ({"batch_size": 0}, "--batch-size is 0"),
        ({"data": "npz:plain.npz"}, "has no labels"),
    ],
)
def test_settings_that_cannot_run_are_refused_by_name(changed, named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("plain.npz", images=np.random.default_rng(0).integers(0, 256, (40, 16, 16), np.uint8))
    with pytest.raises(UserError, match=named):
        Supervised(replace(TINY, changed))


def test_the_headline_is_the_classifiers_accuracy_on_the_test_split():
    experiment = Supervised(TINY)
    learned = experiment.learned(experiment.init(jax.random.key(0)))
    weights = learned[0]["classifier"]["linear"]["w"]
    learned[0]["classifier"]["linear"] = {"w": jnp.zeros_like(weights), "b": jax.nn.one_hot(7, 10)}
    scores = experiment.evaluate(learned, jax.random.key(0))
    assert scores[experiment.headline] == pytest.approx(np.mean(experiment.data.test.labels == 7))


def test_presets_are_of_sets_that_exist():
    from missing_bits.data.load import _IMAGES

    assert set(classify.PRESETS) <= set(_IMAGES)


def test_it_learns_digits():
    experiment, layout = (
        Supervised(replace(TINY, {"updates": 150, "batch_size": 64})),
        Layout([0], 1),
    )
    source = experiment.source([0])
    batches = jax.tree.map(
        lambda *leaves: np.stack(leaves), *(source.next(None, i) for i in range(150))
    )
    source.close()
    state, _ = layout.updates(experiment)(layout.init(experiment), batches, 0, 150)
    scores = experiment.evaluate(layout.learned(experiment, state)[0], jax.random.key(0))
    assert scores["eval/accuracy"] > 0.9
