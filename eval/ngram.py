"""What masked language models are compared with: the token that training text has most often between two neighbors.

Neighbors of a place are the tokens before and after it in the same segment; where there is none, at the ends of
segments and rows, the neighbor is an edge, a context like another.
Shapes: N rows of L tokens, n places asked for, V tokens in the vocabulary, m tokens counted, K contexts seen.
"""

from typing import NamedTuple

import chex
import numpy as np


class Ngram:
    """Predicts a token from the token on its left and the one on its right.

    Tokens of training rows are counted by both neighbors, by the left one alone, by the right one alone, and by
    themselves. The winner of a context is the token that occurs in it most often, of several the one of the smallest
    id. Special tokens are contexts, but are neither counted nor predicted; padding is neither.

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
        left, right, pair = (
            context[counted] for context in self._contexts(tokens, segments)
        )  # each [m]
        middle = tokens[counted]
        self._left, self._right, self._pair = (
            _winners(context, middle, vocabulary) for context in (left, right, pair)
        )
        self.unigram = int(np.bincount(middle).argmax())

    def predict(
        self, tokens: np.ndarray, segments: np.ndarray, rows: np.ndarray, columns: np.ndarray
    ) -> np.ndarray:
        """The tokens that training text suggests at some places, whatever stands there.

        Where training has seen the pair of neighbors at least once, its winner. Else the winner of the left or of
        the right neighbor, whichever has the larger share of the tokens counted in its context, the left one of equal
        shares; if training has seen only one of the two neighbors (on the same side), that one's winner. Else the
        most frequent token.

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
        left, right, pair = (
            context[rows, columns] for context in self._contexts(tokens, segments)
        )  # each [n]
        (left, left_share), (right, right_share) = self._left.of(left), self._right.of(right)
        pair, pair_share = self._pair.of(pair)
        side = np.where(left_share >= right_share, left, right)
        seen = np.maximum(left_share, right_share) > 0
        best = np.where(pair_share > 0, pair, np.where(seen, side, self.unigram))
        return best.astype(np.int32)

    def _contexts(
        self, tokens: np.ndarray, segments: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The left neighbors, the right ones and a number for each pair, all int64 [N, L]; V stands for an edge."""
        chex.assert_rank(tokens, 2)
        chex.assert_equal_shape([tokens, segments])
        edge = self._vocabulary
        left, right = np.full((2, *tokens.shape), edge, np.int64)
        together = segments[:, :-1] == segments[:, 1:]  # [N, L - 1], each token with the next
        left[:, 1:][together] = tokens[:, :-1][together]
        right[:, :-1][together] = tokens[:, 1:][together]
        return left, right, left * (edge + 1) + right


class _Winners(NamedTuple):
    """The most frequent token of each context."""

    contexts: np.ndarray  # int64 [K], ascending
    tokens: np.ndarray  # int64 [K]
    shares: np.ndarray  # float64 [K], of the tokens counted in the context

    def of(self, contexts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Winners and their shares for contexts [n]; for one never seen a share of 0, and any token."""
        nearest = np.minimum(np.searchsorted(self.contexts, contexts), len(self.contexts) - 1)
        return self.tokens[nearest], np.where(
            self.contexts[nearest] == contexts, self.shares[nearest], 0.0
        )


def _winners(contexts: np.ndarray, tokens: np.ndarray, vocabulary: int) -> _Winners:
    """The winners among tokens [m] that occur in contexts [m]."""
    both, counts = np.unique(
        contexts * vocabulary + tokens, return_counts=True
    )  # by context, then by token
    contexts, tokens = np.divmod(both, vocabulary)
    seen, starts = np.unique(contexts, return_index=True)
    first = np.lexsort((-counts, contexts))[
        starts
    ]  # stable: of equal counts, the smallest token stays first
    # The division is rounded correctly: equal fractions give equal shares.
    return _Winners(seen, tokens[first], counts[first] / np.add.reduceat(counts, starts))
