"""What a corpus is, wherever it comes from, and how text is divided for training, validation and test.

Texts repeat themselves: the help on "compound" holds all of the help on "if", and files begin with the same licence. So
that no test text stands in the training text too, a paragraph (text between blank lines) of 40 characters and more that
comes again later in the corpus is kept the first time only; white space counts as one space in the comparison.
"""

import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from missing_bits.errors import require

_LONG = 40  # characters from which on a paragraph may stand in a corpus only once
_BLOCKS = 40  # of equal length, into which a corpus without classes is divided
_SPLITS = {
    4: 1,
    9: 2,
}  # of every ten blocks, the one for validation and the one for testing; the others are to train


class Document(NamedTuple):
    """A text."""

    name: str
    text: str
    label: str  # the class; "" for none


@dataclass(frozen=True, eq=False)
class Corpus:
    """Documents for training, and others for validation and for testing that training never sees."""

    train: tuple[Document, ...]
    validation: tuple[Document, ...]
    test: tuple[Document, ...]
    classes: tuple[str, ...]
    """The labels there are, sorted; empty where documents have none."""
    digest: str
    """SHA-256 of all names, texts and labels, and of how they are split."""


def dedupe(documents: Iterable[Document]) -> list[Document]:
    """The documents without the long paragraphs that came before, be it in the same document; without blank ones."""
    seen, kept = set(), []
    for document in documents:
        parts = re.split(
            r"(\n\s*\n)", document.text
        )  # paragraphs, and the blank lines between them
        text = []
        for paragraph, blank in itertools.zip_longest(parts[::2], parts[1::2], fillvalue=""):
            words = " ".join(paragraph.split())
            if words not in seen:
                text += [paragraph, blank]
            if len(words) >= _LONG:
                seen.add(words)
        text = "".join(text)
        if text.strip():
            kept.append(document._replace(text=text))
    return kept


def split_blocks(documents: Iterable[Document]) -> Corpus:
    """The corpus of documents without classes: 80 % for training, 10 % for validation, 10 % for testing.

    The documents, deduped and one after the other, are divided into 40 blocks of equal length in characters; of every
    ten, the fifth is for validation, the tenth for testing. A border between blocks moves to the nearest end of a line,
    by less than half a block; a line without an end so near is cut. A document on both sides of a border between splits
    becomes several: "name", "name#2", ...

    Raises:
      UserError: the text is shorter than 40 characters.
    """
    documents = dedupe(documents)
    whole = "".join(document.text for document in documents)
    require(
        len(whole) >= _BLOCKS,
        f"The text has {len(whole)} characters; give at least {_BLOCKS}, better 100,000.",
    )
    starts = np.cumsum([0, *(len(document.text) for document in documents)])
    lines = np.union1d(
        starts, [match.end() for match in re.finditer("\n", whole)]
    )  # where lines start and end
    block = len(whole) / _BLOCKS
    # A border moves by less than half a block, rounding included, so that every block keeps some text.
    borders = [
        _nearest(lines, round(number * block), block / 2 - 1) for number in range(_BLOCKS + 1)
    ]
    parts = ([], [], [])
    pieces = [0] * len(documents)  # of each document, so far
    for split, run in itertools.groupby(range(_BLOCKS), lambda number: _SPLITS.get(number % 10, 0)):
        blocks = list(run)
        low, high = borders[blocks[0]], borders[blocks[-1] + 1]
        first, last = (
            np.searchsorted(starts, low, "right") - 1,
            np.searchsorted(starts, high, "left"),
        )
        for number in range(first, last):
            name, _, label = documents[number]
            pieces[number] += 1
            text = whole[max(low, starts[number]) : min(high, starts[number + 1])]
            parts[split].append(
                Document(name if pieces[number] == 1 else f"{name}#{pieces[number]}", text, label)
            )
    return _corpus(*parts)


def split_documents(documents: Iterable[Document]) -> Corpus:
    """The corpus of documents with classes: of each class 80 % for training, 10 % each for validation and testing.

    The documents, deduped, are split as wholes: at random but always the same, a tenth of each class (at least one) for
    testing and as many for validation. Of 100 such splits, that counts whose two tenths of the documents are nearest to
    tenths of the characters. Documents without a label are split as one more class; where there are fewer than three of
    them, all are for training.

    Raises:
      UserError: a class has fewer than three documents.
    """
    documents = list(documents)
    labels = sorted(
        {document.label for document in documents}
    )  # also of classes that are copies of others
    documents = dedupe(documents)
    parts = ([], [], [])
    for label in labels:
        members = [number for number, document in enumerate(documents) if document.label == label]
        few = len(members) < 3
        require(
            not (few and label),
            f"Class {label!r} has too few documents with text of their own: {len(members)}; give at least 3: to train "
            "on, for validation and for testing.",
        )
        tenth = 0 if few else max(1, round(len(members) / 10))
        order = _order([len(documents[number].text) for number in members], tenth)
        for part, chosen in zip(
            parts, (order[2 * tenth :], order[tenth : 2 * tenth], order[:tenth]), strict=True
        ):
            part += [members[index] for index in chosen]
    return _corpus(*([documents[number] for number in sorted(part)] for part in parts))


def _order(lengths: Sequence[int], tenth: int) -> np.ndarray:
    """Of 100 random orders of documents, that whose first two tenths are nearest to tenths of the characters."""
    lengths, rng = np.array(lengths), np.random.default_rng(0)

    def miss(order: np.ndarray) -> float:
        parts = lengths[order[: 2 * tenth]].reshape(2, tenth).sum(axis=1)
        return np.abs(parts - lengths.sum() / 10).sum()

    return min((rng.permutation(len(lengths)) for _ in range(100)), key=miss)


def _nearest(sorted_places: np.ndarray, place: int, within: float) -> int:
    """The place nearest to another that is less than `within` away; without one, the other itself."""
    found = sorted_places[np.argmin(np.abs(sorted_places - place))]
    return int(found) if abs(found - place) < within else place


def _corpus(
    train: Sequence[Document], validation: Sequence[Document], test: Sequence[Document]
) -> Corpus:
    parts = (train, validation, test)
    labels = {document.label for part in parts for document in part} - {""}
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{len(part)} documents\n".encode())
        for document in part:
            digest.update(json.dumps(document).encode())
    return Corpus(*map(tuple, parts), tuple(sorted(labels)), digest.hexdigest())
