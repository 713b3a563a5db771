"""Cora and Citeseer with the public split (Yang et al. 2016): papers, their words and citations.

20 papers of each class are to train on, 500 to validate, 1,000 to test; a citation leads both ways
and stands once: Cora has 5,429 rows of links and 5,278 distinct edges. Each paper's words are
scaled to sum 1, as in the published code of Kipf and Welling. 15 papers of Citeseer have no words
and no label.

The files are pickles, which may run code. They are read by their hash alone, and by an unpickler
that knows arrays of numpy, the fields of a sparse matrix and defaultdict, and nothing else.
"""

import collections
import io
import pickle
from typing import Any

import numpy as np
import scipy.sparse

from missing_bits.data import published
from missing_bits.data.graphs import GraphSet, graph_set, simple
from missing_bits.errors import UserError

CLASSES = {
    "cora": (
        "theory",
        "reinforcement learning",
        "genetic algorithms",
        "neural networks",
        "probabilistic methods",
        "case based",
        "rule learning",
    ),
    "citeseer": ("agents", "AI", "DB", "IR", "ML", "HCI"),
}
SUMS = {
    "cora": {
        "ind.cora.x": "23cfa55d91c6f624233f5eb7b6e3f141f1bd2b2ae39608a63cf5d084bb27baab",
        "ind.cora.tx": "b9afbaa4a400df991f6f02ef677e1e44da55ffc04801fd02f9e673987829226a",
        "ind.cora.allx": "9419ba2f26f5c35243db64aba110e0f35a04851609e0dc5433450676ca6b8543",
        "ind.cora.y": "94465c14eb53e04ca262198dcbb2521ee8af60fb3f3d546cd6ca24a511b0e7d1",
        "ind.cora.ty": "41f5ac76596a1699cc33f53084a2419e92961c42bb75f36fc38e616d348532ad",
        "ind.cora.ally": "2b998f5cc7fedc86e7f97ca2498f47a1ffc1462c29e2d578b23bf3f62b6e7d71",
        "ind.cora.graph": "58f13302f39dde8852dad6fe6d15b89b077b6d7f837626bce671ef80344b383d",
        "ind.cora.test.index": "297ce89af2b51a6a194181c7dbe1796c6a1cf9cd9349a88383b1b1e227867875",
    },
    "citeseer": {
        "ind.citeseer.x": "d20de19150741e555de0ed037195630fc194114ebc7fd72ced62810148aa22f6",
        "ind.citeseer.tx": "539a8906a2da97628d212f2fdd668c109a8b3f0d36574b59e5d3fd5b5303da21",
        "ind.citeseer.allx": "2ac30345d95c9ec933a817ee0bdd6a5f077f8c184a20e696910192d534414668",
        "ind.citeseer.y": "8ba87e515d8e3ee3cf52f6d2c5b86aa73f11ecad825a808455209ec26cd54924",
        "ind.citeseer.ty": "55e5bd1ba1e733a04598753ad1a8d57957f4b8f89e74519f41f4f4938767e4ce",
        "ind.citeseer.ally": "f704b2d986dde6c2669934de1f3ae5696a6cf9455c0f6b2646a2d135ea0a1c95",
        "ind.citeseer.graph": "d79a4ef9d3e7169aee8946145f6b7306e35bc79bffad26346cfb94e10e9912a7",
        "ind.citeseer.test.index": (
            "2af990671580b6b2df5d158d1038f8292e30c9cd821b5453f399659b25b723d4"
        ),
    },
}
URL = "https://github.com/kimiyoung/planetoid/raw/master/data/"
_VALIDATED = 500  # papers


def load(name: str, data_dir: str = "") -> GraphSet:
    """The graph.

    Args:
      name: cora or citeseer.
      data_dir: where the files are; empty for the cache or the network.

    Raises:
      UserError: they are nowhere, or a file is not the published one.
    """
    found = published.contents(
        name.title(),
        SUMS[name],
        data_dir,
        "planetoid",
        lambda file: published.get(URL + file),
    )
    part = {file.removeprefix(f"ind.{name}."): content for file, content in found.items()}
    order = np.array(part["test.index"].split(), np.int64)  # the place of each row of tx and ty
    tested = np.sort(order)
    known = unpickled(part["allx"])
    # Papers that the index leaves out have no words and no label.
    count = int(tested[-1]) + 1
    words = scipy.sparse.lil_matrix((count, known.shape[1]), dtype=np.float32)
    words[: known.shape[0]] = known
    words[order] = unpickled(part["tx"])
    told = np.zeros((count, len(CLASSES[name])), np.int32)
    told[: known.shape[0]] = unpickled(part["ally"])
    told[order] = unpickled(part["ty"])
    labels = np.where(told.any(axis=1), told.argmax(axis=1), -1)
    words = words.tocsr()
    sums = np.asarray(words.sum(axis=1)).ravel()
    words = scipy.sparse.diags(1 / np.where(sums > 0, sums, 1)) @ words
    cited = unpickled(part["graph"])
    links = [(paper, other) for paper, others in cited.items() for other in others]
    senders, receivers = np.array(links).T
    train = np.arange(len(unpickled(part["y"])))
    return graph_set(
        words.tocsr().astype(np.float32),
        *simple(senders, receivers, count),
        labels=labels,
        classes=CLASSES[name],
        train=train,
        validation=len(train) + np.arange(_VALIDATED),
        test=tested,
        where=f"planetoid:{name}",
    )


class _Csr:
    """The fields of a sparse matrix."""


def _listed() -> list:
    return []


class _Unpickler(pickle.Unpickler):
    """Knows few names, and runs nothing of a file's."""

    def find_class(self, module: str, name: str) -> Any:
        known = {
            ("numpy.core.multiarray", "_reconstruct"): np.ndarray(0).__reduce__()[0],
            ("numpy._core.multiarray", "_reconstruct"): np.ndarray(0).__reduce__()[0],
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            ("scipy.sparse.csr", "csr_matrix"): _Csr,
            ("scipy.sparse._csr", "csr_matrix"): _Csr,
            ("collections", "defaultdict"): collections.defaultdict,
            ("__builtin__", "list"): _listed,
            ("builtins", "list"): _listed,
        }
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return known[module, name]


def unpickled(content: bytes) -> Any:
    """An array, a sparse matrix, or a dictionary of lists.

    Raises:
      UserError: the pickle asks for anything else, or is damaged.
    """
    try:
        found = _Unpickler(io.BytesIO(content), encoding="latin1").load()
        if isinstance(found, _Csr):
            fields = vars(found)
            arrays = (fields["data"], fields["indices"], fields["indptr"])
            return scipy.sparse.csr_matrix(arrays, shape=fields["_shape"])
    except Exception as error:  # a damaged pickle may raise anything
        raise UserError(f"A pickle is not one of Planetoid's: {error}.") from error
    return found
