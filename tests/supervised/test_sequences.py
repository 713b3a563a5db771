"""Sequences with an answer: the loss by hand, what is read from where, learning beyond a baseline."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from missing_bits import options
from missing_bits.data.generated import Example
from missing_bits.data.series import Labeled
from missing_bits.errors import UserError
from missing_bits.supervised import sequences
from missing_bits.supervised.sequences import Config, Model, Params, Sequences, asked
from missing_bits.tests.loop.drive import Drive


def make(**changed):
    """The method with small settings, but for what is changed."""
    config = options.make(Config, **{**sequences.TINY, **changed})
    options.check(config)
    Sequences.check(config)
    return Sequences(config, Sequences.resources(config))


class Same:
    """A network, an embedding or a head that changes nothing."""

    def apply(self, params, x, *others):
        return (x, None) if others else x


def plain(classes, averages=False):
    return Model(Same(), Same(), Same(), classes, averages)


NOTHING = Params(None, None, None)


def test_the_loss_of_classes_by_hand():
    """Logits (ln 3, 0): 3 / 4 and 1 / 4. Asked at two of three steps, once right."""
    inputs = jnp.tile(jnp.array([jnp.log(3.0), 0.0]), (1, 3, 1))
    example = Example(inputs, jnp.array([[0, 1, 1]]), jnp.array([[True, False, True]]))
    score = plain(True).score(NOTHING, example)
    assert float(score.loss) == pytest.approx(-np.log(3 / 4) - np.log(1 / 4))
    assert (int(score.right), int(score.count)) == (1, 2)


def test_the_loss_of_numbers_by_hand():
    """Errors (0.03, 0.01), within 0.04, and (1, 0): squares (0.0009 + 0.0001) / 2 + 1 / 2."""
    inputs = jnp.array([[[1.03, 2.01], [1.0, 0.0]]])
    targets = jnp.array([[[1.0, 2.0], [0.0, 0.0]]])
    score = plain(False).score(NOTHING, Example(inputs, targets, jnp.ones((1, 2), bool)))
    assert float(score.loss) == pytest.approx(0.0005 + 0.5)
    assert (int(score.right), int(score.count)) == (1, 2)


def test_a_label_is_read_from_the_mean_of_what_is_real():
    """The third step is padding: it is neither asked nor in the mean of the first two."""
    inputs = jnp.array([[[1.0, 0], [3, 2], [90, -90]]])
    batch = Labeled(inputs, jnp.array([1]), jnp.array([2]))
    example = asked(batch)
    assert example.counted.tolist() == [[False, True, False]]
    assert example.targets[0, 1] == 1
    assert plain(True, True).answers(NOTHING, inputs)[0, 1].tolist() == [2, 1]


@pytest.mark.parametrize("network", ["gru", "s4", "transformer"])
def test_steps_of_zeros_have_gradients_of_usual_size(network):
    """Such as the margins of images: what embeds them must not be where normalization is steepest.

    With biases of zero it is 3e10 of the GRU, 2e6 of S4, 200 of the transformer.
    """
    it = make(network=network, layers=2, width=16)
    params = it.init(jax.random.key(0)).params
    inputs = jnp.zeros((4, 8, 8))
    batch = Labeled(inputs, jnp.arange(4), jnp.full(4, 8))
    grads = jax.jit(jax.grad(lambda params: it.model.score(params, asked(batch)).loss))(params)
    assert float(optax.tree.norm(grads)) < 100


@functools.cache
def shared():
    return make(task="induction", length=8, test_lengths=(12,), network="transformer")


def test_test_series_are_the_same_at_every_call_and_no_training_draws_them():
    evaluation = shared().evaluation
    params = shared().init(jax.random.key(0)).params
    first = evaluation.scores(params, jax.random.key(1), False)
    assert set(first) == {"eval/loss", "eval/accuracy"}
    last = evaluation.scores(params, jax.random.key(2), True)  # further lengths at the end alone
    assert set(last) == {*first, "eval/loss_at_12", "eval/accuracy_at_12"}
    assert first.items() <= last.items()


def test_pictures_are_drawn(tmp_path):
    params = shared().init(jax.random.key(0)).params
    shared().evaluation.pictures(params, 0, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "lengths_seed0.png",
        "reach_seed0.png",
    ]


def test_baselines_are_said():
    assert shared().evaluation.baselines(jax.random.key(0)) == {
        "baseline/chance_accuracy": pytest.approx(1 / 15)
    }


def test_forecasts_stand_beside_repeating_and_a_linear_model(tmp_path):
    path = tmp_path / "wave.npz"
    np.savez(path, series=np.sin(0.2 * np.arange(300)))
    it = make(task=f"npz:{path}", length=20)
    found = it.evaluation.baselines(jax.random.key(0))
    assert found["baseline/linear_squared_error"] < found["baseline/naive_squared_error"] < 0.1
    params = it.init(jax.random.key(0)).params
    assert set(it.evaluation.scores(params, jax.random.key(0), True)) == {"eval/squared_error"}
    assert it.evaluation.headline == ("eval/squared_error", False)


def test_lengths_to_test_on_and_what_is_read_are_checked():
    for changed, words in (
        ({"test_lengths": (5,)}, "--test-lengths is for generated tasks"),
        ({"task": "selective_copying", "test_lengths": (5,)}, "--length is 5"),
        ({"task": "adding", "read": "last"}, "--read=last is for series with a label"),
    ):
        with pytest.raises(UserError, match=words):
            make(**changed)


def test_it_learns_what_a_linear_model_cannot():
    """The running parity of 6 bits, which no linear model of them tells better than by chance."""
    config = options.make(
        Config,
        **{
            **sequences.TINY,
            "task": "parity", "length": 6, "width": 16, "updates": 300, "test_series": 200,
            "optimizer": {"learning_rate": 0.02},
        },
    )  # fmt: skip
    drive = Drive(Sequences, config, [0])
    drive.advance(300)
    scores = drive.experiment.evaluation.scores(drive.learned[0], jax.random.key(0), True)
    assert scores["eval/accuracy"] > 0.95
