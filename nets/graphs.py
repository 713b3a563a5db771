"""Networks on graphs: seven ways to pass messages under one interface, and pooling.

    network = Settings(network="gat", layers=2, width=8).make(outputs=7)
    variables = network.init(key, graph)
    levels, state = network.apply(variables, graph, None, False)
    levels.nodes[-1]  # [N, outputs]

Every network maps what nodes hold, x_i, to new values by sums over their neighbors j, the senders
of edges to i (Gilmer et al. 2017; Battaglia et al. 2018). d_i is the number of them and i itself.

    gcn        W sum_j x_j / sqrt(d_i d_j), j also i                   Kipf and Welling 2017, 2
    sage       W x_i + V mean_j x_j                                    Hamilton et al. 2017
    gat        sum_j a_ij W x_j, j also i,
               a = softmax_j leaky(u W x_i + v W x_j)                  Velickovic et al. 2018, 3
    gatv2      the same, a = softmax_j u leaky(V x_i + W x_j)          Brody et al. 2022, 7
    gin        MLP((1 + e) x_i + sum_j x_j)                            Xu et al. 2019, 4.1
    mpnn       GRU(x_i, sum_j A(edge_ij) x_j), the same at each step   Gilmer et al. 2017, 5
    recurrent  the fixed point of x_i = sum_j A(l_i, l_j) x_j + b(l_i) Scarselli et al. 2009, 12
    mlp        W x_i: no messages; what links are worth shows beside it

Where a node and itself are summed, edges of the graph from a node to itself are passed over: it
counts once. Everywhere else they are neighbors. An edge that stands twice counts twice. Messages go
one way: a graph whose edges have no direction holds both.
Shapes: N nodes, E edges, G graphs, F features of a node, K of an edge, D width, H heads.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import jmp
import numpy as np

from missing_bits.errors import require, require_between, require_positive
from missing_bits.nets import links
from missing_bits.nets.layers import BatchNorm
from missing_bits.nets.links import Links
from missing_bits.nets.transformer import GLOROT, dropped

_SLOPE = 0.2  # of the leaky ReLU in attention
_SETTLED = 1e-6  # largest change at the fixed point, of the largest number there
_MOST_STEPS = 200  # toward the fixed point


class Sparse(NamedTuple):
    """Features of which most are zero."""

    links: Links  # rows are nodes, columns features
    values: np.ndarray | jax.Array  # float32, one for each entry
    like: np.ndarray | jax.Array  # [0, F], which holds nothing and says F
    order: jax.Array | None = None  # int32 [N], the row that stands at each node; None for its own


class Graph(NamedTuple):
    """One graph, or several side by side."""

    nodes: np.ndarray | jax.Array | Sparse
    """Features, float32 [N, F]."""
    links: Links
    """The edges: rows receive, columns send."""
    edges: np.ndarray | jax.Array | None
    """Features of edges, float32 [E, K]."""
    graph_of: np.ndarray | jax.Array
    """Int32 [N], the number of each node's graph; G for padding, which has no edges."""
    real: np.ndarray | jax.Array
    """Bool [G], which graphs are no padding."""

    @property
    def num_nodes(self) -> int:
        """N, padding too."""
        return self.graph_of.shape[0]

    @property
    def num_features(self) -> int:
        """F."""
        nodes = self.nodes.like if isinstance(self.nodes, Sparse) else self.nodes
        return nodes.shape[1]

    @property
    def counted(self) -> jax.Array:
        """Bool [N], which nodes are no padding."""
        return jnp.asarray(self.graph_of) < self.real.shape[0]


def single_node(features: int, edge_features: int = 0) -> Graph:
    """A graph of one node and no edges, all zeros: enough to make a network's variables from.

    Args:
      features: F.
      edge_features: K; 0 for none.
    """
    nothing = np.zeros(0, np.int32)
    return Graph(
        np.zeros((1, features), np.float32),
        Links(nothing, nothing),
        np.zeros((0, edge_features), np.float32) if edge_features else None,
        np.zeros(1, np.int32),
        np.ones(1, bool),
    )


class Noise(NamedTuple):
    """Random keys for dropout: one for all, [1], or each node's and edge's own, [N] and [E]."""

    nodes: jax.Array
    edges: jax.Array


def noise(key: jax.Array) -> Noise:
    """Noise for a graph that no devices share."""
    nodes, edges = jax.random.split(key)
    return Noise(nodes[None], edges[None])


class Variables(NamedTuple):
    """Parameters, and moving averages of batch normalization."""

    params: hk.Params
    state: hk.State


class Levels(NamedTuple):
    """What a network makes of a graph."""

    nodes: list[jax.Array]
    """What nodes hold after each layer, [N, D] each, the last [N, outputs]."""
    attention: jax.Array | None = None
    """Of each edge in the last layer [E, H], 0 to 1, before dropout; None without attention."""


class Network(NamedTuple):
    """A network on graphs, as pure functions."""

    init: Callable[[jax.Array, Graph], Variables]
    """Variables of a random key, for graphs with as many features as this one's."""
    apply: Callable[[Any, Graph, Noise | None, bool], tuple[Levels, hk.State]]
    """Maps (variables, graph, noise or None for no dropout, whether it trains) to what nodes hold
    after each layer, and the new state."""


@dataclass(frozen=True)
class Settings:
    """Which network on graphs."""

    network: Literal["gcn", "sage", "gat", "gatv2", "gin", "mpnn", "recurrent", "mlp"] = "gcn"
    """How nodes learn of their neighbors; with mlp, not at all."""
    layers: int = 2
    """Layers, or for mpnn steps: how many edges away a node sees. The recurrent network has no such
    bound and one layer."""
    width: int = 16
    """Of what a node holds between layers, in units; for attention, of each head."""
    heads: int = 8
    """Of attention, in all layers but the last, which has one."""
    dropout: float = 0.5
    """Share of the input of each layer that is dropped in training, 0 to 0.9."""
    attention_dropout: float = 0.0
    """Share of attention on edges that is dropped in training, 0 to 0.9."""
    recurrent_steps: int = 0
    """Steps that the recurrent network makes and learns through; 0 for its fixed point, with the
    gradient by the implicit function theorem."""
    recurrent_contraction: float = 0.9
    """By which factor a step of the recurrent network brings states closer, at most; 0 to 0.99."""

    bfloat16: bool = False
    """Compute products of matrices, and what edges carry, in bfloat16; sums over neighbors,
    attention, parameters and results stay float32."""

    def check(self, prefix: str) -> None:
        """Raises `UserError` for settings that make no network."""
        require(
            not (self.bfloat16 and self.network == "recurrent"),
            f"--{prefix}bfloat16 is not for --{prefix}network=recurrent, whose states settle by "
            "changes that bfloat16 does not resolve.",
        )
        require_positive(self, "layers", "width", "heads", prefix=prefix)
        require_between(self, 0, 0.9, "dropout", "attention_dropout", prefix=prefix)
        require_between(self, 0, 0.99, "recurrent_contraction", prefix=prefix)
        require_between(self, 0, _MOST_STEPS, "recurrent_steps", prefix=prefix)

    def make(self, outputs: int) -> Network:
        """The network, whose last layer gives so many numbers for each node."""
        build = _NETWORKS[self.network]
        compute = "bfloat16" if self.bfloat16 else "float32"
        policy = jmp.get_policy(f"params=float32,compute={compute},output=float32")
        function = hk.transform_with_state(
            lambda graph, noise, is_training: build(self, outputs, graph, noise, is_training)
        )

        def init(key: jax.Array, graph: Graph) -> Variables:
            return Variables(*function.init(key, graph, None, False))

        def apply(
            variables: Any, graph: Graph, noise: Noise | None, is_training: bool
        ) -> tuple[Levels, hk.State]:
            params, state = variables
            params = policy.cast_to_compute(params)
            levels, state = function.apply(params, state, None, graph, noise, is_training)
            return policy.cast_to_output(levels), state

        return Network(init, apply)


# Parts.

Values = jax.Array | Sparse


class Project(hk.Module):
    """A linear map of what nodes hold, without a bias; sparse features stay sparse.

    Args:
      size: D.
      name: of the module.
    """

    def __init__(self, size: int, name: str | None = None):
        super().__init__(name)
        self._size = size

    def __call__(self, x: Values) -> jax.Array:
        """[N, F] to [N, D]."""
        inputs = x.like.shape[1] if isinstance(x, Sparse) else x.shape[1]
        w = hk.get_parameter("w", (inputs, self._size), init=GLOROT)
        if isinstance(x, Sparse):
            y = links.product(x.links, x.values, w, _num_rows(x.links))
            return y if x.order is None else y[x.order]
        return x.astype(w.dtype) @ w


def _num_rows(of: Links) -> int:
    """R of links that are laid out."""
    assert of.by_row is not None, "sparse features are linked beforehand"
    sums = of.by_row
    while sums.again is not None:
        sums = sums.again
    return sums.place.shape[0]


def shuffled(x: Values, order: jax.Array) -> Values:
    """What nodes hold, in another order [N]."""
    if not isinstance(x, Sparse):
        return jnp.asarray(x)[order]
    return x._replace(order=order if x.order is None else x.order[order])


def bias(size: int, name: str = "b") -> jax.Array:
    """A bias [1, D] that starts at 0."""
    return hk.get_parameter(name, (size,), init=jnp.zeros)[None]


def thinned(x: Values, share: float, keys: jax.Array | None, place: int) -> Values:
    """What dropout leaves.

    Args:
      x: [N, D], or sparse.
      share: that is dropped.
      keys: [1] or [N]; None for no dropout.
      place: another number wherever the same keys drop.
    """
    if keys is None or not share:
        return x
    if isinstance(x, Sparse):
        values = dropped(jnp.asarray(x.values)[None, None], share, keys[:1], place)
        return x._replace(values=values[0, 0])
    if keys.shape[0] == 1:
        return dropped(x[None], share, keys, place)[0]
    return dropped(x[:, None], share, keys, place)[:, 0]


def _others(graph: Graph) -> jax.Array:
    """Bool [E], which edges are real and lead from one node to another."""
    rows = jnp.asarray(graph.links.rows)
    return (rows != graph.links.columns) & (rows < graph.num_nodes)


def _of_nodes(noise: Noise | None) -> jax.Array | None:
    return None if noise is None else noise.nodes


# Layers: (graph, x [N, F]) to [N, D].


class GCN(hk.Module):
    """A graph convolution with symmetric normalization (Kipf and Welling 2017, equation 2).

    Args:
      size: D.
      name: of the module.
    """

    def __init__(self, size: int, name: str | None = None):
        super().__init__(name)
        self._size = size

    def __call__(self, graph: Graph, x: Values) -> jax.Array:
        count = graph.num_nodes
        others = _others(graph).astype(jnp.float32)
        root = jax.lax.rsqrt(1 + links.total(graph.links, others, count))  # [N]
        weights = others * links.at_rows(graph.links, root) * links.at_columns(graph.links, root)
        x = Project(self._size, name="project")(x)
        received = links.product(graph.links, weights, x, count)
        return received + jnp.square(root)[:, None] * x + bias(self._size)


class SAGE(hk.Module):
    """A node beside the mean of its neighbors (Hamilton et al. 2017), not scaled to length 1.

    Args:
      size: D.
      name: of the module.
    """

    def __init__(self, size: int, name: str | None = None):
        super().__init__(name)
        self._size = size

    def __call__(self, graph: Graph, x: Values) -> jax.Array:
        count = graph.num_nodes
        theirs = Project(self._size, name="neighbors")(x)
        own = Project(self._size, name="own")(x)
        ones = jnp.ones(graph.links.rows.shape, theirs.dtype)
        many = jnp.maximum(links.counts(graph.links, count), 1)
        mean = links.product(graph.links, ones, theirs, count) / many[:, None]
        return own + mean + bias(self._size)


class Alone(hk.Module):
    """A linear map of what a node holds, blind to its neighbors.

    Args:
      size: D.
      name: of the module.
    """

    def __init__(self, size: int, name: str | None = None):
        super().__init__(name)
        self._size = size

    def __call__(self, graph: Graph, x: Values) -> jax.Array:
        return Project(self._size, name="project")(x) + bias(self._size)


class GAT(hk.Module):
    """Attention over neighbors and the node itself (Velickovic et al. 2018; Brody et al. 2022).

    Args:
      size: of each head.
      heads: H.
      second: whether attention is that of Brody et al., which can rank neighbors anew for each
        node.
      name: of the module.
    """

    def __init__(self, size: int, heads: int, second: bool, name: str | None = None):
        super().__init__(name)
        self._size = size
        self._heads = heads
        self._second = second

    def __call__(
        self, graph: Graph, x: Values, share: float, noise: Noise | None, place: int
    ) -> tuple[jax.Array, jax.Array]:
        """[N, H, size], of attention of which `share` is dropped; and the attention [E, H]."""
        count = graph.num_nodes
        shape = (-1, self._heads, self._size)
        sent = Project(self._heads * self._size, name="send")(x).reshape(shape)
        own, others = self._logits(graph, x, sent)  # [N, H], [E, H]
        others = jnp.where(_others(graph)[:, None], others, -jnp.inf)
        top = jnp.maximum(jax.lax.stop_gradient(own), links.largest(graph.links, others, count))
        own = jnp.exp(own - top)
        others = jnp.exp(others - links.at_rows(graph.links, top))
        whole = own + links.total(graph.links, others, count)
        own = own / whole
        others = others / links.at_rows(graph.links, whole)
        attention = others
        if noise is not None:
            own = thinned(own, share, noise.nodes, place)
            others = thinned(others, share, noise.edges, place)
        x = links.product(graph.links, others, sent, count) + own[..., None] * sent
        return x, attention

    def _logits(self, graph: Graph, x: Values, sent: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Before the softmax: of each node to itself, of each edge."""
        shape = (self._heads, self._size)
        if self._second:
            received = Project(self._heads * self._size, name="receive")(x).reshape(sent.shape)
            u = hk.get_parameter("u", shape, init=GLOROT)
            met = links.at_rows(graph.links, received) + links.at_columns(graph.links, sent)
            return _scored(received + sent, u), _scored(met, u)
        u = hk.get_parameter("u", shape, init=GLOROT)
        v = hk.get_parameter("v", shape, init=GLOROT)
        wide = sent.astype(jnp.float32)
        to = jnp.sum(wide * u[None], axis=2)  # [N, H]
        fro = jnp.sum(wide * v[None], axis=2)
        met = links.at_rows(graph.links, to) + links.at_columns(graph.links, fro)
        return jax.nn.leaky_relu(to + fro, _SLOPE), jax.nn.leaky_relu(met, _SLOPE)


def _scored(x: jax.Array, u: jax.Array) -> jax.Array:
    return jnp.sum(u[None] * jax.nn.leaky_relu(x.astype(jnp.float32), _SLOPE), axis=-1)


class GIN(hk.Module):
    """Sums that tell multisets apart (Xu et al. 2019, equation 4.1), with batch normalization.

    Args:
      size: D.
      name: of the module.
    """

    def __init__(self, size: int, name: str | None = None):
        super().__init__(name)
        self._size = size

    def __call__(self, graph: Graph, x: Values, is_training: bool) -> jax.Array:
        count = graph.num_nodes
        epsilon = hk.get_parameter("epsilon", (), init=jnp.zeros)
        # The first linear map of the MLP comes before the sum: the order of the two is free.
        x = Project(self._size, name="project")(x)
        ones = jnp.ones(graph.links.rows.shape, x.dtype)
        x = (1 + epsilon) * x + links.product(graph.links, ones, x, count)
        x = jax.nn.relu(BatchNorm()(x, is_training, graph.counted))
        return hk.Linear(self._size, w_init=GLOROT, name="second")(x)


# Networks.


def _convolutional(
    settings: Settings, outputs: int, graph: Graph, noise: Noise | None, is_training: bool
) -> Levels:
    """gcn, sage and mlp: layers with ReLUs between them."""
    layer = {"gcn": GCN, "sage": SAGE, "mlp": Alone}[settings.network]
    levels = []
    x: Values = graph.nodes
    for i, size in enumerate(_sizes(settings, outputs)):
        if i:
            x = jax.nn.relu(x)
        x = thinned(x, settings.dropout, _of_nodes(noise), i)
        x = layer(size, name=f"layer{i}")(graph, x)
        levels.append(x)
    return Levels(levels)


def _sizes(settings: Settings, outputs: int) -> list[int]:
    return [settings.width] * (settings.layers - 1) + [outputs]


def _attentive(
    settings: Settings, outputs: int, graph: Graph, noise: Noise | None, is_training: bool
) -> Levels:
    """gat and gatv2: layers with ELUs between them; the last has one head."""
    levels = []
    x: Values = graph.nodes
    for i, size in enumerate(_sizes(settings, outputs)):
        heads = settings.heads if i < settings.layers - 1 else 1
        x = thinned(x, settings.dropout, _of_nodes(noise), 2 * i)
        layer = GAT(size, heads, settings.network == "gatv2", name=f"layer{i}")
        x, attention = layer(graph, x, settings.attention_dropout, noise, 2 * i + 1)
        x = x.reshape(x.shape[0], -1) + bias(heads * size, f"b{i}")
        if i < settings.layers - 1:
            x = jax.nn.elu(x)
        levels.append(x)
    return Levels(levels, attention)


def _isomorphism(
    settings: Settings, outputs: int, graph: Graph, noise: Noise | None, is_training: bool
) -> Levels:
    """gin: layers with batch normalization and ReLUs between them."""
    levels = []
    x: Values = graph.nodes
    for i, size in enumerate(_sizes(settings, outputs)):
        if i:
            x = jax.nn.relu(BatchNorm(name=f"norm{i}")(x, is_training, graph.counted))
        x = thinned(x, settings.dropout, _of_nodes(noise), i)
        x = GIN(size, name=f"layer{i}")(graph, x, is_training)
        levels.append(x)
    return Levels(levels)


def _with_edges(
    settings: Settings, outputs: int, graph: Graph, noise: Noise | None, is_training: bool
) -> Levels:
    """mpnn: matrices made of the edges' features, and a GRU, the same at each step.

    The sum counts a node's neighbors, as published. Without features of edges all have the same
    matrix.
    """
    width = settings.width
    count = graph.num_nodes
    x = thinned(graph.nodes, settings.dropout, _of_nodes(noise), 0)
    x = jax.nn.relu(Project(width, name="embed")(x) + bias(width))
    if graph.edges is None:
        shared = hk.get_parameter("matrix", (width, width), init=GLOROT)
    else:
        hidden = jax.nn.relu(hk.Linear(width, name="edges")(jnp.asarray(graph.edges, x.dtype)))
        matrices = hk.Linear(width * width, name="matrices")(hidden).reshape(-1, width, width)
    gru = hk.GRU(width)
    ones = jnp.ones(graph.links.rows.shape, x.dtype)
    levels = []
    for _ in range(settings.layers):
        if graph.edges is None:
            received = links.product(graph.links, ones, x @ shared, count)
        else:
            sent = links.at_columns(graph.links, x)  # [E, D]
            received = links.total(graph.links, jnp.einsum("edf,ed->ef", matrices, sent), count)
        x, _ = gru(received, x)
        levels.append(x)
    x = thinned(x, settings.dropout, _of_nodes(noise), 1)
    return Levels([*levels[:-1], hk.Linear(outputs, w_init=GLOROT, name="read")(x)])


def _recurrent(
    settings: Settings, outputs: int, graph: Graph, noise: Noise | None, is_training: bool
) -> Levels:
    """recurrent: states that every node's label and neighbors agree on (Scarselli et al. 2009).

    Their linear network: with s units of a state and n_j edges that leave j, the matrix of an edge
    from j to i is m / (s n_j) tanh(an MLP of both labels), whose columns, summed over all edges of
    j, are at most m in length (equations 12 and 13): a step is a contraction by m in the 1-norm.
    """
    width = settings.width
    labels = thinned(graph.nodes, settings.dropout, _of_nodes(noise), 0)
    to = Project(width, name="receiver")(labels)
    fro = Project(width, name="sender")(labels)
    met = links.at_rows(graph.links, to) + links.at_columns(graph.links, fro) + bias(width)
    # Where labels are small, as those of a single node each, their MLP would begin near zero, and
    # with it all that nodes hear of each other.
    passed = hk.Linear(width * width, b_init=hk.initializers.RandomNormal(1.0), name="matrices")(
        jnp.tanh(met)
    )
    matrices = jnp.tanh(passed)
    leaving = links.counts(links.turned(graph.links), graph.num_nodes)
    scale = settings.recurrent_contraction / (
        width * jnp.maximum(links.at_columns(graph.links, leaving), 1)
    )
    transfer = matrices.reshape(-1, width, width) * scale[:, None, None]  # [E, s, s]
    forcing = jnp.tanh(Project(width, name="label")(labels) + bias(width, "forcing"))
    if settings.recurrent_steps:
        x = forcing
        for _ in range(settings.recurrent_steps):
            x = transition(graph.links, transfer, forcing, x)
    else:
        x = settled(graph.links, transfer, forcing)
    x = hk.Linear(width, w_init=GLOROT, name="hidden")(x)
    x = jnp.tanh(x + Project(width, name="skip")(labels))
    x = thinned(x, settings.dropout, _of_nodes(noise), 1)
    return Levels([hk.Linear(outputs, w_init=GLOROT, name="read")(x)])


_NETWORKS = {
    "gcn": _convolutional,
    "sage": _convolutional,
    "gat": _attentive,
    "gatv2": _attentive,
    "gin": _isomorphism,
    "mpnn": _with_edges,
    "recurrent": _recurrent,
    "mlp": _convolutional,
}


def transition(of: Links, transfer: jax.Array, forcing: jax.Array, x: jax.Array) -> jax.Array:
    """One step of the recurrent network: sum_j A_ij x_j + b_i.

    Args:
      of: the edges.
      transfer: their matrices A, [E, s, s], the first axis of each the receiver's.
      forcing: b, [N, s].
      x: the states, [N, s].
    """
    sent = jnp.einsum("est,et->es", transfer, links.at_columns(of, x))
    return links.total(of, sent, x.shape[0]) + forcing


@jax.custom_vjp
def settled(of: Links, transfer: jax.Array, forcing: jax.Array) -> jax.Array:
    """The states [N, s] that a step leaves as they are.

    The gradient is that of the implicit function theorem: with J the derivative of a step, a
    gradient g to the fixed point becomes z = J' z + g, itself a fixed point, to what the step is
    made of (Almeida 1987; Pineda 1987; Scarselli et al. 2009, equation 9). Its memory does not grow
    with the steps.
    """
    return _iterated(lambda x: transition(of, transfer, forcing, x), forcing)


def _iterated(step: Callable[[jax.Array], jax.Array], start: jax.Array) -> jax.Array:
    """Steps until nothing changes by more than a tolerance.

    It is relative: gradients have any scale, that of a mean over many nodes a very small one.
    """

    def unfinished(carried):
        x, before, count = carried
        largest = jnp.max(jnp.abs(x), initial=0.0)
        moves = jnp.max(jnp.abs(x - before), initial=0.0) > _SETTLED * largest
        return moves & (count < _MOST_STEPS)

    def again(carried):
        x, _, count = carried
        return step(x), x, count + 1

    return jax.lax.while_loop(unfinished, again, (step(start), start, 1))[0]


def _settled_forward(of, transfer, forcing):
    x = settled(of, transfer, forcing)
    return x, (of, transfer, forcing, x)


def _settled_back(kept, g):
    of, transfer, forcing, x = kept
    _, to_states = jax.vjp(lambda x: transition(of, transfer, forcing, x), x)
    z = _iterated(lambda z: to_states(z)[0] + g, g)
    _, to_parts = jax.vjp(lambda a, b: transition(of, a, b, x), transfer, forcing)
    return None, *to_parts(z)


settled.defvjp(_settled_forward, _settled_back)


# Pooling.

Pooling = Literal["sum", "mean", "max", "attention"]


class Pool(hk.Module):
    """What nodes hold, for each graph.

    Args:
      how: sum, mean or largest over its nodes, or a mean weighted by a softmax of a linear map of
        them (Li et al. 2016, equation 7).
      name: of the module.
    """

    def __init__(self, how: Pooling, name: str | None = None):
        super().__init__(name)
        self._how = how

    def __call__(self, graph: Graph, x: jax.Array) -> jax.Array:
        """[N, D] to [G, D]; zeros for a graph without nodes."""
        many = graph.real.shape[0]
        members = Links(graph.graph_of, jnp.arange(graph.num_nodes))
        if self._how == "max":
            x = jax.ops.segment_max(x, graph.graph_of, many)
            return jnp.where(jnp.isfinite(x), x, 0)
        if self._how == "attention":
            gate = jnp.where(graph.counted, hk.Linear(1, name="gate")(x)[:, 0], -jnp.inf)
            top = links.largest(members, gate, many)
            top = jnp.where(jnp.isfinite(top), top, 0)  # of graphs without nodes
            gate = jnp.exp(gate - links.at_rows(members, top))
            gate /= jnp.maximum(links.at_rows(members, links.total(members, gate, many)), 1e-30)
            return links.total(members, gate[:, None] * x, many)
        pooled = links.total(members, x, many)
        if self._how == "mean":
            pooled /= jnp.maximum(links.counts(members, many), 1)[:, None]
        return pooled
