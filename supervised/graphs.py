"""Networks on graphs: classes of nodes, of graphs, or links, by any network of `nets/graphs`.

About half a minute on one core, by default a GCN on a block model.

    python run.py --exp=gcn --data=planetoid:cora
    python run.py --exp=gin --data=tu:MUTAG --fold=3
    python run.py --exp=gcn --data=planetoid:cora --links --width=32 --updates=300 --l2=0
    python run.py --exp=graphs --network=sage --data=planetoid:cora --fanout 10 10 --inductive

What is asked follows from the data: where nodes have classes, one graph is seen whole at every
update, and the labels of few nodes are learned from (Kipf and Welling 2017); where graphs have
classes, an update sees a batch of graphs, each pooled after every layer and classified from all of
these (Xu et al. 2019, equation 4.2); with `--links`, pairs of nodes are linked or not by the
product of what they hold (Kipf and Welling 2016), and hidden links carry no messages. With p_i what
is predicted for the n labels y_i of an update and w the weights of the first layer,

    loss = -1 / n sum_i log p_i(y_i) + l2 / 2 |w|^2

and for links the mean of -log p over the graph's links plus that over as many random pairs that are
no links. With `--fanout`, an update sees a batch of nodes instead, each with a sample of its
neighbors and of theirs; with `--inductive`, it sees nothing of nodes to be judged by, neither
features nor links (both Hamilton et al. 2017). After every update the loss on the validation split
is taken, without dropout and over whole neighborhoods; what is learned are the parameters at which
it was lowest. Test labels are looked at by the evaluation alone. Shapes: N nodes, G graphs, P
pairs, K classes, D width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.sparse

from missing_bits import collectives, notes, optimizers
from missing_bits.data import graph_batches, graph_links, graph_samples, graphs
from missing_bits.data.graphs import Data, GraphSet
from missing_bits.data.source import BatchSource
from missing_bits.errors import require, require_between, require_positive
from missing_bits.eval import graph_baselines
from missing_bits.eval.evaluation import Evaluation, Headline
from missing_bits.metrics import Mean, Metrics
from missing_bits.nets.graphs import (
    Graph,
    Network,
    Noise,
    Pool,
    Pooling,
    Settings,
    noise,
    single_node,
)
from missing_bits.options import Flat, row
from missing_bits.pictures import features as feature_pictures
from missing_bits.pictures import graphs as pictures
from missing_bits.plan import Plan


@dataclass(frozen=True)
class Config:
    """Networks on graphs. Periods and budgets count updates."""

    graphs: Flat[Data] = Data()
    passing: Flat[Settings] = Settings()
    pooling: Pooling = "sum"
    """What the nodes of a graph become where graphs have classes."""
    links: bool = False
    """Predict links, not classes."""
    fanout: tuple[int, ...] = ()
    """Neighbors that are drawn of each node, for each layer a number, from the nodes of a batch on;
    empty for all, of all nodes. For networks that average over neighbors."""
    inductive: bool = False
    """Train without the nodes to validate and test on and their links, and validate without those
    to test on."""
    updates: int = 200
    """Budget, in updates."""
    batch_size: int = 32
    """Graphs per update, over all devices, where graphs have classes; with --fanout, nodes."""
    l2: float = row(5e-4)
    """Weight of half the squared length of weights in the loss."""
    l2_layers: Literal["first", "all"] = "first"
    """Whose weights: the first layer's, or all; mpnn and recurrent share theirs, which are all."""
    optimizer: optimizers.Optimizer = optimizers.Optimizer(
        learning_rate=0.01, warmup=0.0, end=1.0, weight_decay=0.0
    )
    """How parameters move."""


TINY = {"data": "karate", "width": 4, "heads": 2, "updates": 12, "batch_size": 8}
SAMPLED = ("sage", "gat", "gatv2")
"""Networks that average over neighbors, of which a sample is enough."""
_LINEAR = 10_000  # nodes or graphs that logistic regression learns from, at most


class Params(NamedTuple):
    """Parameters of the two parts."""

    network: Any
    head: Any  # of classes of graphs; empty elsewhere


class Learned(NamedTuple):
    """What a run has learned."""

    params: Params
    statistics: Any  # moving averages of batch normalization


class State(NamedTuple):
    """Everything a run knows."""

    params: Params
    statistics: Any
    opt_state: optax.OptState
    best: Learned
    """Of the lowest loss on the validation split so far."""
    best_loss: jax.Array


class Seen(NamedTuple):
    """What a loss saw: sums over what this device was asked."""

    statistics: Any
    right: jax.Array
    count: jax.Array


def seen_by_all(statistics: Any, right: jax.Array, count: jax.Array | int) -> Seen:
    """What every device that shares an update saw whole, of which each reports an equal part."""
    devices = collectives.size()
    return Seen(statistics, right / devices, jnp.asarray(count / devices, jnp.float32))


class Chosen(NamedTuple):
    """A batch."""

    number: np.ndarray  # int32 [B], of graphs or nodes


class Problem(NamedTuple):
    """What is asked of graphs, as pure functions of parameters, and what judges them."""

    init: Callable[[jax.Array], Learned]
    loss: Callable[[Params, Any, Chosen | None, jax.Array], tuple[jax.Array, Seen]]
    """Maps (params, statistics, batch, key) to the mean loss over all devices, by this device's
    part, and what it saw."""
    validation: Callable[[Learned], jax.Array]
    """The loss on the validation split."""
    evaluation: Evaluation
    batches: Callable[[Sequence[int], int], BatchSource] | None
    """Maps seeds and a batch's size to batches; None where a graph is seen whole."""


def _example(data: GraphSet) -> Graph:
    return single_node(data.nodes.shape[1], 0 if data.edges is None else data.edges.shape[1])


def _mean_loss(logits: jax.Array, labels: Any) -> jax.Array:
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(labels)))


def _share(logits: jax.Array, labels: np.ndarray) -> float:
    return float(np.mean(np.argmax(logits, axis=-1) == labels))


class Known(NamedTuple):
    """What may be seen of a graph whose nodes have classes."""

    trained: GraphSet
    """In training."""
    validated: GraphSet
    """To choose parameters."""


def known(data: GraphSet, inductive: bool, name: str) -> Known:
    """All of a graph, or what is left of it without the nodes to be judged by.

    Args:
      data: the graph.
      inductive: whether nodes are left out.
      name: of the graph, for messages.

    Raises:
      UserError: no links are left, or nodes to test on have no feature of those left.
    """
    if not inductive:
        return Known(data, data)
    where = f"--data={name} --inductive, what is left to train on,"
    judged = np.concatenate([data.validation, data.test])
    seen = Known(
        graphs.without(data, judged, where),
        graphs.without(data, data.test, where),
    )
    used = np.asarray(abs(seen.trained.nodes).sum(axis=0)).ravel() > 0  # [F]
    require(
        bool(abs(data.nodes[data.test]).sum(axis=0)[..., used].any()),
        f"--data={name} gives nodes to test on no feature that nodes to train on have: nothing can "
        "be learned for them with --inductive. Give --node-features that nodes share.",
    )
    return seen


def of_nodes(config: Config, data: GraphSet) -> Problem:
    """Classes of nodes, in a graph that is seen whole, or by samples around few nodes."""
    trained, validated = known(data, config.inductive, config.graphs.data)
    graph = graphs.whole(data)
    to_train = graphs.whole(trained) if config.inductive else graph
    to_validate = graphs.whole(validated) if config.inductive else graph
    network = config.passing.make(len(data.classes))

    def logits(learned: Learned, of: Graph, key: Noise | None) -> tuple[jax.Array, Any]:
        variables = (learned.params.network, learned.statistics)
        levels, statistics = network.apply(variables, of, key, key is not None)
        return levels.nodes[-1], statistics  # [N, K]

    def init(key: jax.Array) -> Learned:
        variables = network.init(key, _example(data))
        return Learned(Params(variables.params, {}), variables.state)

    labels = trained.labels[trained.train]

    def loss(params: Params, statistics: Any, batch: None, key: jax.Array):
        found, statistics = logits(Learned(params, statistics), to_train, noise(key))
        found = found[trained.train]
        right = jnp.sum(jnp.argmax(found, axis=1) == labels)
        return _mean_loss(found, labels), seen_by_all(statistics, right, len(labels))

    def validation(learned: Learned) -> jax.Array:
        found, _ = logits(learned, to_validate, None)
        part = validated.validation
        return _mean_loss(found[part], validated.labels[part])

    def levels_of(learned: Learned) -> Any:
        variables = (learned.params.network, learned.statistics)
        return network.apply(variables, graph, None, False)[0]

    judged = jax.jit(levels_of)

    def scores(learned: Learned, key: jax.Array, last: bool) -> dict[str, float]:
        found = np.asarray(judged(learned).nodes[-1])
        return {
            f"eval/{name}accuracy": _share(found[part], data.labels[part])
            for name, part in (("", data.test), ("validation_", data.validation))
        }

    def baselines(key: jax.Array) -> dict[str, float]:
        guesses = graph_baselines.propagated(
            data.senders, data.receivers, data.labels, data.train, len(data.classes)
        )
        return {
            "baseline/majority_accuracy": _majority(data),
            "baseline/propagation_accuracy": float(
                np.mean(guesses[data.test] == data.labels[data.test])
            ),
            "baseline/linear_accuracy": _linear(data, data.nodes, separately=False),
        }

    def draw(learned: Learned, seed: int, folder: Path) -> None:
        levels = jax.device_get(judged(learned))
        guesses = np.argmax(levels.nodes[-1], axis=1)
        pictures.classes(data, guesses, levels.attention, folder / f"graph_seed{seed}.png")
        pictures.hops(data, guesses, folder / f"hops_seed{seed}.png")
        labels = data.labels[data.test]
        feature_pictures.confusion(
            labels, guesses[data.test], data.classes, folder / f"confusion_seed{seed}.png"
        )
        held = levels.nodes[-2] if len(levels.nodes) > 1 else levels.nodes[-1]
        feature_pictures.feature_map(
            held[data.test], labels, data.classes, folder / f"features_seed{seed}.png"
        )

    evaluation = Evaluation(
        Headline("eval/accuracy"), scores, baselines, draw, "what simpler methods make of the graph"
    )
    if not config.fanout:
        return Problem(init, loss, validation, evaluation, None)
    near = graph_samples.neighbors(trained, loops=config.passing.network == "sage")
    places = graph_samples.places(config.fanout)

    def sampled_loss(params: Params, statistics: Any, batch: Chosen, key: jax.Array):
        keys = collectives.shard(jax.random.split(key, config.batch_size))
        sample = graph_samples.draw(near, batch.number, config.fanout, keys)
        found, statistics = logits(Learned(params, statistics), sample.graph, sample.noise)
        found = found[::places]
        theirs = jnp.asarray(trained.labels)[batch.number]
        right = jnp.sum(jnp.argmax(found, axis=1) == theirs)
        count = jnp.asarray(len(found), jnp.float32)
        return _mean_loss(found, theirs), Seen(statistics, right, count)

    def batches(seeds: Sequence[int], batch_size: int) -> BatchSource:
        return BatchSource(Chosen(trained.train), seeds, batch_size)

    return Problem(init, sampled_loss, validation, evaluation, batches)


def _majority(data: GraphSet) -> float:
    most = np.bincount(data.labels[data.train]).argmax()
    return float(np.mean(data.labels[data.test] == most))


def _linear(
    data: GraphSet, features: np.ndarray | scipy.sparse.csr_matrix, separately: bool
) -> float:
    """The test accuracy of logistic regression on features, scaled separately or all by one."""
    some = np.random.default_rng(0).permutation(data.train)[:_LINEAR]
    return graph_baselines.linear(
        features, data.labels, some, data.test, len(data.classes), separately
    )


@dataclass(frozen=True)
class Classifier:
    """A network with what pools its levels and classifies them."""

    network: Network
    head: hk.Transformed  # (graph, levels) to [G, K]

    def init(self, key: jax.Array, graph: Graph) -> Learned:
        """Fresh variables."""
        network_key, head_key = jax.random.split(key)
        variables = self.network.init(network_key, graph)
        levels, _ = self.network.apply(variables, graph, None, False)
        head = self.head.init(head_key, graph, levels.nodes)
        return Learned(Params(variables.params, head), variables.state)

    def logits(
        self, learned: Learned, graph: Graph, key: Noise | None, is_training: bool
    ) -> tuple[jax.Array, Any]:
        """[G, K], and new statistics."""
        variables = (learned.params.network, learned.statistics)
        levels, statistics = self.network.apply(variables, graph, key, is_training)
        return self.head.apply(learned.params.head, graph, levels.nodes), statistics


def classifier(settings: Settings, pooling: Pooling, classes: int) -> Classifier:
    """All levels are pooled, and a linear layer reads them side by side."""

    def read(graph: Graph, levels: list[jax.Array]) -> jax.Array:
        pooled = [Pool(pooling, name=f"pool{i}")(graph, x) for i, x in enumerate(levels)]
        return hk.Linear(classes, name="read")(jnp.concatenate(pooled, axis=1))

    return Classifier(settings.make(settings.width), hk.without_apply_rng(hk.transform(read)))


def of_graphs(config: Config, data: GraphSet) -> Problem:
    """Classes of graphs, which are seen in batches."""
    model = classifier(config.passing, config.pooling, len(data.classes))
    store = graph_batches.store(data)
    validated, tested = (
        graphs.whole(graph_batches.subset(data, part)) for part in (data.validation, data.test)
    )

    def init(key: jax.Array) -> Learned:
        return model.init(key, _example(data))

    def loss(params: Params, statistics: Any, batch: Chosen, key: jax.Array):
        keys = collectives.shard(jax.random.split(key, config.batch_size))
        room = graph_batches.room(store, data.train, batch.number.shape[0])
        packed = graph_batches.pack(store, batch.number, room, keys)
        labels = jnp.asarray(store.labels)[batch.number]
        found, statistics = model.logits(
            Learned(params, statistics), packed.graph, packed.noise, True
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(found, labels)
        count = jnp.sum(packed.kept)
        whole = jnp.maximum(collectives.total(count), 1) / collectives.size()
        right = jnp.sum(packed.kept & (jnp.argmax(found, axis=1) == labels))
        return jnp.sum(losses * packed.kept) / whole, Seen(statistics, right, count)

    def validation(learned: Learned) -> jax.Array:
        found, _ = model.logits(learned, validated, None, False)
        return _mean_loss(found, data.labels[data.validation])

    judged = jax.jit(lambda learned, graph: model.logits(learned, graph, None, False)[0])

    def scores(learned: Learned, key: jax.Array, last: bool) -> dict[str, float]:
        parts = (("", tested, data.test), ("validation_", validated, data.validation))
        return {
            f"eval/{name}accuracy": _share(np.asarray(judged(learned, graph)), data.labels[part])
            for name, graph, part in parts
        }

    def baselines(key: jax.Array) -> dict[str, float]:
        many = np.bincount(data.graph_of)
        sums = graph_batches.sums(data).nodes
        told = np.concatenate([sums, many[:, None].astype(np.float32)], axis=1)
        return {
            "baseline/majority_accuracy": _majority(data),
            "baseline/linear_accuracy": _linear(data, told, separately=True),
        }

    def draw(learned: Learned, seed: int, folder: Path) -> None:
        guesses = np.argmax(judged(learned, tested), axis=1)
        labels = data.labels[data.test]
        feature_pictures.confusion(
            labels, guesses, data.classes, folder / f"confusion_seed{seed}.png"
        )
        pictures.some_graphs(data, data.test, guesses, folder / f"graphs_seed{seed}.png")

    def batches(seeds: Sequence[int], batch_size: int) -> BatchSource:
        return BatchSource(Chosen(data.train), seeds, batch_size)

    evaluation = Evaluation(
        Headline("eval/accuracy"),
        scores,
        baselines,
        draw,
        "what logistic regression makes of the sums of features, without links",
    )
    return Problem(init, loss, validation, evaluation, batches)


def of_links(config: Config, data: GraphSet) -> Problem:
    """Links of a graph that is seen without them."""
    hidden = graph_links.hide(data, config.graphs.fold)
    graph = graphs.whole(hidden.known)
    network = config.passing.make(config.passing.width)

    def held(learned: Learned, key: Noise | None) -> tuple[jax.Array, Any]:
        variables = (learned.params.network, learned.statistics)
        levels, statistics = network.apply(variables, graph, key, key is not None)
        return levels.nodes[-1], statistics  # [N, D]

    def init(key: jax.Array) -> Learned:
        variables = network.init(key, _example(hidden.known))
        return Learned(Params(variables.params, {}), variables.state)

    def loss(params: Params, statistics: Any, batch: None, key: jax.Array):
        draw_key, noise_key = jax.random.split(key)
        z, statistics = held(Learned(params, statistics), noise(noise_key))
        there = linked(z, hidden.train)
        many = len(hidden.train)
        drawn = graph_links.draw_absent(hidden.codes, data.num_nodes, many, draw_key)
        absent = linked(z, drawn.ends)
        count = jnp.sum(drawn.absent)
        value = jnp.mean(jax.nn.softplus(-there))
        value += jnp.sum(jax.nn.softplus(absent) * drawn.absent) / jnp.maximum(count, 1)
        right = jnp.sum(there > 0) + jnp.sum((absent <= 0) & drawn.absent)
        return value, seen_by_all(statistics, right, many + count)

    def validation(learned: Learned) -> jax.Array:
        found = linked(held(learned, None)[0], hidden.validation.ends)
        signs = np.where(hidden.validation.linked, -1.0, 1.0).astype(np.float32)
        return jnp.mean(jax.nn.softplus(signs * found))

    judged = jax.jit(lambda learned: held(learned, None)[0])

    def scores(learned: Learned, key: jax.Array, last: bool) -> dict[str, float]:
        z = judged(learned)
        found = _ranked(hidden.test, np.asarray(linked(z, hidden.test.ends)))
        more = _ranked(hidden.validation, np.asarray(linked(z, hidden.validation.ends)))
        return {
            "eval/auc": found.auc,
            "eval/average_precision": found.precision,
            "eval/validation_auc": more.auc,
        }

    def baselines(key: jax.Array) -> dict[str, float]:
        known = hidden.known
        shared = graph_baselines.common_neighbors(
            known.senders, known.receivers, known.num_nodes, hidden.test.ends
        )
        return {"baseline/common_neighbors_auc": _ranked(hidden.test, shared).auc}

    def draw(learned: Learned, seed: int, folder: Path) -> None:
        if data.classes:
            z = np.asarray(judged(learned))
            told = data.labels >= 0
            path = folder / f"features_seed{seed}.png"
            feature_pictures.feature_map(z[told], data.labels[told], data.classes, path)

    evaluation = Evaluation(
        Headline("eval/auc"), scores, baselines, draw, "what the number of common neighbors tells"
    )
    return Problem(init, loss, validation, evaluation, None)


def linked(z: jax.Array, ends: Any) -> jax.Array:
    """Logits [P] of links between pairs [P, 2] of nodes that hold z [N, D]."""
    return jnp.sum(z[ends[:, 0]] * z[ends[:, 1]], axis=1)


class _Ranked(NamedTuple):
    """How well values rank links before other pairs."""

    auc: float
    precision: float


def _ranked(pairs: graph_links.Pairs, values: np.ndarray) -> _Ranked:
    from sklearn.metrics import average_precision_score, roc_auc_score

    return _Ranked(
        float(roc_auc_score(pairs.linked, values)),
        float(average_precision_score(pairs.linked, values)),
    )


class Resources(NamedTuple):
    """What rows share."""

    data: GraphSet
    problem: Problem


class Graphs:
    """The method, as functions on `State`."""

    subject = "data"

    @staticmethod
    def check(config: Config) -> None:
        """Raises `UserError` for settings that cannot run."""
        require_positive(config, "updates", "batch_size")
        require_between(config, 0, float("inf"), "l2")
        require(
            not config.links or not (config.fanout or config.inductive),
            "--fanout and --inductive are for classes of nodes, not for --links.",
        )
        if config.fanout:
            _check_fanout(config.fanout, config.passing)

    @staticmethod
    def resources(config: Config) -> Resources:
        """The graphs, and what is asked of them."""
        data = config.graphs.load()
        name = config.graphs.data
        if data.edges is not None and (config.links or config.passing.network != "mpnn"):
            taken = "--links takes none" if config.links else "--network=mpnn alone takes them"
            notes.say(f"Left out: the numbers that edges of --data={name} hold; {taken}.")
        if config.links:
            return Resources(data, of_links(config, data))
        require(
            len(data.classes) > 1,
            f"--data={name} has no labels of two classes or more; give them (--node-labels of "
            "edges, in GraphML the data label), or predict --links.",
        )
        for split in ("train", "validation", "test"):
            what = "graphs" if data.per_graph else "nodes"
            require(
                len(getattr(data, split)) > 0,
                f"--data={name} has no {what} for {split}; label five or more, or give some to "
                "each split.",
            )
        if not data.per_graph:
            return Resources(data, of_nodes(config, data))
        require(
            not (config.fanout or config.inductive),
            f"--fanout and --inductive are for classes of nodes; of --data={name}, graphs have "
            "classes.",
        )
        return Resources(data, of_graphs(config, data))

    def __init__(self, config: Config, resources: Resources) -> None:
        self.config = config
        self.resources = resources
        self.problem = resources.problem
        in_batches = self.problem.batches is not None
        self.plan = Plan(
            config.updates,
            evaluations=10,
            shared=("batch_size",) if in_batches else (),
            small=True,
            shown=("train/accuracy", "train/validation_loss"),
        )
        self.evaluation = self.problem.evaluation
        self.data_digest = resources.data.digest
        self.optimizer = optimizers.make(config.optimizer, config.updates)

    def source(self, seeds: Sequence[int]) -> BatchSource | None:
        """Batches of graphs or nodes; a graph that is seen whole needs none."""
        if self.problem.batches is None:
            return None
        return self.problem.batches(seeds, self.config.batch_size)

    def init(self, key: jax.Array) -> State:
        """The state before the first update."""
        learned = self.problem.init(key)
        params, statistics = learned
        worst = jnp.asarray(jnp.inf, jnp.float32)
        return State(params, statistics, self.optimizer.init(params), learned, worst)

    def loss(
        self, params: Params, statistics: Any, batch: Chosen | None, key: jax.Array
    ) -> tuple[jax.Array, Seen]:
        """The loss, and what it saw."""
        loss, seen = self.problem.loss(params, statistics, batch, key)
        return loss + self.config.l2 / 2 * squares(params.network, self.config.l2_layers), seen

    def step(self, state: State, batch: Chosen | None, key: jax.Array) -> tuple[State, Metrics]:
        """Makes one update, and keeps it if it is the best on the validation split."""
        descent = optimizers.descend(
            self.loss,
            self.optimizer,
            state.params,
            state.opt_state,
            state.statistics,
            batch,
            key,
        )
        seen = descent.aux
        learned = Learned(descent.params, seen.statistics)
        validation_loss = self.problem.validation(learned)
        better = validation_loss < state.best_loss
        best = jax.tree.map(lambda new, old: jnp.where(better, new, old), learned, state.best)
        best_loss = jnp.where(better, validation_loss, state.best_loss)
        right, count = collectives.total((seen.right, seen.count))
        metrics = {
            "train/loss": descent.loss,
            "train/accuracy": Mean(right.astype(jnp.float32), count.astype(jnp.float32)),
            "train/gradient_norm": descent.gradient_norm,
            "train/validation_loss": validation_loss,
        }
        return State(*learned, descent.opt_state, best, best_loss), metrics

    def learned(self, state: State) -> Learned:
        """The parameters of the lowest loss on the validation split."""
        return state.best


def _check_fanout(fanout: tuple[int, ...], passing: Settings) -> None:
    told = f"--fanout {' '.join(map(str, fanout))}"
    require(
        passing.network in SAMPLED,
        f"{told} is for networks that average over neighbors ({', '.join(SAMPLED)}), of which a "
        f"sample is enough; --network={passing.network} needs all of them.",
    )
    require(
        len(fanout) == passing.layers and min(fanout) >= 1,
        f"{told} must be a number of 1 or more for each of --layers={passing.layers}.",
    )
    graph_samples.places(fanout)


def squares(params: Any, layers: Literal["first", "all"]) -> jax.Array:
    """The squared length of weights, biases aside.

    Args:
      params: of a network, by module.
      layers: whose: those of modules named layer0, or all; all too where no module is named so.
    """
    first = [module for module in params if module.startswith("layer0")]
    modules = first if layers == "first" and first else list(params)
    weights = [w for module in modules for w in params[module].values() if w.ndim > 1]
    return sum((jnp.sum(jnp.square(w)) for w in weights), jnp.zeros(()))
