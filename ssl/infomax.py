"""Deep graph infomax: nodes that know the graph they are of (Velickovic et al. 2019).

About half a minute on one core, by default a GCN on a block model.

    python run.py --exp=infomax --data=planetoid:cora

An encoder maps every node to z_i, and their mean to a summary s = sigmoid(mean_i z_i). The same
encoder sees the same links with features dealt out anew among the nodes, which gives z~_i. A
bilinear form D(z, s) = sigmoid(z W s) tells the two apart (equation 1):

    loss = -1 / 2N sum_i (log D(z_i, s) + log(1 - D(z~_i, s)))

Labels only judge: a linear probe of the nodes to learn from, beside the same on raw features and on
a random encoder. Published with a GCN of one layer with 512 units and a PReLU. Shapes: N nodes, D
width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax

from missing_bits import collectives, optimizers
from missing_bits.data.graphs import Data, GraphSet
from missing_bits.encoders import files
from missing_bits.encoders.graphs import GraphEncoder
from missing_bits.encoders.variables import Variables
from missing_bits.errors import require, require_positive
from missing_bits.eval import graph_baselines, linear_probe
from missing_bits.eval.evaluation import Evaluation, Headline
from missing_bits.metrics import Metrics
from missing_bits.nets.graphs import Graph, Settings, noise, shuffled
from missing_bits.nets.transformer import GLOROT
from missing_bits.options import Flat
from missing_bits.pictures import features as pictures
from missing_bits.plan import Plan


@dataclass(frozen=True)
class Config:
    """Deep graph infomax. Periods and budgets count updates."""

    graphs: Flat[Data] = Data()
    passing: Flat[Settings] = Settings(layers=1, width=512, dropout=0.0)
    updates: int = 200
    """Budget, in updates."""
    optimizer: optimizers.Optimizer = optimizers.Optimizer(
        learning_rate=1e-3, warmup=0.0, end=1.0, weight_decay=0.0
    )
    """How parameters move."""


TINY = {"data": "karate", "width": 4, "heads": 2, "updates": 12}


class Params(NamedTuple):
    """Parameters of both parts."""

    encoder: Any
    discriminator: jax.Array  # W, [D, D]


class State(NamedTuple):
    """Everything a run knows."""

    params: Params
    statistics: Any  # the encoder's moving averages of batch normalization
    opt_state: optax.OptState


class Resources(NamedTuple):
    """What rows share."""

    data: GraphSet
    graph: Graph
    encoder: GraphEncoder
    evaluation: Evaluation  # of `Variables`


def objective(z: jax.Array, corrupted: jax.Array, w: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The loss, and the share of nodes that are told from corrupted ones.

    Args:
      z: what nodes hold, [N, D].
      corrupted: what they hold with features dealt out anew, [N, D].
      w: the bilinear form, [D, D].
    """
    summary = jax.nn.sigmoid(jnp.mean(z, axis=0))  # [D]
    toward = jnp.dot(w, summary, precision="highest")
    true = jnp.dot(z, toward, precision="highest")  # [N]
    false = jnp.dot(corrupted, toward, precision="highest")
    loss = jnp.mean(jax.nn.softplus(-true)) + jnp.mean(jax.nn.softplus(false))
    right = jnp.mean((true > 0).astype(jnp.float32)) + jnp.mean((false < 0).astype(jnp.float32))
    return loss / 2, right / 2


class Infomax:
    """The method, as functions on `State`."""

    subject = "data"

    @staticmethod
    def check(config: Config) -> None:
        """Raises `UserError` for settings that cannot run."""
        require_positive(config, "updates")

    @staticmethod
    def resources(config: Config) -> Resources:
        """The graph, the encoder, and what judges it."""
        data = config.graphs.load()
        name = config.graphs.data
        require(
            not data.per_graph
            and len(data.classes) > 1
            and min(len(data.train), len(data.test)) > 0,
            f"--data={name} has no nodes of two classes or more to judge features by; give labels "
            "(--node-labels of edges, in GraphML the data label), or another graph.",
        )
        edges = 0 if data.edges is None else data.edges.shape[1]
        encoder = GraphEncoder(config.passing, data.nodes.shape[1], edges)
        graph = encoder.prepare(data)
        return Resources(data, graph, encoder, judging(data, graph, encoder))

    def __init__(self, config: Config, resources: Resources) -> None:
        self.config = config
        self.resources = resources
        self.plan = Plan(
            config.updates, shared=(), small=True, shown=("train/accuracy", "train/loss")
        )
        self.evaluation = resources.evaluation
        self.data_digest = resources.data.digest
        self.encoder = resources.encoder
        self.optimizer = optimizers.make(config.optimizer, config.updates)

    def source(self, seeds: Sequence[int]) -> None:
        """Nothing: the graph is seen whole at every update."""

    def init(self, key: jax.Array) -> State:
        """The state before the first update."""
        encoder_key, discriminator_key = jax.random.split(key)
        encoder = self.encoder.init(encoder_key)
        width = self.encoder.num_features
        with_shape = hk.transform(lambda: hk.get_parameter("w", (width, width), init=GLOROT))
        w = with_shape.init(discriminator_key)["~"]["w"]
        params = Params(encoder.params, w)
        return State(params, encoder.state, self.optimizer.init(params))

    def loss(
        self, params: Params, statistics: Any, key: jax.Array
    ) -> tuple[jax.Array, tuple[Any, jax.Array]]:
        """The loss; new statistics, and how often the two are told apart."""
        order_key, *keys = jax.random.split(key, 3)
        graph = self.resources.graph
        order = jax.random.permutation(order_key, graph.num_nodes)
        corrupted = graph._replace(nodes=shuffled(graph.nodes, order))
        held = []
        for seen, mine in zip((graph, corrupted), keys, strict=True):
            variables = Variables(params.encoder, statistics)
            z, statistics = self.encoder.apply(variables, seen, True, noise(mine))
            held.append(z)
        loss, right = objective(*held, params.discriminator)
        return loss, (statistics, right)

    def step(self, state: State, batch: None, key: jax.Array) -> tuple[State, Metrics]:
        """Deals out features anew and makes one update."""
        descent = optimizers.descend(
            self.loss, self.optimizer, state.params, state.opt_state, state.statistics, key
        )
        statistics, right = descent.aux
        metrics = {
            "train/loss": descent.loss,
            "train/accuracy": collectives.mean(right),
            "train/gradient_norm": descent.gradient_norm,
        }
        return State(descent.params, statistics, descent.opt_state), metrics

    def learned(self, state: State) -> Variables:
        """The encoder."""
        return Variables(state.params.encoder, state.statistics)

    def hand_over(self, learned: Variables, path: Path, facts: Mapping[str, Any]) -> None:
        """Writes the encoder to the file `path`."""
        files.save(path, self.encoder, learned, facts)


def judging(data: GraphSet, graph: Graph, encoder: GraphEncoder) -> Evaluation:
    """A linear probe of features, beside raw features and a random encoder."""
    features = jax.jit(lambda variables: encoder.apply(variables, graph)[0])

    def probe(found: np.ndarray) -> float:
        return linear_probe.accuracy(
            found[data.train],
            data.labels[data.train],
            found[data.test],
            data.labels[data.test],
            len(data.classes),
        )

    def scores(learned: Variables, key: jax.Array, last: bool) -> dict[str, float]:
        return {"eval/linear_accuracy": probe(np.asarray(features(learned)))}

    def baselines(key: jax.Array) -> dict[str, float]:
        return {
            # Words, of which the rare ones must not count as much as the common ones.
            "baseline/features_linear_accuracy": graph_baselines.linear(
                data.nodes, data.labels, data.train, data.test, len(data.classes), separately=False
            ),
            "baseline/random_linear_accuracy": probe(np.asarray(features(encoder.init(key)))),
        }

    def draw(learned: Variables, seed: int, folder: Path) -> None:
        pictures.feature_map(
            np.asarray(features(learned))[data.test],
            data.labels[data.test],
            data.classes,
            folder / f"features_seed{seed}.png",
        )

    return Evaluation(
        Headline("eval/linear_accuracy"),
        scores,
        baselines,
        draw,
        "what a linear probe makes of raw features and of a random encoder",
    )
