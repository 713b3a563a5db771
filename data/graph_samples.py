"""Sampled neighborhoods: trees around a few nodes of a large graph, drawn within the program.

A root has some of its neighbors below it, each of these some of its own, and so on, as many levels
as a network has layers (Hamilton et al. 2017, section 3.1). A network that runs on the tree holds
at its root what it would hold there in the graph, if no node has more neighbors than are drawn;
where one has, its mean over neighbors becomes that over a uniform sample of them. Unlike theirs, a
sample has no neighbor twice, a node with few neighbors has all of them, and all layers of a network
see the same sample. A tree's arrays always have the same size: places that stay empty are padding.
Shapes: N nodes and E edges of the graph, B roots, T places of a tree, S neighbors that are drawn.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from missing_bits.data.graphs import GraphSet, dense
from missing_bits.errors import require
from missing_bits.nets.graphs import Graph, Noise
from missing_bits.nets.links import Links

_MOST_FEATURES = 2**28  # numbers, 1 GiB
_MOST_PLACES = 100_000  # of a tree


class Neighbors(NamedTuple):
    """A graph to draw from."""

    nodes: np.ndarray  # float32 [N, F]
    senders: np.ndarray  # int32 [E], those of a receiver together
    first: np.ndarray  # int32 [N + 1], where those of each receiver begin


class Sample(NamedTuple):
    """Trees around roots, tree by tree."""

    graph: Graph
    """Of B T nodes and B (T - 1) edges; the roots are nodes 0, T, 2 T and so on."""
    noise: Noise
    number: jax.Array
    """Int32 [B T], the node of the whole graph that stands in each place; -1 for padding."""


def neighbors(found: GraphSet, loops: bool) -> Neighbors:
    """A graph to draw from.

    Args:
      found: one graph.
      loops: whether a node that leads to itself counts as its own neighbor.

    Raises:
      UserError: its features are too many to be held as an array, or no neighbor is left.
    """
    count, features = found.nodes.shape
    require(
        count * features <= _MOST_FEATURES,
        f"--fanout holds features as an array, of at most {_MOST_FEATURES:,} numbers; {count:,} "
        f"nodes with {features:,} features are more. Give --node-features of fewer columns.",
    )
    kept = np.flatnonzero((found.senders != found.receivers) | loops)
    require(len(kept) > 0, "--fanout: all edges lead from a node to itself; there is none to draw.")
    order = kept[np.argsort(found.receivers[kept], kind="stable")]
    first = np.searchsorted(found.receivers[order], np.arange(count + 1))
    return Neighbors(dense(found.nodes), found.senders[order], first.astype(np.int32))


def places(fanout: Sequence[int]) -> int:
    """T, the places of a tree whose levels have so many neighbors of each node.

    Raises:
      UserError: they are too many.
    """
    count = 1 + sum(math.prod(fanout[: depth + 1]) for depth in range(len(fanout)))
    require(
        count <= _MOST_PLACES,
        f"--fanout {' '.join(map(str, fanout))} makes trees of {count:,} nodes; at most "
        f"{_MOST_PLACES:,} are drawn for each node of a batch.",
    )
    return count


def subset(sizes: jax.Array, many: int, key: jax.Array) -> jax.Array:
    """Different numbers below a size, every subset alike (Floyd's method; Bentley 1987).

    Args:
      sizes: int32 [n].
      many: S.
      key: a random key.

    Returns:
      Int32 [n, S]: for a size of at most S all numbers below it, then -1.
    """
    step = jnp.arange(many)
    last = jnp.maximum(sizes - many, 0)[:, None] + step[None]  # [n, S]
    drawn = jax.random.randint(key, last.shape, 0, last + 1)

    def choose(i: jax.Array, chosen: jax.Array) -> jax.Array:
        taken = jnp.any(chosen == drawn[:, i, None], axis=1)
        return chosen.at[:, i].set(jnp.where(taken, last[:, i], drawn[:, i]))

    chosen = jax.lax.fori_loop(0, many, choose, jnp.full_like(drawn, -1))
    everyone = jnp.where(step[None] < sizes[:, None], step[None], -1)
    return jnp.where(sizes[:, None] <= many, everyone, chosen)


def draw(of: Neighbors, roots: jax.Array, fanout: Sequence[int], keys: jax.Array) -> Sample:
    """Trees around some nodes.

    Args:
      of: the graph.
      roots: int32 [B], numbers of nodes.
      fanout: S of each level, from the roots on.
      keys: random keys [B], on which alone each tree and its noise depend.
    """
    count = places(fanout)
    many = roots.shape[0]
    senders = jnp.asarray(of.senders)
    first = jnp.asarray(of.first)

    def tree(root: jax.Array, key: jax.Array) -> jax.Array:
        level = root[None]
        levels = [level]
        for depth, size in enumerate(fanout):
            start = first[jnp.maximum(level, 0)]
            degree = jnp.where(level < 0, 0, first[level + 1] - start)
            chosen = subset(degree, size, jax.random.fold_in(key, depth))
            at = jnp.minimum(start[:, None] + chosen, len(of.senders) - 1)
            level = jnp.where(chosen < 0, -1, senders[at]).ravel()
            levels.append(level)
        return jnp.concatenate(levels)  # [T]

    def noises(key: jax.Array) -> Noise:
        place = jnp.arange(count)
        one = jax.vmap(jax.random.fold_in, (None, 0))
        return Noise(one(key, 2 * place), one(key, 2 * place[1:] + 1))

    split = jax.vmap(jax.random.split)(keys)  # [B, 2]
    number = jax.vmap(tree)(roots, split[:, 0])  # [B, T]
    noise = jax.tree.map(lambda x: x.reshape(-1), jax.vmap(noises)(split[:, 1]))
    there = number >= 0
    base = count * jnp.arange(many)[:, None]
    nowhere = many * count
    graph = Graph(
        jnp.where(there[..., None], jnp.asarray(of.nodes)[number], 0).reshape(nowhere, -1),
        Links(
            jnp.where(there[:, 1:], base + _parents(fanout)[None], nowhere).ravel(),
            jnp.where(there[:, 1:], base + jnp.arange(1, count)[None], nowhere).ravel(),
        ),
        None,
        jnp.where(there, jnp.arange(many)[:, None], many).ravel(),
        np.ones(many, bool),
    )
    return Sample(graph, noise, number.ravel())


def _parents(fanout: Sequence[int]) -> np.ndarray:
    """The place above each but the first, int [T - 1]."""
    level = np.zeros(1, int)
    found = []
    for size in fanout:
        above = np.repeat(level, size)
        found.append(above)
        level = level[-1] + 1 + np.arange(len(above))
    return np.concatenate(found)
