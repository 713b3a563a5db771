"""Graphs to learn from: what a set of them is, how they are split, and the option `--data`.

Shapes: N nodes of all graphs together, E edges (a link that leads both ways is two), G graphs, F
features of a node, K of an edge.
"""

import difflib
import hashlib
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.sparse

from missing_bits.data import files
from missing_bits.errors import require, require_between, require_positive
from missing_bits.nets import graphs as nets
from missing_bits.nets import links

FOLDS = 10
_HELD_OUT = 0.1  # of what is not to test on: to validate (Errica et al. 2020)
_KNOWN = (
    "blocks",
    "cycles",
    "chains",
    "karate",
    "superpixels",
    "planetoid:cora",
    "planetoid:citeseer",
    "tu:MUTAG",
    "tu:PROTEINS",
    "edges:PATH",
    "graphml:PATH",
)
_IN_FILES = ("planetoid", "tu")  # what --data-dir is for


class GraphSet(NamedTuple):
    """One graph whose nodes have classes, or many graphs that have."""

    nodes: np.ndarray | scipy.sparse.csr_matrix  # float32 [N, F]
    senders: np.ndarray  # int32 [E]
    receivers: np.ndarray  # int32 [E]
    edges: np.ndarray | None  # float32 [E, K]
    graph_of: np.ndarray  # int32 [N], rising
    labels: np.ndarray  # int32 [N], or [G] of graphs; -1 where there is none
    classes: tuple[str, ...]
    train: np.ndarray  # int32: nodes, or graphs, whose labels are learned from
    validation: np.ndarray
    test: np.ndarray
    per_graph: bool
    """Whether graphs have classes, not nodes."""
    digest: str
    """SHA-256 of all of it."""

    @property
    def num_nodes(self) -> int:
        """N."""
        return self.nodes.shape[0]

    @property
    def num_graphs(self) -> int:
        """G."""
        return int(self.graph_of[-1]) + 1


class Parts(NamedTuple):
    """Numbers of nodes or graphs for each purpose."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


@dataclass(frozen=True)
class Data:
    """Which graphs to learn from."""

    data: str = "blocks"
    """Graphs: blocks (a block model), cycles (6-cycles or two triangles), chains (whose first node
    tells the class of all), karate, superpixels (of digits), planetoid:cora, planetoid:citeseer,
    tu:MUTAG, tu:PROTEINS, edges:PATH (a CSV of columns source and target), graphml:PATH."""
    data_dir: str = ""
    """Where the files of planetoid or tu lie; empty for the cache or a download."""
    fold: int = 0
    """Which of ten folds of tu's graphs to test on; elsewhere, which random split of links or of a
    user's nodes."""
    node_features: str = ""
    """Of edges:PATH: a CSV of columns node and numbers; empty for a feature of its own for each
    node."""
    node_labels: str = ""
    """Of edges:PATH: a CSV of columns node and label."""
    node_splits: str = ""
    """Of edges:PATH: a CSV of columns node and split: train, validation or test; empty for a random
    split."""
    directed: bool = False
    """Whether messages of a user's graph go from source to target alone, not both ways; of chains,
    whether they go onward alone."""
    made_nodes: int = 1_000
    """Nodes of a block model or of all chains; graphs, of cycles."""
    made_blocks: int = 2
    """Blocks of a block model, which are the classes."""
    made_degree: float = 10.0
    """Mean number of neighbors in a block model."""
    made_signal: float = 4.0
    """Signal of a block model: above 1 its blocks can be detected (Decelle et al. 2011)."""
    made_noise: int = 0
    """Random features for each node of cycles, by which nodes can tell each other apart."""

    def check(self, prefix: str) -> None:
        """Raises `UserError` for graphs that do not exist, or options that do not fit them."""
        name, _ = self._name_and_path(prefix)
        require(
            not self.data_dir or name in _IN_FILES,
            f"--{prefix}data-dir={self.data_dir} is for {', '.join(_IN_FILES)}, not for "
            f"{self.data}.",
        )
        require_between(self, 0, FOLDS - 1, "fold", prefix=prefix)
        require_positive(self, "made_degree", prefix=prefix)
        require_between(self, 20, 5_000, "made_nodes", prefix=prefix)
        require_between(self, 2, 100, "made_blocks", prefix=prefix)
        require_between(self, 0, 100, "made_noise", "made_signal", prefix=prefix)
        require(
            self.made_nodes >= 10 * self.made_blocks,
            f"--{prefix}made-nodes is {self.made_nodes}; give at least 10 for each block.",
        )
        for option in ("node_features", "node_labels", "node_splits"):
            value = getattr(self, option)
            require(
                not value or name == "edges",
                f"--{prefix}{option.replace('_', '-')}={value} is for edges:PATH, not for "
                f"{self.data}.",
            )
        require(
            not self.directed or name in ("edges", "graphml", "chains"),
            f"--{prefix}directed is for edges:PATH, graphml:PATH and chains, not for {self.data}.",
        )

    def load(self) -> GraphSet:
        """The graphs.

        Raises:
          UserError: as `check` does, or they cannot be read.
        """
        self.check("")
        name, path = self._name_and_path("")
        # Only what is asked for is imported.
        if name in _IN_FILES:
            module = importlib.import_module(f"missing_bits.data.{name}")
            if name == "tu":
                return module.load(path, self.data_dir, self.fold)
            return module.load(path, self.data_dir)
        if name == "edges":
            from missing_bits.data import graph_files

            tables = (self.node_features, self.node_labels, self.node_splits)
            return graph_files.read_edges(
                files.at(path), *(files.at(table) if table else None for table in tables),
                self.directed, self.fold,
            )  # fmt: skip
        if name == "graphml":
            from missing_bits.data import graph_files

            return graph_files.read_graphml(files.at(path), self.directed, self.fold)
        from missing_bits.data import made_graphs

        if name == "blocks":
            return made_graphs.blocks(
                self.made_nodes, self.made_blocks, self.made_degree, self.made_signal, self.fold
            )
        if name == "cycles":
            return made_graphs.cycles(self.made_nodes, self.made_noise)
        if name == "chains":
            return made_graphs.chains(self.made_nodes, self.directed)
        if name == "karate":
            return made_graphs.karate()
        from missing_bits.data import superpixels

        return superpixels.load()

    def _name_and_path(self, prefix: str) -> tuple[str, str]:
        """Takes `--data` apart."""
        name, _, path = self.data.partition(":")
        forms = [form for form in _KNOWN if form.partition(":")[0] == name]
        is_file = bool(path) and f"{name}:PATH" in _KNOWN
        if self.data not in _KNOWN or path == "PATH":
            close = difflib.get_close_matches(self.data, forms or _KNOWN, n=1, cutoff=0.0)[0]
            require(
                is_file and path != "PATH",
                f"--{prefix}data={self.data} names no graphs. Did you mean {close}? It may be "
                f"{', '.join(_KNOWN)}.",
            )
        return name, path


def graph_set(
    nodes: np.ndarray | scipy.sparse.csr_matrix,
    senders: np.ndarray,
    receivers: np.ndarray,
    *,
    labels: np.ndarray,
    classes: Sequence[str],
    train: np.ndarray,
    validation: np.ndarray,
    test: np.ndarray,
    where: str,
    edges: np.ndarray | None = None,
    graph_of: np.ndarray | None = None,
) -> GraphSet:
    """Graphs, held to what a set of them is.

    Args:
      nodes: features [N, F].
      senders: [E], numbers of nodes.
      receivers: [E].
      labels: [N], or [G] where `graph_of` is given; -1 for none.
      classes: names of the labels.
      train: nodes, or graphs, to learn from.
      validation: others, to choose by.
      test: others, to judge by.
      where: they come from, for messages.
      edges: features [E, K].
      graph_of: [N], the graph of each node, rising from 0; None for a single graph.

    Raises:
      UserError: a message for each thing that does not fit.
    """
    count = nodes.shape[0]
    senders = np.asarray(senders, np.int64)
    receivers = np.asarray(receivers, np.int64)
    per_graph = graph_of is not None
    graph_of = np.zeros(count, np.int64) if graph_of is None else np.asarray(graph_of, np.int64)
    require(count > 0, f"{where} has no nodes.")
    require(
        len(graph_of) == count,
        f"{where}: features are of {count:,} nodes, but there are {len(graph_of):,} nodes.",
    )
    require(len(senders) == len(receivers), f"{where}: edges have two ends each.")
    require(
        len(senders) > 0, f"{where} has no edges: there is nothing that a network could pass on."
    )
    ends = np.concatenate([senders, receivers])
    strange = ends[(ends < 0) | (ends >= count)]
    require(
        len(strange) == 0,
        f"{where}: an edge leads to node {strange[0] if len(strange) else ''}; there are nodes 0 "
        f"to {count - 1:,}.",
    )
    require(
        bool((np.diff(graph_of) >= 0).all()) and graph_of[0] == 0,
        f"{where}: nodes are not in the order of their graphs.",
    )
    require(
        bool((graph_of[senders] == graph_of[receivers]).all()),
        f"{where}: an edge leads from one graph to another.",
    )
    labels = np.asarray(labels, np.int32)
    wanted = int(graph_of[-1]) + 1 if per_graph else count
    require(
        labels.shape == (wanted,),
        f"{where}: {len(labels):,} labels for {wanted:,} {'graphs' if per_graph else 'nodes'}.",
    )
    parts = Parts(*(np.asarray(part, np.int32) for part in (train, validation, test)))
    _check_parts(parts, labels, where)
    values = nodes.data if scipy.sparse.issparse(nodes) else nodes
    require(
        bool(np.isfinite(values).all()) and (edges is None or bool(np.isfinite(edges).all())),
        f"{where}: features hold gaps (NaN or infinite numbers). Fill them in.",
    )
    found = GraphSet(
        nodes.astype(np.float32),
        senders.astype(np.int32),
        receivers.astype(np.int32),
        None if edges is None else np.asarray(edges, np.float32),
        graph_of.astype(np.int32),
        labels,
        tuple(classes),
        *parts,
        per_graph,
        "",
    )
    return found._replace(digest=_digest(found))


def _check_parts(parts: Parts, labels: np.ndarray, where: str) -> None:
    every = np.concatenate(parts)
    outside = every[(every < 0) | (every >= len(labels))]
    require(
        len(outside) == 0,
        f"{where}: a split names number {outside[0] if len(outside) else ''} of {len(labels):,}.",
    )
    numbers, times = np.unique(every, return_counts=True)
    twice = numbers[times > 1]
    require(
        len(twice) == 0,
        f"{where}: splits overlap: number {twice[0] if len(twice) else ''} is in two of train, "
        "validation and test.",
    )
    bare = every[labels[every] < 0]
    require(
        len(bare) == 0,
        f"{where}: number {bare[0] if len(bare) else ''} is in a split but has no label.",
    )


def _digest(found: GraphSet) -> str:
    digest = hashlib.sha256(repr(found.classes).encode())
    for part in found[:-2]:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype} {part.shape}".encode())
            digest.update(np.ascontiguousarray(part).tobytes())
        elif scipy.sparse.issparse(part):
            for array in (part.indptr, part.indices, part.data):
                digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def simple(senders: np.ndarray, receivers: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Edges both ways, each once, none from a node to itself; in the order of receivers.

    Args:
      senders: [E] in [0, count).
      receivers: [E].
      count: number of nodes.

    Returns:
      Senders and receivers.
    """
    senders = np.asarray(senders, np.int64)
    receivers = np.asarray(receivers, np.int64)
    both = np.concatenate([receivers * count + senders, senders * count + receivers])
    both = np.unique(both)
    receivers, senders = np.divmod(both, count)
    different = senders != receivers
    return senders[different], receivers[different]


def folds(labels: np.ndarray, fold: int) -> Parts:
    """One of ten folds to test on, a tenth of the rest to validate; classes alike in all.

    Always the same ones; of a class with fewer than ten, folds are as they come.
    """
    order = np.random.default_rng(0).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    number = np.empty(len(labels), np.int64)
    number[order] = np.arange(len(labels)) % FOLDS
    rest = np.flatnonzero(number != fold)
    rest = np.random.default_rng((1, fold)).permutation(rest)
    rest = rest[np.argsort(labels[rest], kind="stable")]
    every = round(1 / _HELD_OUT)
    validated = np.arange(len(rest)) % every == every // 2
    return Parts(
        np.sort(rest[~validated]), np.sort(rest[validated]), np.flatnonzero(number == fold)
    )


def random_parts(labels: np.ndarray, fold: int) -> Parts:
    """Of what has a label: three fifths to learn from, a fifth to validate, a fifth to test on."""
    order = np.random.default_rng((2, fold)).permutation(np.flatnonzero(labels >= 0))
    fifth = len(order) // 5
    return Parts(
        np.sort(order[2 * fifth :]), np.sort(order[:fifth]), np.sort(order[fifth : 2 * fifth])
    )


def without(found: GraphSet, nodes: np.ndarray, where: str) -> GraphSet:
    """One graph without some nodes, their edges and their places in splits; the others move up.

    Args:
      found: the graph.
      nodes: numbers of those to leave out.
      where: what the graph is called, for messages.

    Raises:
      UserError: no edge is left.
    """
    kept = np.setdiff1d(np.arange(found.num_nodes), nodes)
    place = np.full(found.num_nodes, -1)
    place[kept] = np.arange(len(kept))
    inside = (place[found.senders] >= 0) & (place[found.receivers] >= 0)
    parts = (place[part] for part in (found.train, found.validation, found.test))
    train, validation, test = (part[part >= 0] for part in parts)
    return graph_set(
        found.nodes[kept],
        place[found.senders[inside]],
        place[found.receivers[inside]],
        labels=found.labels[kept],
        classes=found.classes,
        train=train,
        validation=validation,
        test=test,
        edges=None if found.edges is None else found.edges[inside],
        where=where,
    )


def whole(found: GraphSet) -> nets.Graph:
    """All graphs of a set as one record for networks, laid out for gathers."""
    count = found.num_nodes
    return nets.Graph(
        features(found.nodes),
        links.linked(found.receivers, found.senders, count, count),
        found.edges,
        found.graph_of,
        np.ones(found.num_graphs, bool),
    )


def features(nodes: np.ndarray | scipy.sparse.csr_matrix) -> np.ndarray | nets.Sparse:
    """Features as networks take them."""
    if not scipy.sparse.issparse(nodes):
        return nodes
    entries = nodes.tocoo()
    return nets.Sparse(
        links.linked(entries.row, entries.col, *nodes.shape),
        entries.data.astype(np.float32),
        np.zeros((0, nodes.shape[1]), np.float32),
    )


def dense(nodes: np.ndarray | scipy.sparse.csr_matrix) -> np.ndarray:
    """Features [N, F], as an array."""
    return nodes.toarray() if scipy.sparse.issparse(nodes) else nodes
