"""What a corpus is, and how text is divided for training, validation and test.

Texts repeat themselves: the help on "compound" holds all of the help on "if", and files begin with
the same license. So that no test text stands in the training text too, a paragraph (text between
blank lines) of 40 characters and more that comes again later in the corpus is kept the first time
only; white space counts as one space in the comparison.
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
_VALIDATED = 4  # of every ten blocks, the number of the one for validation
_TESTED = 9  # and of the one for testing; the others are to train
_TRIES = 100  # random splits of documents with classes, of which the evenest counts


class Document(NamedTuple):
    """A text."""

    name: str
    text: str
    label: str  # the class; "" for none


@dataclass(frozen=True, eq=False)
class Corpus:
    """Documents for training, and others for validation and testing that training never sees."""

    train: tuple[Document, ...]
    validation: tuple[Document, ...]
    test: tuple[Document, ...]
    classes: tuple[str, ...]
    """The labels there are, sorted; empty where documents have none."""
    digest: str
    """SHA-256 of all names, texts and labels, and of how they are split."""


def dedupe(documents: Iterable[Document]) -> list[Document]:
    """The documents without long paragraphs that came before, be it in the same document.

    Documents of which nothing but white space is left are gone.
    """
    seen = set()
    kept = []
    for document in documents:
        # Paragraphs, and the blank lines between them.
        parts = re.split(r"(\n\s*\n)", document.text)
        text = ""
        for paragraph, blank in itertools.zip_longest(parts[::2], parts[1::2], fillvalue=""):
            words = " ".join(paragraph.split())
            if words not in seen:
                text += paragraph + blank
            if len(words) >= _LONG:
                seen.add(words)
        if text.strip():
            kept.append(document._replace(text=text))
    return kept


def split_blocks(documents: Iterable[Document]) -> Corpus:
    """The corpus of documents without classes: 80 % to train, 10 % to validate, 10 % to test.

    The documents, deduped and one after the other, are divided into 40 blocks of equal length in
    characters; of every ten, the fifth is for validation, the tenth for testing. A border between
    blocks moves to the nearest end of a line, by less than half a block; a line without an end so
    near is cut. A document on both sides of a border between splits becomes several: "name",
    "name#2", ...

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
    # Where lines start and end.
    lines = np.union1d(starts, [match.end() for match in re.finditer("\n", whole)])
    block = len(whole) / _BLOCKS
    # A border moves by less than half a block, rounding included, so that every block keeps some
    # text.
    borders = [
        _nearest(lines, round(number * block), block / 2 - 1) for number in range(_BLOCKS + 1)
    ]
    parts: dict[str, list[Document]] = {"train": [], "validation": [], "test": []}
    pieces = [0] * len(documents)  # of each document, so far
    for split, run in itertools.groupby(range(_BLOCKS), _split_of_block):
        blocks = list(run)
        low = borders[blocks[0]]
        high = borders[blocks[-1] + 1]
        first = np.searchsorted(starts, low, "right") - 1
        last = np.searchsorted(starts, high, "left")
        for number in range(first, last):
            document = documents[number]
            pieces[number] += 1
            name = document.name if pieces[number] == 1 else f"{document.name}#{pieces[number]}"
            text = whole[max(low, starts[number]) : min(high, starts[number + 1])]
            parts[split].append(Document(name, text, document.label))
    return _corpus(**parts)


def _split_of_block(number: int) -> str:
    return {_VALIDATED: "validation", _TESTED: "test"}.get(number % 10, "train")


def split_end(document: Document) -> Corpus:
    """The corpus of one document: its first 90 % to train, the last 10 % to validate and to test.

    Nothing is left out: not even paragraphs that come again (nanoGPT's split of a text).

    Raises:
      UserError: the text is shorter than 40 characters.
    """
    text = document.text
    require(
        len(text) >= _BLOCKS,
        f"The text has {len(text)} characters; give at least {_BLOCKS}, better 100,000.",
    )
    end = len(text) * 9 // 10
    held_out = [Document(f"{document.name}#2", text[end:], "")]
    return _corpus([Document(document.name, text[:end], "")], held_out, held_out)


def split_documents(documents: Iterable[Document]) -> Corpus:
    """The corpus of documents with classes: of each 80 % to train, 10 % to validate, 10 % to test.

    The documents, deduped, are split as wholes: at random but always the same, a tenth of each
    class (at least one) for testing and as many for validation. Of 100 such splits, that counts
    whose two tenths of the documents are nearest to tenths of the characters. Documents without a
    label are split as one more class; where there are fewer than three of them, all are for
    training.

    Raises:
      UserError: a class has fewer than three documents.
    """
    documents = list(documents)
    # Also of classes of which nothing is left when copies are gone.
    labels = sorted({document.label for document in documents})
    documents = dedupe(documents)
    train: list[int] = []
    validation: list[int] = []
    test: list[int] = []
    for label in labels:
        members = [number for number, document in enumerate(documents) if document.label == label]
        few = len(members) < 3
        require(
            not (few and label),
            f"Class {label!r} has too few documents with text of their own: {len(members)}; "
            "give at least 3: to train on, for validation and for testing.",
        )
        tenth = 0 if few else max(1, round(len(members) / 10))
        order = _order([len(documents[number].text) for number in members], tenth)
        shuffled = [members[index] for index in order]
        test += shuffled[:tenth]
        validation += shuffled[tenth : 2 * tenth]
        train += shuffled[2 * tenth :]
    return _corpus(
        [documents[number] for number in sorted(train)],
        [documents[number] for number in sorted(validation)],
        [documents[number] for number in sorted(test)],
    )


def _order(lengths: Sequence[int], tenth: int) -> np.ndarray:
    """Of random orders, that whose first two tenths are nearest to tenths of the characters.

    Args:
      lengths: of the documents, in characters.
      tenth: how many documents a tenth is.
    """
    characters = np.array(lengths)
    rng = np.random.default_rng(0)

    def miss(order: np.ndarray) -> float:
        tenths = characters[order[: 2 * tenth]].reshape(2, tenth).sum(axis=1)
        return np.abs(tenths - characters.sum() / 10).sum()

    return min((rng.permutation(len(characters)) for _ in range(_TRIES)), key=miss)


def _nearest(sorted_places: np.ndarray, place: int, within: float) -> int:
    """The place nearest to another, if less than `within` away; else the other itself."""
    found = sorted_places[np.argmin(np.abs(sorted_places - place))]
    return int(found) if abs(found - place) < within else place


def _corpus(
    train: Sequence[Document], validation: Sequence[Document], test: Sequence[Document]
) -> Corpus:
    labels = set()
    digest = hashlib.sha256()
    for part in (train, validation, test):
        digest.update(f"{len(part)} documents\n".encode())
        for document in part:
            digest.update(json.dumps(document).encode())
            labels.add(document.label)
    classes = tuple(sorted(labels - {""}))
    return Corpus(tuple(train), tuple(validation), tuple(test), classes, digest.hexdigest())
