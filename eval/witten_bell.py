"""What language models are compared with: an interpolated n-gram (Witten and Bell 1991, method C).

With c(h, w) the number of times that token w follows the context h in the training text, c(h) that
of all tokens, n(h) the number of different ones, and h' the context without its first token,

    p(w | h) = (c(h, w) + n(h) p(w | h')) / (c(h) + n(h))

and p(w | h) = p(w | h') where h was never seen. Below the empty context all tokens of the
vocabulary are equally likely (Chen and Goodman 1999, section 2.6). A context of a K-gram are K - 1
tokens; it begins with its document at the latest, whose first token follows a SEP, its end in front
of a SEP too.
Shapes: T tokens of the training text, H of the held-out text.
"""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import chex
import numpy as np

from missing_bits.data.tokenizer import SEP

_MOST = 30_000_000  # tokens that are counted, the first ones of a text: some 3 GB, and two minutes
_ORDERS = 9  # of n-grams that are tried: more never were better on the text of this suite


class Best(NamedTuple):
    """The n-gram whose order is best on validation text."""

    order: int
    """K: tokens of the context and the one that is predicted."""
    validation: np.ndarray
    """float64: losses in nats, of each token but the first."""
    test: np.ndarray
    """Likewise."""
    unigram: np.ndarray
    """Losses of the 1-gram on validation text."""


def best(train: np.ndarray, validation: np.ndarray, test: np.ndarray, vocabulary: int) -> Best:
    """The K-gram with the smallest loss on validation text, K from 1 until it rises.

    Args:
      train: int [T], documents with a SEP before, between and after them. Of a long text only the
        first 30 million tokens are counted.
      validation: int [H], likewise.
      test: likewise.
      vocabulary: the number of different tokens.
    """
    held_out = np.concatenate([validation, test[1:]])  # one SEP between the two
    orders = interpolated(train[:_MOST], held_out, vocabulary)
    found: list[np.ndarray] = []
    for chances in itertools.islice(orders, _ORDERS):
        losses = -np.log(chances)
        here = slice(len(validation) - 1)
        if found and losses[here].mean() >= found[-1][here].mean():
            break
        found.append(losses)
    on_validation, on_test = np.split(found[-1], [len(validation) - 1])
    return Best(len(found), on_validation, on_test, found[0][: len(validation) - 1])


def interpolated(train: np.ndarray, held_out: np.ndarray, vocabulary: int) -> Iterator[np.ndarray]:
    """The probabilities that the 1-gram, the 2-gram, ... give to each held-out token but the first.

    Args:
      train: int [T], documents with a SEP before, between and after them.
      held_out: int [H], likewise; tokens of both are below `vocabulary`.
      vocabulary: the number of different tokens.

    Yields:
      float64 [H - 1].
    """
    chex.assert_rank([train, held_out], 1)
    # Both texts at once: equal contexts get equal numbers. Counted is the training text alone.
    tokens = np.concatenate([train, held_out]).astype(np.int64)  # [T + H]
    counted = np.arange(len(tokens)) < len(train)
    counted[0] = False  # nothing stands before the first token of a text
    asked = np.arange(len(train) + 1, len(tokens))
    chances = np.full(len(asked), 1 / vocabulary)
    context = np.zeros(len(tokens), np.int64)  # the number of each token's context
    reaches = np.ones(len(tokens), bool)  # whether its document has a context of this length
    since = _since_start(tokens)
    since[len(train)] = 0
    for length in itertools.count():
        _, context = np.unique(context, return_inverse=True)
        pairs, pair = np.unique(context * vocabulary + tokens, return_inverse=True)
        seen = np.bincount(pair[counted], minlength=len(pairs))  # c(h, w)
        total = np.bincount(context[counted])  # c(h)
        total = np.append(total, np.zeros(context.max() + 1 - len(total), np.int64))
        kinds = np.bincount(pairs[seen > 0] // vocabulary, minlength=len(total))  # n(h)
        mine = context[asked]
        mass = total[mine] + kinds[mine]
        backed = seen[pair[asked]] + kinds[mine] * chances
        known = reaches[asked] & (mass > 0)
        chances = np.where(known, backed / np.maximum(mass, 1), chances)
        yield chances
        # One token more, where the document reaches so far back.
        reaches = since > length
        context = np.where(reaches, 1 + context * vocabulary + np.roll(tokens, length + 1), 0)


def _since_start(tokens: np.ndarray) -> np.ndarray:
    """How many tokens of its document, its SEP included, stand before each token: int [n]."""
    places = np.arange(len(tokens))
    starts = np.where(tokens == SEP, places, 0)
    last = np.maximum.accumulate(starts)  # the SEP at or before each token
    before = np.concatenate([[0], last[:-1]])
    return places - before
