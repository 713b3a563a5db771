"""Links to predict: some are hidden, and those that are not there are drawn.

Of a graph's links, each both ways, a tenth is to test on and a twentieth to validate (Kipf and
Welling 2016); over neither do messages pass. As many pairs that are no links stand beside. Shapes:
L links, each once.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from missing_bits.data.graphs import GraphSet, simple
from missing_bits.errors import require

_TESTED = 0.1
_VALIDATED = 0.05
_MOST_NODES = 46_340  # pairs of nodes are numbers of 31 bits


class Pairs(NamedTuple):
    """Pairs of nodes and whether they are links."""

    ends: np.ndarray  # int32 [P, 2]
    linked: np.ndarray  # bool [P]


class LinkSet(NamedTuple):
    """A graph without the links that are to be predicted."""

    known: GraphSet
    """The graph over which messages pass."""
    train: np.ndarray
    """Its links, int32 [L, 2]."""
    codes: np.ndarray
    """Int32 [2 L], sorted: receiver times N plus sender of each of its edges."""
    validation: Pairs
    test: Pairs


def hide(found: GraphSet, fold: int) -> LinkSet:
    """Hides links of a graph.

    Args:
      found: one graph; its links count both ways, and once.
      fold: which random ones.

    Raises:
      UserError: it has too few links, or too many nodes.
    """
    count = found.num_nodes
    require(
        found.num_graphs == 1,
        f"Links are predicted in one graph, and there are {found.num_graphs:,}. Leave out --links, "
        "or give one graph.",
    )
    require(
        count <= _MOST_NODES,
        f"Links are predicted among at most {_MOST_NODES:,} nodes; the graph has {count:,}.",
    )
    senders, receivers = simple(found.senders, found.receivers, count)
    once = senders < receivers
    links = np.stack([senders[once], receivers[once]], axis=1)
    tested = round(_TESTED * len(links))
    validated = round(_VALIDATED * len(links))
    require(
        validated > 0,
        f"The graph has {len(links)} links, too few to hide a twentieth to validate; --links takes "
        "a graph of 11 or more.",
    )
    pairs = count * (count - 1) // 2
    require(
        pairs >= 2 * len(links), "More than half of all pairs are links: none can be drawn beside."
    )
    draw = np.random.default_rng((3, fold))
    links = links[draw.permutation(len(links))].astype(np.int32)
    absent = _absent(links, count, tested + validated, draw)
    train = links[tested + validated :]
    senders, receivers = simple(train[:, 0], train[:, 1], count)
    known = found._replace(
        senders=senders.astype(np.int32), receivers=receivers.astype(np.int32), edges=None
    )
    return LinkSet(
        known,
        train,
        np.sort(receivers * count + senders).astype(np.int32),
        _pairs(links[tested : tested + validated], absent[tested:]),
        _pairs(links[:tested], absent[:tested]),
    )


def _pairs(links: np.ndarray, absent: np.ndarray) -> Pairs:
    linked = np.arange(len(links) + len(absent)) < len(links)
    return Pairs(np.concatenate([links, absent]), linked)


def _absent(links: np.ndarray, count: int, many: int, draw: np.random.Generator) -> np.ndarray:
    """Different pairs [many, 2] that are no links, the smaller number first."""
    taken = set(map(tuple, links.tolist()))
    found = []
    while len(found) < many:
        pair = tuple(sorted(draw.integers(0, count, 2).tolist()))
        if pair[0] != pair[1] and pair not in taken:
            taken.add(pair)
            found.append(pair)
    return np.array(found, np.int32)


class Drawn(NamedTuple):
    """Pairs that were drawn."""

    ends: jax.Array  # int32 [P, 2]
    absent: jax.Array  # bool [P], which are no links and no single nodes


def draw_absent(codes: np.ndarray, count: int, many: int, key: jax.Array) -> Drawn:
    """Random pairs of nodes, of which some may be links that messages pass over.

    Hidden links count as absent here, as nothing is known of them.

    Args:
      codes: of `LinkSet`.
      count: N.
      many: P.
      key: a random key.
    """
    ends = jax.random.randint(key, (many, 2), 0, count)
    code = ends[:, 1] * count + ends[:, 0]
    known = jnp.asarray(codes)
    at = jnp.minimum(jnp.searchsorted(known, code), len(codes) - 1)
    return Drawn(ends, (known[at] != code) & (ends[:, 0] != ends[:, 1]))
