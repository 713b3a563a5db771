"""How well hidden tokens are guessed, whoever guesses: always the same ones of held-out text.

Shapes: B rows in a batch, N rows of a split, L tokens in a row, M of them hidden at most, D width
of a token, V vocabulary.
"""

import functools
import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from missing_bits.augment.tokens import Masked
from missing_bits.data import tokenizer
from missing_bits.data.packing import Packed
from missing_bits.data.text import Texts
from missing_bits.eval import collapse
from missing_bits.eval.evaluation import Evaluation, Headline
from missing_bits.eval.ngram import Ngram
from missing_bits.pictures import guesses

SHARE = 0.15
"""Of the tokens, hidden in held-out text, whatever training hides."""
_SHOWN = 4  # rows whose guesses are written
_CANDIDATES = 3  # for each hidden token


class Guesses(NamedTuple):
    """What networks make of rows with hidden tokens."""

    logits: jax.Array  # [B, M, V], of the hidden tokens
    encoded: jax.Array  # [B, L, D], all tokens


class Score(NamedTuple):
    """Sums over the hidden tokens of rows."""

    loss: jax.Array  # scalar: cross-entropy in nats
    right: jax.Array  # int32 scalar: how many are guessed
    features: jax.Array  # [B, D], means over the tokens of a row


class Guesser(Protocol):
    """Networks that guess hidden tokens; nothing here depends on a number of a row."""

    def mask(self, keys: jax.Array, rows: Packed, share: float) -> Masked:
        """Hides a share of the tokens of rows [B, L], by a key for each of them.

        Rows whose words are None have single tokens hidden, whatever training hides.
        """

    def guess(self, params: Any, masked: Masked, segments: jax.Array) -> Guesses:
        """What parameters make of masked rows with segments [B, L]."""

    def score(self, params: Any, masked: Masked, segments: jax.Array) -> Score:
        """How good the guesses are."""


class HeldOut(NamedTuple):
    """Rows that training never sees, and what of them is hidden."""

    rows: Packed
    masked: Masked


class MaskedTokens:
    """Scores guessers of one kind on one text.

    Args:
      texts: the text.
      guesser: who guesses.
    """

    def __init__(self, texts: Texts, guesser: Guesser) -> None:
        self._texts = texts
        self._guesser = guesser
        self._guess = jax.jit(guesser.guess)
        self._score = jax.jit(functools.partial(_one_by_one, guesser.score))

    def evaluation(self) -> Evaluation:
        """Scores, baselines and pictures of a guesser's parameters."""

        def scores(params: Any, key: jax.Array, last: bool) -> dict[str, float]:
            return self.scores(params)

        def baselines(key: jax.Array) -> dict[str, float]:
            return self.baselines

        def pictures(params: Any, seed: int, folder: Path) -> None:
            self.write_guesses(params, folder / "guesses.txt")

        return Evaluation(Headline("eval/masked_accuracy"), scores, baselines, pictures, "n-grams")

    @functools.cached_property
    def validation(self) -> HeldOut:
        """Validation rows under the one mask under which all are compared, however they train."""
        return self._hidden(self._texts.validation)

    @functools.cached_property
    def test(self) -> HeldOut:
        """Test rows likewise."""
        return self._hidden(self._texts.test)

    def scores(self, params: Any) -> dict[str, float]:
        """Accuracy and cross-entropy (in nats) on hidden tokens; how features spread."""
        validation, _ = self._metrics(params, self.validation, "eval/validation_masked_")
        test, features = self._metrics(params, self.test, "eval/masked_")
        return {**validation, **test, **collapse.spread(features)}

    @functools.cached_property
    def baselines(self) -> dict[str, float]:
        """What counting makes of the hidden test tokens: the most frequent token, and the n-gram.

        The n-gram reads what the model reads, where some neighbors are hidden; and once the true
        neighbors, which the model is not shown. It is the same for every seed.
        """
        train = self._texts.train
        vocabulary = self._texts.words.size
        counts = Ngram(train.tokens, train.segments, vocabulary, tokenizer.SPECIALS)
        rows, masked = self.test
        chosen = np.asarray(masked.chosen)
        labels = np.asarray(masked.labels)[chosen]
        row = np.nonzero(chosen)[0]
        column = np.asarray(masked.places)[chosen]
        seen = np.asarray(masked.tokens)

        def accuracy(said: np.ndarray | int) -> float:
            return float(np.mean(said == labels))

        of_hidden = counts.predict(seen, rows.segments, row, column)
        of_true = counts.predict(rows.tokens, rows.segments, row, column)
        return {
            "baseline/unigram_masked_accuracy": accuracy(counts.unigram),
            "baseline/ngram_masked_accuracy": accuracy(of_hidden),
            "baseline/ngram_of_true_neighbors_masked_accuracy": accuracy(of_true),
        }

    def write_guesses(self, params: Any, path: Path) -> None:
        """Writes what is guessed in some test rows, as text."""
        rows, masked = self.test
        count = len(rows.tokens)
        some = np.linspace(0, count - 1, min(_SHOWN, count)).astype(int)
        masked = jax.tree.map(lambda leaf: np.asarray(leaf)[some], masked)
        logits = self._guess(params, masked, rows.segments[some]).logits
        chances = np.asarray(jax.nn.softmax(logits, axis=-1))  # [rows, M, V]
        pages = []
        for i, row in enumerate(some):
            pages.append(
                guesses.page(
                    self._with_gaps(rows.tokens[row], masked.places[i][masked.chosen[i]]),
                    self._gaps(jax.tree.map(operator.itemgetter(i), masked), chances[i]),
                    f"Test row {row + 1:,} of {count:,}",
                )
            )
        path.write_text("\n\n".join(pages), encoding="utf-8")

    def _with_gaps(self, tokens: np.ndarray, places: np.ndarray) -> list[str]:
        """The documents of a row [L], with [1], [2], ... at some places."""
        words = self._texts.words
        ends = tokens == tokenizer.SEP
        documents = [""]
        start = 0
        number = 0
        for place in range(len(tokens) + 1):
            is_end = place == len(tokens) or ends[place]
            is_gap = place in places
            if not is_end and not is_gap:
                continue
            between = tokens[start:place]
            documents[-1] += words.decode(between[between != tokenizer.PAD])
            if is_gap:
                number += 1
                documents[-1] += f" [{number}] "
            else:
                documents.append("")
            start = place + 1
        return [document for document in documents if document]

    def _gaps(self, masked: Masked, chances: np.ndarray) -> list[guesses.Gap]:
        """The hidden tokens of a row and what is guessed, by probabilities [M, V]."""
        words = self._texts.words
        gaps = []
        for slot in _in_order(masked.places, masked.chosen):
            best = np.argsort(-chances[slot], kind="stable")[:_CANDIDATES]
            gaps.append(
                guesses.Gap(
                    words.token(masked.labels[slot]),
                    words.token(masked.tokens[masked.places[slot]]),
                    tuple(
                        guesses.Candidate(words.token(token), float(chances[slot, token]))
                        for token in best
                    ),
                )
            )
        return gaps

    def _hidden(self, rows: Packed) -> HeldOut:
        """Rows with single tokens hidden, also where training hides whole words."""
        keys = jax.random.split(jax.random.key(0), len(rows.tokens))
        return HeldOut(rows, self._guesser.mask(keys, rows._replace(words=None), SHARE))

    def _metrics(
        self, params: Any, held_out: HeldOut, prefix: str
    ) -> tuple[dict[str, float], np.ndarray]:
        """The metrics of one split, and features [N, D] of its rows."""
        rows, masked = held_out
        score = self._score(params, masked, rows.segments)
        hidden = max(int(masked.chosen.sum()), 1)
        metrics = {
            f"{prefix}accuracy": int(score.right.sum()) / hidden,
            f"{prefix}loss": float(score.loss.sum()) / hidden,
        }
        return metrics, np.asarray(score.features)


def _one_by_one(
    score: Callable[[Any, Masked, jax.Array], Score],
    params: Any,
    masked: Masked,
    segments: jax.Array,
) -> Score:
    """The score of each of N rows, in batches: leaves [N, ...]."""

    def one(row: tuple[Masked, jax.Array]) -> Score:
        alone = jax.tree.map(lambda leaf: leaf[None], row)
        found = score(params, *alone)
        return found._replace(features=found.features[0])

    return jax.lax.map(one, (masked, segments), batch_size=64)


def _in_order(places: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """The slots that are chosen, bool [M], in the order of their places [M]."""
    slots = np.flatnonzero(chosen)
    return slots[np.argsort(places[slots])]
