"""Graphs that are drawn, with known answers, and the karate club."""

import numpy as np
import scipy.sparse

from missing_bits.data.graphs import GraphSet, graph_set, simple
from missing_bits.errors import require

_TOLD = 20  # nodes of each block whose class is told, as in Cora's public split
CHAIN = 9  # nodes
_SHOWN = 0.05  # of a small block, at least


def blocks(count: int, many: int, degree: float, signal: float, fold: int = 0) -> GraphSet:
    """A stochastic block model: which of `many` equal blocks is a node in?

    Nodes of one block are linked with probability a / N, others with b / N. With k blocks and the
    mean degree c = (a + (k - 1) b) / k, the signal is (a - b)^2 / (k^2 c): above 1 blocks can be
    found from the links alone, below it no fast method does better than guessing (Decelle et al.
    2011), but for what the nodes that are told say of those near them. A node has a feature of its
    own, which says nothing of its block.

    Args:
      count: N.
      many: k.
      degree: c.
      signal: above.
      fold: which graph is drawn.

    Raises:
      UserError: no such graph exists.
    """
    apart = many * np.sqrt(signal * degree)  # a - b
    across = degree - apart / many  # b
    within = across + apart  # a
    require(
        across >= 0,
        f"--made-signal is {signal:g}; with a mean degree of {degree:g} it is at most "
        f"{degree:g}: more leaves no links between blocks.",
    )
    require(
        within <= count,
        f"--made-degree is {degree:g}, which takes {within:,.0f} links of a node within blocks, "
        f"and there are {count:,} nodes; give a lower one, a lower --made-signal, or more "
        "--made-nodes.",
    )
    draw = np.random.default_rng((count, many, fold))
    block = np.sort(np.arange(count) % many)
    first, second = np.triu_indices(count, 1)
    chance = np.where(block[first] == block[second], within, across) / count
    linked = draw.random(len(first)) < chance
    order = draw.permutation(count)
    told = max(2, min(_TOLD, round(_SHOWN * count / many)))
    train = np.concatenate([order[block[order] == one][:told] for one in range(many)])
    rest = order[~np.isin(order, train)]
    held_out = len(rest) // 3
    return graph_set(
        scipy.sparse.identity(count, np.float32, "csr"),
        *simple(first[linked], second[linked], count),
        labels=block,
        classes=[f"block {one}" for one in range(many)],
        train=np.sort(train),
        validation=np.sort(rest[:held_out]),
        test=np.sort(rest[held_out:]),
        where=f"blocks with a mean degree of {degree:g}",
    )


def cycles(count: int, noise: int = 0) -> GraphSet:
    """Is a graph one cycle of six nodes, or two triangles? Every node has two neighbors.

    Message passing cannot tell: nodes of both are alike at every step (Xu et al. 2019). Random
    features, which tell nodes from each other, make it possible (Sato et al. 2021).

    Args:
      count: G, graphs, of which every other one is a cycle.
      noise: random features of each node, beside one that is always 1.
    """
    draw = np.random.default_rng(count)
    around = (np.arange(6) + 1) % 6
    triangles = np.array([1, 2, 0, 4, 5, 3])
    first = (np.arange(count)[:, None] * 6 + np.arange(6)).ravel()
    second = np.concatenate([6 * one + (triangles if one % 2 else around) for one in range(count)])
    nodes = np.concatenate([np.ones((6 * count, 1)), draw.normal(size=(6 * count, noise))], axis=1)
    order = np.arange(count)
    return graph_set(
        nodes.astype(np.float32),
        *simple(first, second, 6 * count),
        graph_of=np.repeat(order, 6),
        labels=order % 2,
        classes=("a cycle of six", "two triangles"),
        train=order[: 6 * count // 10],
        validation=order[6 * count // 10 : 8 * count // 10],
        test=order[8 * count // 10 :],
        where="cycles",
    )


def chains(count: int, directed: bool = False) -> GraphSet:
    """Chains of nine nodes, of which the first one alone says the class of all (Gu et al. 2020).

    A node that is h links away can know its class only from what has come h links far. All nodes
    but the first hold zeros; the chains of a class are alike. Node i is number i modulo 9 of its
    chain. Of five chains, three are to learn from, one to validate, one to test on.

    Args:
      count: N, at least 45; what is left over nine is left out.
      directed: whether messages go onward alone, not both ways.

    Raises:
      UserError: there are too few nodes.
    """
    many = count // CHAIN
    require(
        many >= 5,
        f"--made-nodes is {count}; chains of {CHAIN} nodes take at least {5 * CHAIN}.",
    )
    number = np.arange(many * CHAIN)
    labels = number // CHAIN % 2
    starts = number[::CHAIN]
    nodes = np.zeros((len(number), 2), np.float32)
    nodes[starts, labels[starts]] = 1
    first = number[number % CHAIN < CHAIN - 1]
    ends = (first, first + 1) if directed else simple(first, first + 1, len(number))
    trained = 3 * many // 5 * CHAIN
    validated = 4 * many // 5 * CHAIN
    return graph_set(
        nodes,
        *ends,
        labels=labels,
        classes=("the one", "the other"),
        train=number[:trained],
        validation=number[trained:validated],
        test=number[validated:],
        where="chains",
    )


def karate() -> GraphSet:
    """The karate club of Zachary 1977: whom its 34 members met, and whose side they took.

    The sides of the two leaders are told. A picture, not a benchmark.
    """
    rows = [row.split() for row in _CLUB.strip().splitlines()]
    pairs = [(int(row[0]), int(other)) for row in rows for other in row[1:]]
    senders, receivers = np.array(pairs).T
    count = 34
    labels = np.ones(count, np.int32)
    labels[_OF_MR_HI] = 0
    others = np.array([one for one in range(count) if one not in (0, 33)])
    return graph_set(
        scipy.sparse.identity(count, np.float32, "csr"),
        *simple(senders, receivers, count),
        labels=labels,
        classes=("Mr. Hi", "the officers"),
        train=np.array([0, 33]),
        validation=others[::4],
        test=np.delete(others, np.s_[::4]),
        where="karate",
    )


_OF_MR_HI = [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 16, 17, 19, 21]
# A member, and those with higher numbers that they met.
_CLUB = """
0 1 2 3 4 5 6 7 8 10 11 12 13 17 19 21 31
1 2 3 7 13 17 19 21 30
2 3 7 8 9 13 27 28 32
3 7 12 13
4 6 10
5 6 10 16
6 16
8 30 32 33
9 33
13 33
14 32 33
15 32 33
18 32 33
19 33
20 32 33
22 32 33
23 25 27 29 32 33
24 25 27 31
25 31
26 29 33
27 33
28 31 33
29 32 33
30 32 33
31 32 33
32 33
"""
