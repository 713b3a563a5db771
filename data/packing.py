"""Tokens of documents in rows of equal length. Shapes: N rows, L tokens of a row, n tokens of a document."""

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
    segments: np.ndarray  # int32 [N, L], the document, numbered from 1 in each row; 0 for padding
    words: np.ndarray  # int32 [N, L], the word, numbered from 0 in each row; -1 for padding


def pack(documents: Sequence[Encoded], length: int, what: str = "text") -> Packed:
    """Puts documents one after the other, each with SEP at its end, and cuts them into rows.

    A SEP is a word of its own. A word or document that the end of a row cuts begins anew in the next.

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
        f"--length={length} is longer than all there is: the {what} has only {total} tokens; ask for less, or give "
        "more text.",
    )
    sep, none = np.array([SEP], np.int32), np.array([-1], np.int32)
    tokens = np.concatenate(
        [part for document in documents for part in (document.ids, sep)]
    )  # [total]
    words = np.concatenate(
        [part for document in documents for part in (document.words, none)]
    )  # [total]
    chex.assert_equal_shape([tokens, words])
    numbers = np.repeat(np.arange(len(documents)), lengths)  # [total], of documents
    starts = (np.diff(words, prepend=-1) != 0) | (np.diff(numbers, prepend=-1) != 0)
    words = np.cumsum(starts)  # [total], numbered through
    padding = -total % length
    tokens, numbers, words = (
        np.pad(array, (0, padding), constant_values=value).reshape(-1, length).astype(np.int32)
        for array, value in ((tokens, PAD), (numbers, -1), (words, -1))
    )  # [N, L]
    padded = numbers < 0
    segments = np.where(padded, 0, numbers - numbers[:, :1] + 1)
    words = np.where(padded, -1, words - words[:, :1])
    return Packed(tokens, segments, words)


def passages(
    documents: Sequence[Document], tokenizer: Tokenizer, length: int, classes: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Cuts documents into windows, one after the other without overlap, to tell the class of each.

    The rest of a document is dropped if it is shorter than half a window, unless it is all of the document. Documents
    without a label are passed over.

    Args:
      documents: with labels among the classes, or "".
      tokenizer: what makes them tokens.
      length: L, in tokens.
      classes: the labels.

    Returns:
      The windows, int32 [N, L], the short ones filled up with PAD, and the numbers of their classes, int32 [N].
    """
    labeled = [document for document in documents if document.label]
    windows, labels = [np.empty((0, length), np.int32)], []
    for document, found in zip(labeled, tokenizer.encode_all(d.text for d in labeled), strict=True):
        ids, rest = found.ids, len(found.ids) % length
        if len(ids) > length and 2 * rest < length:
            ids = ids[: len(ids) - rest]
        ids = np.pad(ids, (0, -len(ids) % length), constant_values=PAD).reshape(-1, length)
        windows.append(ids)
        labels += [classes.index(document.label)] * len(ids)
    return np.concatenate(windows), np.array(labels, np.int32)
