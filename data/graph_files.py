"""A user's own graph: CSV files of edges, features, labels and splits, or GraphML.

Nodes may have any names. What is in the files is read, never executed.
"""

import csv
import io
import math
import xml.etree.ElementTree as xml
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from xml.parsers import expat

import numpy as np
import scipy.sparse

from missing_bits.data import files
from missing_bits.data.graphs import GraphSet, Parts, graph_set, random_parts, simple
from missing_bits.errors import UserError, require

_SPLITS = ("train", "validation", "test")
_LARGEST = float(np.finfo(np.float32).max)
_GRAPHML = "{http://graphml.graphdrawing.org/xmlns}"


class Table(NamedTuple):
    """A CSV file."""

    names: list[str]
    rows: list[list[str]]
    lines: list[int]  # where each row ends in the file, from 1
    path: Path

    def column(self, name: str) -> int:
        """Where a column stands."""
        require(
            name in self.names,
            f"{self.path} has no column {name}; its columns are {', '.join(self.names)}.",
        )
        return self.names.index(name)

    def line(self, row: int) -> str:
        """A row's place, for messages."""
        return f"{self.path}, line {self.lines[row]}"


def _table(path: Path) -> Table:
    content = files.read(path, "Expected a CSV file with names above its columns.")
    require(
        not content.startswith((b"\x80", b"PK", b"\x93NUMPY")),
        f"{path} is a pickle or an archive; expected a CSV file: what may run code is not read.",
    )
    rows = []
    lines = []
    try:
        reader = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""))
        for row in reader:
            if row:
                rows.append([cell.strip() for cell in row])
                lines.append(reader.line_num)
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"{path} cannot be read as a table: {error}. Expected a CSV file in UTF-8."
        ) from error
    require(len(rows) >= 2, f"{path} has no rows below the names of its columns.")
    twice = [name for name in rows[0] if rows[0].count(name) > 1]
    require(not twice, f"{path} has two columns {twice[0] if twice else ''}; name each once.")
    found = Table(rows[0], rows[1:], lines[1:], path)
    for number, row in enumerate(found.rows):
        require(
            len(row) == len(found.names),
            f"{found.line(number)}: {len(row)} cells for {len(found.names)} columns.",
        )
    return found


def _numbers(table: Table, without: tuple[str, ...]) -> np.ndarray | None:
    """The other columns as numbers [rows, K]; None without any."""
    columns = [i for i, name in enumerate(table.names) if name not in without]
    if not columns:
        return None
    values = np.empty((len(table.rows), len(columns)), np.float32)
    for number, row in enumerate(table.rows):
        for place, column in enumerate(columns):
            where = f'{table.line(number)}, "{table.names[column]}"'
            values[number, place] = _number(row[column], where)
    return values


def _number(cell: str, where: str) -> float:
    try:
        value = float(cell)
    except ValueError as error:
        raise UserError(
            f'{where} holds "{cell[:40]}", no number. Leave out columns that hold none.'
        ) from error
    require(
        math.isfinite(value) and abs(value) <= _LARGEST,
        f'{where} holds "{cell[:40]}"; expected a finite number that float32 holds. Fill gaps in.',
    )
    return value


def read_edges(
    path: Path,
    features: Path | None,
    labels: Path | None,
    splits: Path | None,
    directed: bool,
    fold: int,
) -> GraphSet:
    """A graph of CSV files, each with names above its columns.

    Args:
      path: edges: columns source, target, and perhaps numbers, which become features of edges.
      features: columns node and numbers; None for a feature of its own for each node.
      labels: columns node and label, an empty one for a node without; None for none: links can
        still be predicted.
      splits: columns node and split; None for a random split.
      directed: whether messages go from source to target alone. Otherwise they go both ways, and
        edges without features stand once.
      fold: which random split.

    Raises:
      UserError: for each thing that does not fit.
    """
    edges = _table(path)
    source = edges.column("source")
    target = edges.column("target")
    described = None if features is None else _table(features)
    told = None if labels is None else _table(labels)
    if described is not None:
        names = _nodes(described)
    else:
        ends = {row[end] for row in edges.rows for end in (source, target)}
        if told is not None:
            ends |= set(_nodes(told))
        # Numbers in their order, other names after them in theirs.
        in_order = sorted(
            ends, key=lambda name: (not name.isdecimal(), len(name) * name.isdecimal(), name)
        )
        names = {name: number for number, name in enumerate(in_order)}
    pairs = np.array(
        [
            [_node(names, row[end], edges.line(number)) for end in (source, target)]
            for number, row in enumerate(edges.rows)
        ]
    )
    label_of: dict[int, str] = {}
    labeled = set()
    if told is not None:
        column = told.column("label")
        node = told.column("node")
        for number, row in enumerate(told.rows):
            at = _node(names, row[node], told.line(number))
            require(at not in labeled, f"{told.line(number)}: node {row[node]} stands twice.")
            labeled.add(at)
            if row[column]:
                label_of[at] = row[column]
    split_of: dict[int, str] = {}
    if splits is not None:
        table = _table(splits)
        column = table.column("split")
        node = table.column("node")
        for number, row in enumerate(table.rows):
            at = _node(names, row[node], table.line(number))
            require(
                row[column] in _SPLITS,
                f'{table.line(number)}: split "{row[column][:40]}" is none of '
                f"{', '.join(_SPLITS)}.",
            )
            require(
                at not in split_of,
                f"{table.line(number)}: splits overlap: node {row[node]} was in "
                f"{split_of.get(at)} already.",
            )
            require(
                at in label_of,
                f"{table.line(number)}: node {row[node]} is in a split but has no label.",
            )
            split_of[at] = row[column]
    values = None if described is None else _numbers(described, ("node",))
    return _user_set(
        _own(len(names)) if values is None else values,
        pairs,
        _numbers(edges, ("source", "target")),
        label_of,
        split_of,
        directed,
        fold,
        f"edges:{path}",
    )


def _nodes(table: Table) -> dict[str, int]:
    """The nodes that a table describes, each once, in its order."""
    column = table.column("node")
    names: dict[str, int] = {}
    for number, row in enumerate(table.rows):
        require(row[column] not in names, f"{table.line(number)}: node {row[column]} stands twice.")
        names[row[column]] = number
    return names


def _node(names: Mapping[str, int], name: str, where: str) -> int:
    require(name in names, f'{where} names node "{name[:40]}", which does not exist.')
    return names[name]


def _own(count: int) -> scipy.sparse.csr_matrix:
    """A feature of its own for each node."""
    return scipy.sparse.identity(count, np.float32, "csr")


def _user_set(
    nodes: np.ndarray | scipy.sparse.csr_matrix,
    pairs: np.ndarray,
    edges: np.ndarray | None,
    label_of: Mapping[int, str],
    split_of: Mapping[int, str],
    directed: bool,
    fold: int,
    where: str,
) -> GraphSet:
    """A graph whose nodes are numbers by now."""
    count = nodes.shape[0]
    senders, receivers = pairs.reshape(-1, 2).T
    if not directed and edges is None:
        senders, receivers = simple(senders, receivers, count)
    elif not directed:
        senders, receivers = np.concatenate([pairs, pairs[:, ::-1]]).T
        edges = np.concatenate([edges, edges])
    classes = sorted(set(label_of.values()))
    labels = np.full(count, -1, np.int32)
    for node, name in label_of.items():
        labels[node] = classes.index(name)
    if split_of:
        chosen = [[node for node, of in split_of.items() if of == split] for split in _SPLITS]
        parts = Parts(*(np.array(sorted(some), np.int32) for some in chosen))
    else:
        parts = random_parts(labels, fold)
    return graph_set(
        nodes,
        senders,
        receivers,
        labels=labels,
        classes=classes,
        train=parts.train,
        validation=parts.validation,
        test=parts.test,
        edges=edges,
        where=where,
    )


def read_graphml(path: Path, directed: bool, fold: int) -> GraphSet:
    """A graph of a GraphML file, whose nodes and edges may hold data.

    Of nodes, the string `label` (or `class`) is the label, `split` one of train, validation and
    test; all numbers are features. Of edges, all numbers are. Nested graphs, ports and hyperedges
    are refused.

    Args:
      path: of the file.
      directed: whether messages go from source to target alone.
      fold: which random split.

    Raises:
      UserError: for each thing that does not fit.
    """
    content = files.read(path, "Expected a GraphML file.")
    root = _parsed(content, path)
    graphs = root.findall(f"{_GRAPHML}graph")
    require(
        root.tag == f"{_GRAPHML}graphml" and len(graphs) == 1,
        f"{path} is no GraphML file with one graph.",
    )
    graph = graphs[0]
    for element in graph.iter():
        require(
            element.tag not in (f"{_GRAPHML}hyperedge", f"{_GRAPHML}port")
            and (element.tag != f"{_GRAPHML}graph" or element is graph),
            f"{path} has a nested graph, a port or a hyperedge, which are not read.",
        )
    keys = {key.get("id", ""): key for key in root.findall(f"{_GRAPHML}key")}
    nodes = graph.findall(f"{_GRAPHML}node")
    edges = graph.findall(f"{_GRAPHML}edge")
    names = {node.get("id", ""): number for number, node in enumerate(nodes)}
    require(len(names) == len(nodes), f"{path}: two nodes have the same id.")
    held = [_held(node, keys, path) for node in nodes]
    pairs = np.array(
        [
            [_node(names, edge.get(end, ""), f"{path}: an edge") for end in ("source", "target")]
            for edge in edges
        ],
        np.int64,
    ).reshape(-1, 2)
    values = _same_numbers([of.numbers for of in held], "node", path)
    along = _same_numbers([_held(edge, keys, path).numbers for edge in edges], "edge", path)
    label_of = {}
    split_of = {}
    for number, of in enumerate(held):
        label = of.texts.get("label", of.texts.get("class"))
        if label:
            label_of[number] = label
        if "split" in of.texts:
            split = of.texts["split"]
            node = f'{path}, node "{nodes[number].get("id", "")}"'
            require(
                split in _SPLITS,
                f'{node}: split "{split[:40]}" is none of {", ".join(_SPLITS)}.',
            )
            require(bool(label), f"{node} is in a split but has no label.")
            split_of[number] = split
    return _user_set(
        _own(len(nodes)) if values is None else values,
        pairs,
        along,
        label_of,
        split_of,
        directed,
        fold,
        f"graphml:{path}",
    )


def _parsed(content: bytes, path: Path) -> xml.Element:
    """The root of an XML file without entities, in whatever encoding."""

    def refuse(*declared: Any) -> None:
        raise UserError(
            f"{path} declares a document type; expected a plain GraphML file without one."
        )

    first = expat.ParserCreate()
    first.StartDoctypeDeclHandler = refuse
    try:
        first.Parse(content, True)
        return xml.fromstring(content)
    # An unknown encoding is a LookupError, one of several bytes a ValueError.
    except (expat.ExpatError, xml.ParseError, LookupError, ValueError) as error:
        raise UserError(f"{path} is no GraphML file: {error}.") from error


class _Held(NamedTuple):
    """The data of a node or an edge."""

    texts: dict[str, str]
    numbers: dict[str, float]


def _held(element: xml.Element, keys: Mapping[str, xml.Element], path: Path) -> _Held:
    """What an element holds, by the names of its keys; what it does not say, by their defaults."""
    texts: dict[str, str] = {}
    numbers: dict[str, float] = {}
    kind = element.tag.removeprefix(_GRAPHML)
    found = {
        one: key.findtext(f"{_GRAPHML}default")
        for one, key in keys.items()
        if key.get("for", "all") in (kind, "all") and key.find(f"{_GRAPHML}default") is not None
    }
    for data in element.findall(f"{_GRAPHML}data"):
        one = data.get("key", "")
        require(one in keys, f'{path}: data of the unknown key "{one}".')
        found[one] = data.text
    for one, held in found.items():
        key = keys[one]
        name = key.get("attr.name", one)
        text = (held or "").strip()
        if key.get("attr.type") in ("int", "long", "float", "double") and name not in (
            "label",
            "class",
        ):
            numbers[name] = _number(text, f'{path}, "{name}"')
        else:
            texts[name] = text
    return _Held(texts, numbers)


def _same_numbers(held: list[dict[str, float]], what: str, path: Path) -> np.ndarray | None:
    """The numbers of all as an array; None without any."""
    names = sorted({name for numbers in held for name in numbers})
    for numbers in held:
        lacking = [name for name in names if name not in numbers]
        require(
            not lacking,
            f"{path}: some {what}s hold {lacking[0] if lacking else ''}, and some do not: features "
            "have no gaps. Fill them in.",
        )
    if not names:
        return None
    return np.array([[numbers[name] for name in names] for numbers in held], np.float32)
