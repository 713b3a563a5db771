"""Generated images are judged: real ones pass for real, others do not."""

import dataclasses

import jax
import numpy as np
import pytest

from missing_bits.data import digits
from missing_bits.data.images import Split
from missing_bits.errors import UserError
from missing_bits.eval import fresh, generated, judge
from missing_bits.eval.frechet import between, gaussian
from missing_bits.eval.generated import Judged, Judging

DATA = digits.load()
FEW = Judging(eval_samples=400, judge_updates=60, fresh_updates=40)
TRAIN = DATA.train.images


def real(key, count):
    """Draws what the data are, but for the half that they are compared with."""
    return TRAIN[np.asarray(jax.random.permutation(key, len(TRAIN)))[:count]]


def noise(key, count):
    return np.asarray(jax.random.bits(key, (count, *DATA.shape), np.uint8))


@pytest.fixture(scope="module")
def judged():
    return Judged(DATA, FEW)


@pytest.fixture(scope="module")
def found(judged, request):
    jax.config.update("jax_disable_most_optimizations", False)
    key = jax.random.key(0)
    told = {
        name: judged.scores(draw, key, True) for name, draw in (("real", real), ("noise", noise))
    }
    told["baselines"] = judged.baselines(key)
    jax.config.update("jax_disable_most_optimizations", True)
    return told


def test_the_judge_knows_the_classes(found):
    assert found["baselines"]["baseline/judge_accuracy"] > 0.8


def test_real_images_are_near_and_noise_is_far(found):
    floor = found["baselines"]["baseline/halves_frechet_distance"]
    assert found["real"]["eval/frechet_distance"] < 1.5 * floor
    assert found["noise"]["eval/frechet_distance"] > 5 * floor


def test_real_images_cover_and_noise_does_not(found):
    assert found["real"]["eval/precision"] > 0.8
    assert found["real"]["eval/coverage"] > 0.8
    assert found["noise"]["eval/coverage"] < 0.1


def test_a_fresh_discriminator_knows_noise_and_cannot_tell_real_images(found):
    assert found["noise"]["eval/fresh_discriminator_accuracy"] > 0.99
    assert found["real"]["eval/fresh_discriminator_accuracy"] < 0.7


def test_what_was_memorized_is_nearer_than_what_was_not(found):
    assert found["real"]["eval/nearest_distance"] == 0  # these are training images
    assert 0 < found["baselines"]["baseline/test_nearest_distance"] < 0.2
    assert found["noise"]["eval/nearest_distance"] > 0.2


def test_halves_are_alike_whatever_the_order_of_the_file():
    """With two classes in turn, every second image would be of the same one."""
    of_class = [np.flatnonzero(DATA.train.labels == label)[:100] for label in (0, 1)]
    in_turn = np.stack(of_class, axis=1).ravel()
    split = Split(DATA.train.images[in_turn], None)  # features are principal components then
    judged = Judged(dataclasses.replace(DATA, train=split), FEW)
    even, odd = judged._features[::2], judged._features[1::2]
    of_classes = between(gaussian(even), gaussian(odd))
    halves = judged.baselines(jax.random.key(0))["baseline/halves_frechet_distance"]
    assert halves < 0.5 * of_classes


def test_dear_measures_are_taken_at_last_alone(judged):
    found = judged.scores(real, jax.random.key(1), False)
    assert set(found) == {"eval/frechet_distance", "eval/diversity"}
    assert found["eval/diversity"] == pytest.approx(1, abs=0.1)


def test_samples_that_are_all_the_same_are_warned_of(judged):
    with pytest.warns(UserWarning, match="The samples have collapsed"):
        judged.scores(lambda key, count: TRAIN[:1].repeat(count, axis=0), jax.random.key(1), True)


def test_without_labels_features_are_principal_components():
    unlabeled = dataclasses.replace(
        DATA,
        train=DATA.train._replace(labels=None),
        test=DATA.test._replace(labels=None),
        classes=(),
    )
    components = judge.Judge(unlabeled, 1)
    assert components.described == "principal components of the training images"
    features = components.features(TRAIN)
    assert features.shape == (len(TRAIN), judge.SIZE)
    covariance = np.cov(features.T)
    # As they are in order, uncorrelated, and of mean 0 over the images they were found in.
    np.testing.assert_allclose(features.mean(axis=0), 0, atol=1e-3)
    off = covariance - np.diag(np.diag(covariance))
    assert np.abs(off).max() < 1e-3 * covariance[0, 0]
    assert (np.diff(np.diag(covariance)) < 1e-6).all()
    found = Judged(unlabeled, FEW).baselines(jax.random.key(0))
    assert "baseline/judge_accuracy" not in found


def test_the_test_images_of_a_fresh_discriminator_are_not_its_training_images():
    """It learns that bright images are real; its test says the opposite: it is always wrong."""
    dark = np.zeros((40, 8, 8, 1), np.uint8)
    bright = dark + 255
    assert fresh.accuracy((bright, dark), (dark, bright), 20, jax.random.key(0)) == 0
    assert fresh.accuracy((bright, dark), (bright, dark), 20, jax.random.key(0)) == 1


def test_some_images_are_evenly_spaced():
    split = judge.some(DATA.train, 100)
    chosen = np.linspace(0, len(TRAIN) - 1, 100).astype(int)
    np.testing.assert_array_equal(split.images, TRAIN[chosen])
    np.testing.assert_array_equal(split.labels, DATA.train.labels[chosen])
    assert judge.some(DATA.train, 5_000).images is TRAIN


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"eval_samples": 5}, "--eval-samples is 5"),
        ({"judge_updates": 0}, "--judge-updates is 0"),
        ({"fresh_updates": -1}, "--fresh-updates is -1"),
    ],
)
def test_settings_that_cannot_judge_are_refused(changed, named):
    with pytest.raises(UserError, match=named):
        dataclasses.replace(FEW, **changed).check("")


def test_too_few_images_are_refused():
    few = dataclasses.replace(DATA, test=judge.Split(DATA.test.images[:3], DATA.test.labels[:3]))
    with pytest.raises(UserError, match="too few images to test on, 3, to compare"):
        Judged(few, FEW)


def test_images_become_the_nearest_bytes():
    x = np.array([-0.1, 0, 0.5 / 255 + 1e-4, 1, 1.2]).reshape(1, 1, 5, 1)
    np.testing.assert_array_equal(generated.to_bytes(x).ravel(), [0, 0, 1, 255, 255])


def test_images_that_are_all_the_same_are_refused():
    """Their features do not deviate: no measure would be a number."""
    same = DATA.train._replace(images=TRAIN[:1].repeat(30, axis=0), labels=DATA.train.labels[:30])
    with pytest.raises(UserError, match="All images to train on are the same"):
        Judged(dataclasses.replace(DATA, train=same), FEW)
