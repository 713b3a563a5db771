"""Probes of an encoder: what they see, what they must not, and what they say of a collapse."""

import dataclasses
import gc
import warnings
import weakref

import jax
import numpy as np
import pytest

from missing_bits.data.images import Split, in_memory
from missing_bits.encoders.images import ImageEncoder
from missing_bits.encoders.variables import Variables
from missing_bits.errors import UserError
from missing_bits.eval import probes as probes_module
from missing_bits.eval.evaluation import Headline
from missing_bits.eval.probes import Probes, Probing, at_once, in_batches

ENCODER = ImageEncoder("convnet", (12, 12, 1), (0.5,), (0.3,))


def striped(count, seed):
    """Images of horizontal or vertical stripes under noise: easy for a random convolution."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count).astype(np.int32)
    rows = np.where(np.arange(12) % 4 < 2, 200, 50)[None, :, None]
    images = np.where(labels[:, None, None] == 0, rows, rows.swapaxes(1, 2)) + rng.normal(
        0, 30, (count, 12, 12)
    )
    return Split(np.clip(images, 0, 255).astype(np.uint8)[..., None], labels)


@pytest.fixture(scope="module")
def data():
    return in_memory(striped(90, 0), striped(53, 1), ("rows", "columns"))


@pytest.fixture(scope="module")
def variables():
    return jax.device_get(jax.jit(ENCODER.init)(jax.random.key(0)))


def probes_of(data, most=0):
    return Probes(data, ENCODER, most, batch_size=90)


@pytest.fixture(scope="module")
def probes(data):
    return probes_of(data)


def test_features_are_the_encoders_outside_of_training(data, variables):
    """However many images are encoded at once: 53 are no multiple of 20."""
    features = Probes(data, ENCODER, batch_size=20).features(variables, data.test)
    expected = ENCODER.apply(variables, data.test.images, is_training=False)[0]
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)
    assert features.shape[0] == 53


def test_scores_and_baselines_by_name(probes, variables):
    scores = probes.scores(variables)
    names = ("knn_accuracy", "linear_accuracy", "effective_rank", "feature_deviation")
    assert set(scores) == {f"eval/{name}" for name in names}
    assert scores["eval/linear_accuracy"] == 1.0
    baselines = probes.baselines(jax.random.key(1))
    assert set(baselines) == {
        f"baseline/{who}_{probe}_accuracy"
        for who in ("pixels", "random")
        for probe in ("knn", "linear")
    }
    assert all(0.5 <= accuracy <= 1 for accuracy in baselines.values())


def test_probes_learn_from_some_images_alone(data, variables):
    """Wrong labels but for the 10 of 90 where the probes look, evenly spaced from first to last."""
    chosen = np.array([0, 9, 19, 29, 39, 49, 59, 69, 79, 89])
    labels = 1 - data.train.labels
    labels[chosen] = data.train.labels[chosen]
    wrong = dataclasses.replace(data, train=Split(data.train.images, labels))
    scores = probes_of(wrong, most=10).scores(variables)
    few = in_memory(Split(data.train.images[chosen], labels[chosen]), data.test, data.classes)
    assert scores == probes_of(few).scores(variables)
    name = "eval/linear_accuracy"
    assert scores[name] > 0.8 > 0.3 > probes_of(wrong).scores(variables)[name]


@pytest.mark.parametrize("most", [-1, 9])
def test_too_few_images_for_a_probe_are_refused(most):
    with pytest.raises(UserError, match=f"--probe-images is {most}; give at least 10, or 0 for"):
        Probing(most).check("")


@pytest.mark.parametrize("most", [0, 10])
def test_enough_images_for_a_probe_are_not(most):
    Probing(most).check("")


def test_test_labels_choose_nothing(data, probes, variables):
    """With the other class for every test label, each probe is right exactly where it was wrong."""
    flipped = dataclasses.replace(data, test=Split(data.test.images, 1 - data.test.labels))
    scores = probes.scores(variables)
    other = probes_of(flipped).scores(variables)
    for name in ("eval/knn_accuracy", "eval/linear_accuracy"):
        assert scores[name] + other[name] == pytest.approx(1)
    for name in ("eval/effective_rank", "eval/feature_deviation"):
        assert scores[name] == other[name]


def test_without_labels_only_the_spread_is_told(data, variables):
    unlabeled = in_memory(Split(data.train.images, None), Split(data.test.images, None), ())
    probes = probes_of(unlabeled)
    assert set(probes.scores(variables)) == {"eval/effective_rank", "eval/feature_deviation"}
    assert probes.evaluation().headline == Headline("eval/effective_rank")
    assert probes.baselines(jax.random.key(0)) == {}
    assert probes.evaluation().against == ""


def test_probes_learn_from_what_is_labeled(data, probes, variables):
    """Where images to train on have no labels, those for probes are as good."""
    unlabeled = Split(data.train.images[:3], None)
    apart = probes_of(dataclasses.replace(data, train=unlabeled, probe=data.train))
    assert apart.scores(variables) == probes.scores(variables)


def test_a_collapse_warns(probes, variables):
    """With almost nothing left of the images the features are nearly the same for all of them."""
    params = jax.tree.map(lambda p: p * 1e-4, variables.params)
    offsets = {
        name: {leaf: p + (leaf == "offset") for leaf, p in leaves.items()}
        for name, leaves in params.items()
    }
    with pytest.warns(UserWarning, match="features have collapsed: their deviation is 0.00"):
        scores = probes.scores(Variables(offsets, variables.state))
    assert scores["eval/effective_rank"] < 1.5
    with warnings.catch_warnings(action="error"):
        probes.scores(variables)


def test_an_evaluation_says_and_draws_what_the_probes_do(probes, variables, tmp_path):
    evaluation = probes.evaluation()
    assert evaluation.headline == Headline("eval/knn_accuracy")
    key = jax.random.key(1)
    assert evaluation.scores(variables, key, False) == probes.scores(variables)
    assert evaluation.baselines(key) == probes.baselines(key)
    evaluation.pictures(variables, 0, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"features.png", "neighbors.png"}


def test_scores_and_pictures_encode_once(data, variables, tmp_path):
    """The first needs both splits, two batches of 90; the second nothing new.

    The random encoder of the baselines, which come between, is not remembered in their place.
    """
    probes = probes_of(data)
    encode = probes._encode
    encoded = []

    def counted(variables, images):
        encoded.append(len(images))
        return encode(variables, images)

    probes._encode = counted
    first = probes.scores(variables, last=True)
    assert len(encoded) == 2
    probes.baselines(jax.random.key(1))
    assert len(encoded) == 4
    probes.pictures(variables, tmp_path)
    assert probes.scores(variables, last=True) == first
    assert len(encoded) == 4
    probes.scores(jax.tree.map(np.copy, variables), last=True)
    assert len(encoded) == 6, "other arrays, even if they are equal"


def test_features_to_learn_from_are_held_for_pictures_alone(data, variables):
    """In mid-run nothing asks for them again, and they may be the largest arrays there are."""
    probes = probes_of(data)
    made = []
    probes.features = lambda *asked: made.append(weakref.ref(found := of(*asked))) or found
    of = Probes.features.__get__(probes)
    probes.scores(variables)
    gc.collect()
    _, of_train = made
    assert of_train() is None
    probes.scores(variables, last=True)
    assert made[-1]() is not None


def test_neighbors_are_shown_of_images_of_all_classes(data, variables, tmp_path, monkeypatch):
    """Labels are sorted with all but two of one class: two of the eight images show the other."""
    labels = np.repeat([0, 1], [53 - 12, 12]).astype(np.int32)
    uneven = dataclasses.replace(data, test=Split(data.test.images, np.roll(labels, 5)))
    shown = {}

    def neighbors(queries, near, right, path):
        shown["queries"] = queries

    monkeypatch.setattr(probes_module.images_pictures, "neighbors", neighbors)
    probes_of(uneven).pictures(variables, tmp_path)
    of_class = [
        uneven.test.labels[np.all(uneven.test.images == query, axis=(1, 2, 3))].item()
        for query in shown["queries"]
    ]
    assert of_class == sorted(of_class)
    assert sum(of_class) == 2


def test_pixels_of_large_pictures_are_shrunk_and_their_metrics_say_so(monkeypatch):
    """Two classes of 40 x 40 pixels in color: more than the 3,072 numbers that stay as they are.

    The encoder is not asked: its features are replaced.
    """
    rng = np.random.default_rng(0)
    labels = np.arange(24, dtype=np.int32) % 2
    bright = (np.arange(40) < 20)[None, :] == labels[:, None]  # half of the columns
    images = rng.integers(0, 100, (24, 40, 40, 3)) + 100 * bright[:, None, :, None]
    split = Split(images.astype(np.uint8), labels)
    large = in_memory(split, split, ("right", "left"))
    probes = Probes(large, ImageEncoder("convnet", (40, 40, 3), (0.5,) * 3, (0.3,) * 3))
    monkeypatch.setattr(probes, "features", lambda variables, split: labels[:, None] + 1.0)
    baselines = probes.baselines(jax.random.key(0))
    assert baselines["baseline/pixels_32x32_knn_accuracy"] == 1
    assert baselines["baseline/pixels_32x32_linear_accuracy"] == 1
    assert not any(name.startswith("baseline/pixels_knn") for name in baselines)
    told = "32 x 32 means of pixels, a random encoder"
    assert probes.evaluation().against == told


@pytest.mark.parametrize(("shape", "images"), [((28, 28, 1), 500), ((224, 224, 3), 66)])
def test_networks_get_few_large_images_at_once(shape, images):
    assert at_once(shape) == images


@pytest.mark.parametrize(("count", "calls"), [(7, 3), (6, 2), (2, 1)])
def test_batches_have_one_size_and_the_last_is_filled_with_zeros(count, calls):
    """Of 7 examples, 3 at once: 3, 3, and 1 with two of zeros, whose rows are dropped.

    Of 6, two full batches.
    """
    examples = np.arange(1, 2 * count + 1, dtype=np.int32).reshape(count, 2)
    seen = []

    class Decoded:  # takes indices only, as images that are decoded when asked for
        shape = examples.shape

        def __getitem__(self, indices):
            assert isinstance(indices, np.ndarray)
            return examples[indices]

    def double(batch):
        seen.append(batch)
        return 2 * batch

    np.testing.assert_array_equal(in_batches(double, Decoded(), 3), 2 * examples)
    assert [batch.shape for batch in seen] == [(3, 2)] * calls
    assert {batch.dtype for batch in seen} == {np.dtype(np.int32)}
    np.testing.assert_array_equal(seen[-1][count - 3 * (calls - 1) :], 0)
