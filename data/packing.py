"""Tokens of documents in rows of equal length.

Shapes: N rows, L tokens of a row, n tokens of a document, T tokens of all documents.
"""

from collections.abc import Sequence
from typing import NamedTuple

import chex
import numpy as np

from missing_bits.data.documents import Document
from missing_bits.data.tokenizer import PAD, SEP, Encoded, Tokenizer
from missing_bits.errors import require


class Packed(NamedTuple):
    """Rows of tokens, without gaps; only the last row may end with padding."""

    tokens: np.ndarray  # int32 [N, L]
    segments: np.ndarray  # int32 [N, L], the document, from 1 in each row; 0 for padding
    words: np.ndarray  # int32 [N, L], the word, from 0 in each row; -1 for padding


class Passages(NamedTuple):
    """Windows of documents with classes."""

    tokens: np.ndarray  # int32 [N, L], short windows filled up with PAD
    labels: np.ndarray  # int32 [N], the numbers of their classes


def pack(documents: Sequence[Encoded], length: int, what: str = "text") -> Packed:
    """Puts documents one after the other, each with SEP at its end, and cuts them into rows.

    A SEP is a word of its own. A word or document that the end of a row cuts begins anew in the
    next.

    Args:
      documents: each of n tokens, perhaps none.
      length: L, in tokens.
      what: the documents are, for the error.

    Raises:
      UserError: all documents together are shorter than a row.
    """
    lengths = np.array([len(document.ids) + 1 for document in documents], np.int64)  # with SEP
    total = int(lengths.sum())
    require(
        total >= length,
        f"--length={length} is longer than all there is: the {what} has only {total} tokens; "
        "ask for less, or give more text.",
    )
    token_parts = []
    word_parts = []
    for document in documents:
        token_parts += [document.ids, [SEP]]
        word_parts += [document.words, [-1]]
    tokens = np.concatenate(token_parts)  # [T]
    words = np.concatenate(word_parts)  # [T], numbered in each document
    chex.assert_equal_shape([tokens, words])
    numbers = np.repeat(np.arange(len(documents)), lengths)  # [T], of documents
    starts = (np.diff(words, prepend=-1) != 0) | (np.diff(numbers, prepend=-1) != 0)
    words = np.cumsum(starts)  # [T], numbered through

    tokens = _rows(tokens, length, PAD)
    numbers = _rows(numbers, length, -1)
    words = _rows(words, length, -1)
    padded = numbers < 0
    segments = np.where(padded, 0, numbers - numbers[:, :1] + 1)
    words = np.where(padded, -1, words - words[:, :1])
    return Packed(tokens, segments, words)


def join(documents: Sequence[Encoded]) -> np.ndarray:
    """Documents one after the other, a SEP before, between and after them: int32 [T].

    A SEP ends a document, and is what the next one begins from.
    """
    parts = [np.array([SEP], np.int32)]
    for document in documents:
        parts += [document.ids, [SEP]]
    return np.concatenate(parts).astype(np.int32)


def _rows(array: np.ndarray, length: int, padding: int) -> np.ndarray:
    """Rows [N, L], int32, of an array [T]; the last is filled up."""
    missing = -len(array) % length
    padded = np.pad(array, (0, missing), constant_values=padding)
    return padded.reshape(-1, length).astype(np.int32)


def passages(
    documents: Sequence[Document], tokenizer: Tokenizer, length: int, classes: Sequence[str]
) -> Passages:
    """Cuts documents into windows, one after the other without overlap, to tell the class of each.

    The rest of a document is dropped if it is shorter than half a window, unless it is all of the
    document. Documents without a label are passed over.

    Args:
      documents: with labels among the classes, or "".
      tokenizer: what makes them tokens.
      length: L, in tokens.
      classes: the labels.

    """
    labeled = [document for document in documents if document.label]
    windows = [np.empty((0, length), np.int32)]
    labels = []
    encoded = tokenizer.encode_all(document.text for document in labeled)
    for document, found in zip(labeled, encoded, strict=True):
        ids = found.ids
        rest = len(ids) % length
        if len(ids) > length and 2 * rest < length:
            ids = ids[: len(ids) - rest]
        cut = _rows(ids, length, PAD)
        windows.append(cut)
        labels += [classes.index(document.label)] * len(cut)
    return Passages(np.concatenate(windows), np.array(labels, np.int32))
