"""Batches of graphs, packed side by side within the program into arrays of one size.

All graphs lie on the device; a batch is the numbers of some. A batch has room for as many nodes and
edges as B graphs have but in the rarest case: the mean and six deviations of their sum, at least
the largest graph, at most the B largest ones together. A graph that finds no room is left out of
its batch, which `kept` tells. Shapes: N nodes and E edges of all graphs, B graphs of a batch.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from missing_bits.data.graphs import GraphSet, dense, graph_set
from missing_bits.nets.graphs import Graph, Noise
from missing_bits.nets.links import Links


class Store(NamedTuple):
    """All graphs, one after the other."""

    nodes: np.ndarray  # float32 [N, F]
    receivers: np.ndarray  # int32 [E]
    senders: np.ndarray  # int32 [E]
    edges: np.ndarray | None  # float32 [E, K]
    first_node: np.ndarray  # int32 [graphs + 1]
    first_edge: np.ndarray  # int32 [graphs + 1]
    labels: np.ndarray  # int32 [graphs]


class Room(NamedTuple):
    """For a batch."""

    nodes: int
    edges: int


class Packed(NamedTuple):
    """A batch."""

    graph: Graph
    kept: jax.Array  # bool [B]
    noise: Noise


def store(found: GraphSet) -> Store:
    """The graphs of a set, edges in their graphs' order."""
    order = np.argsort(found.receivers, kind="stable")
    count = found.num_graphs
    owners = found.graph_of[found.receivers[order]]
    return Store(
        dense(found.nodes),
        found.receivers[order],
        found.senders[order],
        None if found.edges is None else found.edges[order],
        np.searchsorted(found.graph_of, np.arange(count + 1)).astype(np.int32),
        np.searchsorted(owners, np.arange(count + 1)).astype(np.int32),
        found.labels,
    )


def room(of: Store, graphs: np.ndarray, batch_size: int) -> Room:
    """Room for so many of some graphs."""
    return Room(
        *(_room(np.diff(first)[graphs], batch_size) for first in (of.first_node, of.first_edge))
    )


def _room(sizes: np.ndarray, batch_size: int) -> int:
    largest = np.sort(sizes)[::-1]
    usual = sizes.mean() * batch_size + 6 * sizes.std() * batch_size**0.5
    # As often as there are fewer graphs than a batch has places, each may come again.
    together = np.resize(largest, batch_size).sum()
    return max(1, int(min(together, max(largest[0], np.ceil(usual)))))


class _Places(NamedTuple):
    """What stands in each of the places of a batch."""

    owner: jax.Array  # int32, a number in the batch; B for nothing
    local: jax.Array  # int32, a number within the owner
    source: jax.Array  # int32, a number among all
    ends: jax.Array  # int32 [B], where each owner's places end


def _places(first: jax.Array, chosen: jax.Array, size: int) -> _Places:
    sizes = first[chosen + 1] - first[chosen]
    ends = jnp.cumsum(sizes)
    place = jnp.arange(size)
    owner = jnp.searchsorted(ends, place, side="right")
    inside = jnp.minimum(owner, len(chosen) - 1)
    local = place - (ends - sizes)[inside]
    return _Places(owner, local, first[chosen][inside] + local, ends)


def pack(of: Store, chosen: jax.Array, size: Room, keys: jax.Array) -> Packed:
    """Graphs side by side.

    Args:
      of: all graphs.
      chosen: int32 [B], numbers of graphs.
      size: of the arrays.
      keys: random keys [B], of which each graph's noise is made.
    """
    first = jnp.asarray(of.first_node)
    many = chosen.shape[0]
    nodes = _places(first, chosen, size.nodes)
    edges = _places(jnp.asarray(of.first_edge), chosen, size.edges)
    kept = (nodes.ends <= size.nodes) & (edges.ends <= size.edges)
    still = jnp.append(kept, False)
    graph_of = jnp.where(still[nodes.owner], nodes.owner, many)
    real = still[edges.owner]
    inside = jnp.minimum(edges.owner, many - 1)
    # From a number among all nodes to one in the batch.
    shift = nodes.ends[inside] - first[chosen + 1][inside]
    source = jnp.minimum(edges.source, len(of.receivers) - 1)
    taken = jnp.asarray(of.nodes)[jnp.minimum(nodes.source, len(of.nodes) - 1)]
    graph = Graph(
        jnp.where((graph_of < many)[:, None], taken, 0),
        Links(
            jnp.where(real, jnp.asarray(of.receivers)[source] + shift, size.nodes),
            jnp.where(real, jnp.asarray(of.senders)[source] + shift, size.nodes),
        ),
        None if of.edges is None else jnp.asarray(of.edges)[source],
        graph_of,
        kept,
    )
    return Packed(graph, kept, Noise(_keys(keys, nodes, 0), _keys(keys, edges, 1)))


def _keys(keys: jax.Array, places: _Places, what: int) -> jax.Array:
    """A key for each place, which depends on its owner's key and its number within it alone."""
    inside = jnp.minimum(places.owner, keys.shape[0] - 1)

    def key(owner: jax.Array, local: jax.Array) -> jax.Array:
        return jax.random.fold_in(owner, 2 * local + what)

    return jax.vmap(key)(keys[inside], places.local)


def subset(found: GraphSet, graphs: np.ndarray) -> GraphSet:
    """Some graphs of a set as a set of their own, in which all are to test on."""
    new = np.full(found.num_graphs, -1)
    new[graphs] = np.arange(len(graphs))
    order = np.argsort(new[found.graph_of], kind="stable")
    order = order[new[found.graph_of[order]] >= 0]
    place = np.full(found.num_nodes, -1)
    place[order] = np.arange(len(order))
    inside = place[found.receivers] >= 0
    return graph_set(
        found.nodes[order],
        place[found.senders[inside]],
        place[found.receivers[inside]],
        graph_of=new[found.graph_of[order]],
        labels=found.labels[graphs],
        classes=found.classes,
        train=np.zeros(0, int),
        validation=np.zeros(0, int),
        test=np.arange(len(graphs)),
        edges=None if found.edges is None else found.edges[inside],
        where="a part of the graphs",
    )


def sums(found: GraphSet) -> GraphSet:
    """Every graph as a single node that holds the sum of its nodes' features, without links.

    What is left says nothing of structure: the baseline of Errica et al. 2020 for molecules, which
    an MLP (`--network=mlp`) classifies. Splits stay as they are.

    Args:
      found: graphs that have classes.
    """
    held = np.zeros((found.num_graphs, found.nodes.shape[1]), np.float32)
    np.add.at(held, found.graph_of, dense(found.nodes))
    nothing = np.zeros(0, np.int32)
    return found._replace(
        nodes=held,
        senders=nothing,
        receivers=nothing,
        edges=None,
        graph_of=np.zeros(found.num_graphs, np.int32),
        per_graph=False,
    )
