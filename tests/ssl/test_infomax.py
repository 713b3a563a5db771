"""Deep graph infomax: its loss by hand, corruption, the encoder's file."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from missing_bits import options
from missing_bits.data import made_graphs
from missing_bits.data.graphs import features
from missing_bits.encoders.graphs import GraphEncoder
from missing_bits.errors import UserError
from missing_bits.nets.graphs import Settings, shuffled
from missing_bits.ssl import infomax
from missing_bits.ssl.infomax import Config, Infomax
from missing_bits.tests.loop.drive import Drive


def test_the_loss_by_hand():
    """s = sigmoid((ln 3 - ln 3) / 2) = 1 / 2 and W = 2: D(z) = sigmoid(z)."""
    z = jnp.log(jnp.array([[3.0], [1 / 3]]))
    corrupted = jnp.log(jnp.array([[1 / 3], [1 / 3]]))
    loss, right = infomax.objective(z, corrupted, jnp.array([[2.0]]))
    true = (-np.log(3 / 4) - np.log(1 / 4)) / 2
    assert float(loss) == pytest.approx((true - np.log(3 / 4)) / 2)
    assert float(right) == pytest.approx(0.75)


def test_features_are_dealt_out_anew_whether_sparse_or_not():
    karate = made_graphs.karate()
    encoder = GraphEncoder(Settings(layers=1, width=3), 34)
    graph = encoder.prepare(karate)
    variables = encoder.init(jax.random.key(0))
    order = np.random.default_rng(0).permutation(34)
    sparse = graph._replace(nodes=shuffled(features(karate.nodes), jnp.asarray(order)))
    dense = graph._replace(nodes=karate.nodes.toarray()[order])
    found, wanted = (encoder.apply(variables, one)[0] for one in (sparse, dense))
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert np.abs(found - encoder.apply(variables, graph)[0]).max() > 0.01


def test_what_is_no_graph_of_its_kind_is_refused():
    encoder = GraphEncoder(Settings(width=3), 5)
    with pytest.raises(UserError, match="Nodes have 34 features; this encoder takes 5"):
        encoder.prepare(made_graphs.karate())
    with pytest.raises(UserError, match="takes a set of graphs"):
        encoder.prepare(np.zeros((3, 5)))
    with pytest.raises(UserError, match="has no nodes of two classes"):
        Infomax.resources(options.make(Config, data="cycles"))


def test_it_learns_to_tell_nodes_from_corrupted_ones():
    config = options.make(
        Config,
        data="blocks",
        made_nodes=200,
        made_signal=8.0,
        width=16,
        updates=60,
        optimizer={"learning_rate": 0.01},
    )
    drive = Drive(Infomax, config, [0])
    drive.advance(60)
    mean = drive.sums[0]["train/loss"]
    assert float(mean.total) / float(mean.count) < 0.9 * np.log(2)
    scores = drive.experiment.evaluation.scores(drive.learned[0], jax.random.key(0), True)
    baselines = drive.experiment.evaluation.baselines(jax.random.key(0))
    assert scores["eval/linear_accuracy"] > baselines["baseline/features_linear_accuracy"]
