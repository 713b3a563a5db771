"""Graphs with a class each, of the TU collection (Morris et al. 2020): molecules and proteins.

MUTAG: 188 molecules, of which 125 are mutagenic; PROTEINS: 1,113 proteins, of which 450 are no
enzymes. A node holds its kind, one of few. Folds are drawn once and for all, alike in their
classes; one is to test on, and a tenth of the others to validate (Errica et al. 2020).
"""

import io
import zipfile

import numpy as np

from missing_bits.data import published
from missing_bits.data.graphs import GraphSet, folds, graph_set
from missing_bits.errors import UserError

SUMS = {
    "MUTAG": {
        "MUTAG_A.txt": "bec742fd0ae3c5c8614379635c1b94c55d679468313c3908ffb8da85a1a14961",
        "MUTAG_graph_indicator.txt": (
            "9ad6bba2fd8ab0810896adac0d050ade814f685ca4f88be1b32e502e2415c6da"
        ),
        "MUTAG_graph_labels.txt": (
            "4a2ccc436ebc7c6244566fd1b77d94bb03a888941616f3ae500ef456e6c5dd6a"
        ),
        "MUTAG_node_labels.txt": (
            "b3a92059a5255d2eedfff9953ccad7e67533c4978401f72260345b1cfd24e7a1"
        ),
    },
    "PROTEINS": {
        "PROTEINS_A.txt": "cd1ad9e2e230efa057c2d7f67ce9958e8b7088cff08a8db1603922c93bf2e849",
        "PROTEINS_graph_indicator.txt": (
            "8d4ff1e852a5c28561e9bffb44cf9490bc552b13a3b6156dd12dc7f44e9afc4a"
        ),
        "PROTEINS_graph_labels.txt": (
            "9c2be6064d1a59df6e6f911ee76508878b6cb281fb223a8d3a4226393f7ff5f4"
        ),
        "PROTEINS_node_labels.txt": (
            "f758e8ad3d6e3c026b50833d75f6f90735b94eb3345e4243707f495ca8afea8d"
        ),
    },
}
CLASSES = {"MUTAG": ("not mutagenic", "mutagenic"), "PROTEINS": ("enzyme", "no enzyme")}
URL = "https://www.chrsmrrs.com/graphkerneldatasets/"


def load(name: str, data_dir: str = "", fold: int = 0) -> GraphSet:
    """The graphs.

    Args:
      name: MUTAG or PROTEINS.
      data_dir: where the files are; empty for the cache or the network.
      fold: which of ten to test on.

    Raises:
      UserError: they are nowhere, or a file is not the published one.
    """
    packed: dict[str, bytes] = {}

    def fetch(file: str) -> bytes:
        if not packed:
            with zipfile.ZipFile(io.BytesIO(published.get(f"{URL}{name}.zip"))) as archive:
                packed.update({one: archive.read(f"{name}/{one}") for one in SUMS[name]})
        return packed[file]

    found = published.contents(name, SUMS[name], data_dir, f"tu/{name}", fetch)
    return read(name, {file.removeprefix(f"{name}_"): text for file, text in found.items()}, fold)


def read(name: str, texts: dict[str, bytes], fold: int) -> GraphSet:
    """The graphs of files in the collection's format, by name without the collection's own.

    Args:
      name: of the collection.
      texts: `A.txt` has a row "receiver, sender" for each edge, `graph_indicator.txt` the graph of
        each node, all from 1; `graph_labels.txt` a class for each graph, `node_labels.txt` a kind
        for each node.
      fold: which of ten to test on.
    """
    try:
        pairs = np.array(texts["A.txt"].replace(b",", b" ").split(), np.int64).reshape(-1, 2) - 1
        graph_of = np.array(texts["graph_indicator.txt"].split(), np.int64) - 1
        told = np.array(texts["graph_labels.txt"].split(), np.int64)
        kinds = np.array(texts["node_labels.txt"].split(), np.int64)
    except ValueError as error:
        raise UserError(f"{name}: a file is not in TU's format: {error}.") from error
    labels = np.unique(told, return_inverse=True)[1]
    values, kind = np.unique(kinds, return_inverse=True)
    nodes = np.eye(len(values), dtype=np.float32)[kind]
    parts = folds(labels, fold)
    return graph_set(
        nodes,
        pairs[:, 1],
        pairs[:, 0],
        graph_of=graph_of,
        labels=labels,
        classes=CLASSES.get(name, tuple(str(value) for value in np.unique(told))),
        train=parts.train,
        validation=parts.validation,
        test=parts.test,
        where=f"tu:{name}",
    )
