"""BERT: an encoder of text learns by guessing tokens that were hidden from it.

Devlin et al. 2019. Seven minutes on one core: 48 % of hidden tokens, an n-gram 36 %, of true
neighbors 40 % (docs/results/).

    python run.py --exp=bert

Of each row, 30 % of the tokens are chosen; 80 % of these become [MASK], 10 % another token, 10 %
stay (section 3.1). All of them are to be guessed: with y_i the i-th of n chosen tokens, of all
devices, and p_i the distribution that is predicted for its place,

    loss = -1 / n sum_i log p_i(y_i)

Masks are drawn anew for every batch, inside the update. Rows are packed: attention stays within a
document. Held-out text has 15 % of its tokens hidden, whatever training hides, always the same
ones. Deviations from the paper: normalization before each layer; distances between tokens in place
of absolute positions; 30 % of the tokens, not 15, which teach more per update (Wettig et al. 2023);
Muon for Adam; no next-sentence prediction.
Shapes: B rows in a batch (on one device), L tokens in a row, M of them hidden at most, D width of a
token, V vocabulary.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import optax

from missing_bits import collectives, optimizers
from missing_bits.augment import tokens
from missing_bits.augment.tokens import Masked
from missing_bits.data import tokenizer
from missing_bits.data.packing import Packed
from missing_bits.data.source import BatchSource
from missing_bits.data.text import Text, Texts
from missing_bits.encoders import files
from missing_bits.encoders.text import TextEncoder
from missing_bits.encoders.variables import Variables
from missing_bits.errors import require, require_between, require_positive
from missing_bits.eval import collapse
from missing_bits.eval.evaluation import Evaluation
from missing_bits.eval.masked_tokens import Guesses, MaskedTokens, Score
from missing_bits.metrics import Metrics, where
from missing_bits.nets import text
from missing_bits.options import Flat
from missing_bits.plan import Plan


@dataclass(frozen=True)
class Config:
    """BERT. Periods and budgets count updates."""

    text: Flat[Text] = Text()
    updates: int = 1_000
    """Budget, in updates."""
    batch_size: int = 32
    """Rows per update, over all devices."""
    network: Literal[
        "bert_nano", "bert_tiny", "bert_mini", "bert_small", "bert_medium", "bert_base"
    ] = "bert_tiny"
    """Encoder. bert_nano is for tests."""
    dropout: float = 0.0
    """Share of each layer's output that is dropped in training, 0 to 0.9."""
    bfloat16: bool = False
    """Compute the encoder in bfloat16; parameters stay float32."""
    mask_share: float = 0.3
    """Share of a row's tokens that are to be guessed in training, above 0 and below 1."""
    whole_words: bool = False
    """Hide whole words, not single tokens."""
    optimizer: optimizers.Optimizer = optimizers.Optimizer(
        "muon", learning_rate=0.02, momentum=0.95, weight_decay=0.01
    )
    """How parameters move."""


PRESETS: dict[str, dict[str, Any]] = {
    "stdlib": {"vocabulary": 8_192},
}
TINY = {
    "data": "topics",
    "vocabulary": 256,
    "length": 32,
    "network": "bert_nano",
    "updates": 12,
    "batch_size": 16,
}


class Params(NamedTuple):
    """Parameters of both networks."""

    encoder: Any
    head: Any

    @property
    def encoder_variables(self) -> Variables:
        """Those of the encoder as it is handed over."""
        return Variables(self.encoder, {})


class State(NamedTuple):
    """Everything a run knows."""

    params: Params
    opt_state: optax.OptState


@dataclass(frozen=True)
class Model:
    """The encoder and the head that guesses; what is hidden from them, and what that costs."""

    encoder: TextEncoder
    head: hk.Transformed
    """Maps (encoded tokens [B, M, D], embeddings [V, D]) to logits [B, M, V]."""
    whole_words: bool

    def init(self, key: jax.Array) -> Params:
        """Fresh parameters."""
        encoder_key, head_key = jax.random.split(key)
        encoder = self.encoder.init(encoder_key).params
        table = self.encoder.table(encoder)
        return Params(encoder, self.head.init(head_key, table[:1], table))

    def mask(self, keys: jax.Array, rows: Packed, share: float) -> Masked:
        """Hides tokens of rows [B, L]; each row's draw depends on its own key alone."""
        mask = functools.partial(
            tokens.mask,
            share=share,
            vocabulary=self.encoder.vocabulary,
            specials=tokenizer.SPECIALS,
            mask_id=tokenizer.MASK,
        )
        words = rows.words if self.whole_words else None
        return jax.vmap(mask)(keys, rows.tokens, rows.tokens >= tokenizer.SPECIALS, words)

    def guess(
        self,
        params: Params,
        masked: Masked,
        segments: jax.Array,
        keys: jax.Array | None = None,
    ) -> Guesses:
        """Logits of the hidden tokens.

        Args:
          params: parameters.
          masked: rows with hidden tokens.
          segments: int [B, L], the document that each token belongs to.
          keys: [B] for dropout; None for none.
        """
        encoder = params.encoder_variables
        encoded = self.encoder.tokens(encoder, masked.tokens, segments, keys)  # [B, L, D]
        hidden = jnp.take_along_axis(encoded, masked.places[:, :, None], axis=1)  # [B, M, D]
        table = self.encoder.table(params.encoder)
        return Guesses(self.head.apply(params.head, hidden, table), encoded)

    def score(
        self,
        params: Params,
        masked: Masked,
        segments: jax.Array,
        keys: jax.Array | None = None,
    ) -> Score:
        """The cross-entropy summed over the chosen tokens; the arguments are those of `guess`."""
        logits, encoded = self.guess(params, masked, segments, keys)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, masked.labels)  # [B, M]
        right = (jnp.argmax(logits, axis=-1) == masked.labels) & masked.chosen
        loss = jnp.sum(losses * masked.chosen)
        return Score(loss, jnp.sum(right), jnp.mean(encoded, axis=1))


class Resources(NamedTuple):
    """What rows share."""

    texts: Texts
    model: Model
    evaluation: Evaluation  # of `Params`


class BERT:
    """The method, as functions on `State`."""

    subject = "data"

    @staticmethod
    def check(config: Config) -> None:
        """Raises `UserError` for settings that cannot run."""
        require_positive(config, "updates", "batch_size")
        require(
            0 < config.mask_share < 1,
            f"--mask-share is {config.mask_share}; it must lie above 0 and below 1.",
        )
        require_between(config, 0, 0.9, "dropout")

    @staticmethod
    def resources(config: Config) -> Resources:
        """Text and its tokenizer, the networks, and the hidden tokens of held-out text."""
        texts = config.text.read()
        encoder = TextEncoder(
            config.network,
            texts.words.size,
            config.text.length,
            texts.words.to_json(),
            config.dropout,
            config.bfloat16,
        )
        model = Model(encoder, text.word_head(), config.whole_words)
        return Resources(texts, model, MaskedTokens(texts, model).evaluation())

    def __init__(self, config: Config, resources: Resources) -> None:
        self.config = config
        self.resources = resources
        self.plan = Plan(
            config.updates, evaluations=10, shown=("train/masked_accuracy", "train/loss")
        )
        self.evaluation = resources.evaluation
        self.data_digest = resources.texts.digest
        self.model = resources.model
        self.optimizer = optimizers.make(config.optimizer, config.updates)

    def source(self, seeds: Sequence[int]) -> BatchSource:
        """Batches of training rows."""
        return BatchSource(self.resources.texts.train, seeds, self.config.batch_size)

    def init(self, key: jax.Array) -> State:
        """The state before the first update."""
        params = self.model.init(key)
        return State(params, self.optimizer.init(params))

    def loss(
        self,
        params: Params,
        masked: Masked,
        segments: jax.Array,
        keys: jax.Array | None,
        count: jax.Array,
    ) -> tuple[jax.Array, Score]:
        """This device's part of the mean over the `count` chosen tokens of all devices.

        Args:
          params: parameters.
          masked: rows with hidden tokens, this device's share.
          segments: int [B, L], the document that each token belongs to.
          keys: [B] for dropout; None for none.
          count: n, a scalar.
        """
        score = self.model.score(params, masked, segments, keys)
        return score.loss / count, score

    def step(self, state: State, batch: Packed, key: jax.Array) -> tuple[State, Metrics]:
        """Draws masks and makes one update."""
        keys = collectives.shard(jax.random.split(key, self.config.batch_size))
        keys = jax.vmap(jax.random.split)(keys)  # [B, 2]
        masked = self.model.mask(keys[:, 0], batch, self.config.mask_share)
        # Devices may hide more and less: their parts of the mean are summed.
        chosen = collectives.total(jnp.sum(masked.chosen))
        count = jnp.maximum(chosen, 1)
        descent = optimizers.descend(
            self.loss,
            self.optimizer,
            state.params,
            state.opt_state,
            masked,
            batch.segments,
            keys[:, 1],
            count,
            reduce=collectives.total,
        )
        accuracy = collectives.total(descent.aux.right) / count
        metrics = {  # of a batch in which nothing could be hidden, there are none of the first two
            "train/loss": where(chosen > 0, descent.loss),
            "train/masked_accuracy": where(chosen > 0, accuracy),
            "train/gradient_norm": descent.gradient_norm,
            "train/feature_deviation": collapse.feature_deviation(descent.aux.features),
        }
        return State(descent.params, descent.opt_state), metrics

    def learned(self, state: State) -> Params:
        """The parameters."""
        return state.params

    def hand_over(self, learned: Params, path: Path, facts: Mapping[str, Any]) -> None:
        """Writes the encoder with its tokenizer, and the head that guesses.

        The tokenizer stands in a file of its own too.
        """
        files.save(path, self.model.encoder, learned.encoder_variables, facts, learned.head)
        (path.parent / "tokenizer.json").write_text(self.model.encoder.tokenizer)
