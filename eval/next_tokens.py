"""How well the next token is predicted, over the whole of held-out text, beside an n-gram.

Every token but the first SEP is predicted exactly once, the ends of documents among them. The text
is read in windows of the context's length, each of which begins some tokens (the stride) after the
one before; what counts in it are the predictions that no window before has made. With a stride of
half the context a token therefore has at least half a context before it, as far as its document
goes; with one of the whole context it has anything from none on, as in training.

The loss is in nats per token. Bits per byte are the bits of all predictions over the bytes of the
text in UTF-8 (white space, unknown letters and all), so that they can be compared whatever the text
is cut into: 8 for a model to which all bytes are alike. A token for an unknown character or word
does not tell which it is: there 8 bits come to the prediction for each of its bytes, as if they
were written out. Words of WordPiece do not tell the white space between them: there they are bits
of a text without it.
Shapes: T tokens of a text, N windows, L tokens of each, S the stride, V vocabulary.
"""

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from missing_bits.data.text import Stream, Streams
from missing_bits.encoders.causal import CausalEncoder
from missing_bits.encoders.variables import Variables
from missing_bits.errors import require
from missing_bits.eval import witten_bell
from missing_bits.eval.evaluation import Evaluation, Headline
from missing_bits.eval.sampling import Sampling
from missing_bits.eval.writer import Writer
from missing_bits.notes import say
from missing_bits.numeric import ceil_div

_TOKENS = 1 << 12  # of the windows that are read at once
_LOGITS = 1 << 24  # of them, at most
_SAMPLES = 3
_WRITTEN = 256  # tokens of each sample
_PROMPT = 16  # tokens of held-out text that a sample goes on from

Losses = Callable[[Any, jax.Array, jax.Array], jax.Array]
"""(parameters, inputs [B, L], targets [B, L]) -> the losses of the targets [B, L], in nats."""


class Windows(NamedTuple):
    """A text as it is read."""

    inputs: np.ndarray  # int32 [N, L]
    targets: np.ndarray  # int32 [N, L], each the token after its input
    counts: np.ndarray  # bool [N, L]; where it holds, the targets are the text in its order


def windows(tokens: np.ndarray, length: int, stride: int) -> Windows:
    """The windows of a text.

    Args:
      tokens: int [T], T above L.
      length: L.
      stride: S, 1 to L. The last window may be nearer to the one before.
    """
    last = len(tokens) - 1 - length
    starts = np.append(np.arange(0, last, stride), last)  # [N]
    places = starts[:, None] + np.arange(length)  # [N, L]
    ends = np.append(0, starts[:-1] + length)  # how far the windows before have come
    return Windows(tokens[places], tokens[places + 1], places >= ends[:, None])


class NextTokens:
    """Judges language models of one kind on one text.

    Args:
      streams: the text.
      encoder: what reads it.
      losses: of its parameters.
      length: L, in tokens.
      stride: S, in tokens.
    """

    def __init__(
        self, streams: Streams, encoder: CausalEncoder, losses: Losses, length: int, stride: int
    ) -> None:
        self._streams = streams
        self._encoder = encoder
        self._length = length
        self._stride = stride
        self._at_once = max(1, min(_TOKENS // length, _LOGITS // (length * streams.words.size)))
        self._losses = jax.jit(functools.partial(_one_by_one, losses))

    def evaluation(self) -> Evaluation:
        """Scores, baselines and a sample of a model's parameters."""

        def scores(params: Any, key: jax.Array, last: bool) -> dict[str, float]:
            return self.scores(params, last)

        def baselines(key: jax.Array) -> dict[str, float]:
            return self.baselines

        def pictures(params: Any, seed: int, folder: Path) -> None:
            self.write_samples(params, seed, folder / "samples.txt")

        headline = Headline("eval/bits_per_byte", larger_is_better=False)
        return Evaluation(headline, scores, baselines, pictures)

    def scores(self, params: Any, last: bool) -> dict[str, float]:
        """Of validation text, in nats per token and bits per byte; of test text at the last."""
        streams = self._streams
        found = _figures(self.losses(params, streams.validation.tokens), streams.validation)
        scores = {f"eval/{name}": value for name, value in found.items()}
        if last:
            if not np.array_equal(streams.test.tokens, streams.validation.tokens):
                found = _figures(self.losses(params, streams.test.tokens), streams.test)
            scores |= {f"eval/{name}_on_test": value for name, value in found.items()}
        return scores

    def losses(self, params: Any, tokens: np.ndarray) -> np.ndarray:
        """The loss of each token of a text [T] but the first, float32 [T - 1]."""
        found = windows(tokens, self._length, self._stride)
        count = len(found.inputs)
        missing = -count % self._at_once
        shape = (-1, self._at_once, self._length)
        # The last window comes again where windows do not fill a batch.
        inputs, targets = (
            np.pad(part, ((0, missing), (0, 0)), mode="edge").reshape(shape)
            for part in (found.inputs, found.targets)
        )
        losses = np.asarray(self._losses(params, inputs, targets))
        return losses.reshape(-1, self._length)[:count][found.counts]

    def tell_baselines(self) -> None:
        """Counts the n-gram, and says in a line what is to be beaten."""
        found = self.baselines
        say(
            f"A {found['baseline/ngram_order']}-gram (interpolated, Witten-Bell), the best of its "
            f"kind on validation text: {found['baseline/ngram_loss']:.4f} nats per token, "
            f"{found['baseline/ngram_bits_per_byte']:.4f} bits per byte."
        )

    @functools.cached_property
    def baselines(self) -> dict[str, float]:
        """What counting makes of the same tokens: it is the same for every seed."""
        train, validation, test = self._streams.train, self._streams.validation, self._streams.test
        found = witten_bell.best(
            train.tokens, validation.tokens, test.tokens, self._streams.words.size
        )
        ngram = _figures(found.validation, validation)
        return {
            "baseline/ngram_order": found.order,
            **{f"baseline/ngram_{name}": value for name, value in ngram.items()},
            **{
                f"baseline/ngram_{name}_on_test": value
                for name, value in _figures(found.test, test).items()
            },
            **{
                f"baseline/unigram_{name}": value
                for name, value in _figures(found.unigram, validation).items()
            },
        }

    def write_samples(self, params: Any, seed: int, path: Path) -> None:
        """Writes what a model makes of the beginnings of some pieces of validation text."""
        words = self._streams.words
        tokens = self._streams.validation.tokens
        prompt = min(_PROMPT, self._length - 1, len(tokens))
        how = Sampling()
        writer = Writer(self._encoder, Variables(params, {}), 1)
        pages = []
        for number, start in enumerate(np.linspace(1, len(tokens) - prompt, _SAMPLES).astype(int)):
            given = tokens[start : start + prompt]
            key = jax.random.fold_in(jax.random.key(seed), number)
            written = np.concatenate(list(writer.write(given, _WRITTEN, how, key)))[:, 0]
            page = (
                f"Sample {number + 1}: what follows | is written by the model, as likely as it is"
            )
            pages.append(
                f"{page}\n{'=' * len(page)}\n\n{words.decode(given)}|{words.decode(written)}\n"
            )
        path.write_text("\n".join(pages), encoding="utf-8")


def _figures(losses: np.ndarray, stream: Stream) -> dict[str, float]:
    """The loss in nats per token and the bits per byte, of losses [T - 1] in nats."""
    nats = float(np.sum(losses, dtype=np.float64))
    bits = nats / math.log(2) + 8 * stream.unknown
    return {"loss": nats / len(losses), "bits_per_byte": bits / stream.size}


def stride_of(asked: int, length: int) -> int:
    """The stride for windows of a length: half of it where 0 is asked for.

    Raises:
      UserError: it is no stride.
    """
    require(
        0 <= asked <= length,
        f"--stride is {asked}; it must lie between 1 and the context, {length}, or be 0 for half "
        "of it.",
    )
    return asked or ceil_div(length, 2)


def _one_by_one(losses: Losses, params: Any, inputs: jax.Array, targets: jax.Array) -> jax.Array:
    """The losses [M, N, L] of M times N windows, N at once."""
    return jax.lax.map(lambda rows: losses(params, *rows), (inputs, targets))
