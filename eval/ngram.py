"""What masked language models are compared with: the commonest token between two neighbors.

It is counted in the training text. Neighbors of a place are the tokens before and after it in the
same segment; where there is none, at the ends of segments and rows, the neighbor is an edge, a
context like another.
Shapes: N rows of L tokens, n places asked for, V tokens in the vocabulary, m tokens counted, K
contexts seen.
"""

from typing import NamedTuple

import chex
import numpy as np


class Ngram:
    """Predicts a token from the token on its left and the one on its right.

    Tokens of training rows are counted by both neighbors, by the left one alone, by the right one
    alone, and by themselves. The winner of a context is the token that occurs in it most often, of
    several the one of the smallest id. Special tokens are contexts, but are neither counted nor
    predicted; padding is neither.

    Args:
      tokens: int32 [N, L] in [0, vocabulary), with at least one to be counted.
      segments: int32 [N, L], numbers of contiguous pieces of text; 0 is padding.
      vocabulary: V.
      specials: ids below this are special.

    Attributes:
      unigram: the most frequent of the counted tokens.
    """

    def __init__(
        self, tokens: np.ndarray, segments: np.ndarray, vocabulary: int, specials: int
    ) -> None:
        self._vocabulary = vocabulary
        counted = (segments > 0) & (tokens >= specials)
        assert counted.any(), "there is no ordinary token to count"
        contexts = self._contexts(tokens, segments)
        middle = tokens[counted]  # [m]
        self._left = _winners(contexts.left[counted], middle, vocabulary)
        self._right = _winners(contexts.right[counted], middle, vocabulary)
        self._pair = _winners(contexts.pair[counted], middle, vocabulary)
        self.unigram = int(np.bincount(middle).argmax())

    def predict(
        self, tokens: np.ndarray, segments: np.ndarray, rows: np.ndarray, columns: np.ndarray
    ) -> np.ndarray:
        """The tokens that training text suggests at some places, whatever stands there.

        Where training has seen the pair of neighbors at least once, its winner. Else the winner of
        the left or of the right neighbor, whichever has the larger share of the tokens counted in
        its context, the left one of equal shares; if training has seen only one of the two
        neighbors (on the same side), that one's winner. Else the most frequent token.

        Args:
          tokens: int32 [N, L] in [0, vocabulary).
          segments: int32 [N, L]; 0 is padding.
          rows: integers [n] in [0, N).
          columns: integers [n] in [0, L).

        Returns:
          int32 [n].
        """
        chex.assert_rank([rows, columns], 1)
        chex.assert_equal_shape([rows, columns])
        contexts = self._contexts(tokens, segments)
        left = self._left.of(contexts.left[rows, columns])
        right = self._right.of(contexts.right[rows, columns])
        pair = self._pair.of(contexts.pair[rows, columns])
        side = np.where(left.shares >= right.shares, left.tokens, right.tokens)
        seen = np.maximum(left.shares, right.shares) > 0
        unpaired = np.where(seen, side, self.unigram)
        return np.where(pair.shares > 0, pair.tokens, unpaired).astype(np.int32)

    def _contexts(self, tokens: np.ndarray, segments: np.ndarray) -> "_Contexts":
        chex.assert_rank(tokens, 2)
        chex.assert_equal_shape([tokens, segments])
        edge = self._vocabulary
        left = np.full(tokens.shape, edge, np.int64)
        right = np.full(tokens.shape, edge, np.int64)
        together = segments[:, :-1] == segments[:, 1:]  # [N, L - 1], each token with the next
        left[:, 1:][together] = tokens[:, :-1][together]
        right[:, :-1][together] = tokens[:, 1:][together]
        return _Contexts(left, right, left * (edge + 1) + right)


class _Contexts(NamedTuple):
    """The neighbors of each place, int64 [N, L]; V stands for an edge."""

    left: np.ndarray
    right: np.ndarray
    pair: np.ndarray  # a number for each pair of them


class _Guesses(NamedTuple):
    """The winners of the contexts at n places."""

    tokens: np.ndarray  # int64 [n]
    shares: np.ndarray  # float64 [n], of the tokens counted in the context; 0 if it was never seen


class _Winners(NamedTuple):
    """The most frequent token of each context."""

    contexts: np.ndarray  # int64 [K], ascending
    tokens: np.ndarray  # int64 [K]
    shares: np.ndarray  # float64 [K], of the tokens counted in the context

    def of(self, contexts: np.ndarray) -> _Guesses:
        """The winners for contexts [n]; for one never seen, any token with a share of 0."""
        nearest = np.minimum(np.searchsorted(self.contexts, contexts), len(self.contexts) - 1)
        seen = self.contexts[nearest] == contexts
        return _Guesses(self.tokens[nearest], np.where(seen, self.shares[nearest], 0.0))


def _winners(contexts: np.ndarray, tokens: np.ndarray, vocabulary: int) -> _Winners:
    """The winners among tokens [m] that occur in contexts [m]."""
    # Sorted by context, then by token.
    both, counts = np.unique(contexts * vocabulary + tokens, return_counts=True)
    contexts, tokens = np.divmod(both, vocabulary)
    seen, starts = np.unique(contexts, return_index=True)
    # The sort is stable: of equal counts, the smallest token stays first.
    first = np.lexsort((-counts, contexts))[starts]
    # The division is rounded correctly: equal fractions give equal shares.
    return _Winners(seen, tokens[first], counts[first] / np.add.reduceat(counts, starts))
