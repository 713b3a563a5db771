"""Masked language modeling: an encoder learns by guessing tokens that were hidden from it (BERT: Devlin et al. 2019).

    python run.py --exp=masked_language  # 48.2 % of hidden tokens (n-gram 36.1, of true neighbors 39.9), 3 seeds

Of each row, 30 % of the tokens are chosen; 80 % of these become [MASK], 10 % another token, 10 % stay (section 3.1).
All of them are to be guessed. The masks are drawn anew for every batch, inside the update. Rows are packed: attention
stays within a document. The loss is the cross-entropy summed over the chosen tokens of all devices, over their number.
Held-out text has 15 % of its tokens hidden, whatever training hides, always the same ones.
Deviations from the paper: normalization before each layer; distances between tokens in place of absolute positions;
30 % of the tokens, not 15, which teach more per update (Wettig et al. 2023); no next-sentence prediction.
Shapes: B rows in a batch (on one device), L tokens in a row, M of them hidden at most, D width, V vocabulary.
"""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from missing_bits import collectives, optimizers
from missing_bits.augment import tokens
from missing_bits.augment.tokens import Masked
from missing_bits.data import tokenizer
from missing_bits.data.load import load_text
from missing_bits.data.packing import Packed, pack
from missing_bits.data.source import BatchSource
from missing_bits.encoders import files
from missing_bits.encoders.text import TextEncoder
from missing_bits.encoders.variables import Variables
from missing_bits.errors import require, require_between, require_positive
from missing_bits.eval import collapse
from missing_bits.eval.ngram import Ngram
from missing_bits.nets import text


@dataclass(frozen=True)
class Config:
    """Masked language modeling. Periods and budgets count updates."""

    data: str = "topics"
    """Text: topics (Python's help), stdlib (the sources of Python's library), txt:PATH (a file, or a folder)."""
    updates: int = 1_000
    """Budget, in updates."""
    batch_size: int = 32
    """Rows per update, over all devices."""
    length: int = 128
    """Tokens in a row."""
    tokenizer: Literal["wordpiece", "bytes"] = "wordpiece"
    """How text is cut: into pieces of words, chosen on the training text, or into bytes."""
    vocabulary: int = 4_096
    """wordpiece: number of different tokens, at most."""
    network: Literal["bert_tiny", "bert_mini", "bert_small", "bert_medium", "bert_base"] = (
        "bert_tiny"
    )
    """Encoder."""
    dropout: float = 0.0
    """Share of each layer's output that is dropped in training, 0 up to 1."""
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


_EVALUATED_SHARE = 0.15  # of the tokens, hidden in held-out text


class State(NamedTuple):
    """Everything a run knows."""

    params: dict[str, Any]  # of "encoder" and "head"
    opt_state: optax.OptState


class MaskedLanguage:
    """The method, as functions on `State`."""

    unit, unit_per_update, evaluations, small = "updates", 1, 10, False
    headline, split_over_devices = "eval/masked_accuracy", ("batch_size",)

    def __init__(self, config: Config) -> None:
        check(config)
        self.config, self.budget = config, config.updates
        corpus = load_text(config.data)
        self.data_digest = corpus.digest
        self.words = tokenizer.train(
            (d.text for d in corpus.train), config.tokenizer, config.vocabulary
        )
        self.train, self.validation, self.test = (
            pack(
                self.words.encode_all(d.text for d in getattr(corpus, split)),
                config.length,
                f"{split} split",
            )
            for split in ("train", "validation", "test")
        )
        sizes = self.words.size, config.length, self.words.to_json()
        self.encoder = TextEncoder(config.network, *sizes, config.dropout, config.bfloat16)
        self.head = text.word_head()
        self.optimizer = optimizers.make(config.optimizer, config.updates)

    def source(self, seeds: Any) -> BatchSource:
        """Batches of training rows."""
        return BatchSource(self.train, seeds, self.config.batch_size)

    def init(self, key: jax.Array) -> State:
        """The state before the first update."""
        encoder_key, head_key = jax.random.split(key)
        encoder = self.encoder.init(encoder_key).params
        table = self.encoder.table(encoder)
        params = {"encoder": encoder, "head": self.head.init(head_key, table[:1], table)}
        return State(params, self.optimizer.init(params))

    def mask(self, keys: jax.Array, rows: Packed, share: float) -> Masked:
        """Rows with hidden tokens, and what these were; each row's draw depends on its own key alone."""
        settings = {"share": share, "vocabulary": self.words.size}
        mask = functools.partial(
            tokens.mask, **settings, specials=tokenizer.SPECIALS, mask_id=tokenizer.MASK
        )
        words = rows.words if self.config.whole_words else None
        return jax.vmap(mask)(keys, rows.tokens, rows.tokens >= tokenizer.SPECIALS, words)

    def logits(
        self, params: Any, masked: Masked, segments: jax.Array, keys: jax.Array | None = None
    ) -> Any:
        """Logits [B, M, V] of the hidden tokens, and all encoded tokens [B, L, D]."""
        encoded = self.encoder.tokens(
            Variables(params["encoder"], {}), masked.tokens, segments, keys
        )
        hidden = jnp.take_along_axis(encoded, masked.places[:, :, None], axis=1)  # [B, M, D]
        return self.head.apply(
            params["head"], hidden, self.encoder.table(params["encoder"])
        ), encoded

    def loss(
        self,
        params: Any,
        masked: Masked,
        segments: jax.Array,
        keys: jax.Array | None,
        count: jax.Array,
    ) -> tuple[jax.Array, Any]:
        """This device's part of the mean over `count` hidden tokens; how many it guesses, and features to watch."""
        logits, encoded = self.logits(params, masked, segments, keys)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, masked.labels)  # [B, M]
        right = jnp.sum((jnp.argmax(logits, axis=-1) == masked.labels) & masked.chosen)
        return jnp.sum(losses * masked.chosen) / count, (right, jnp.mean(encoded, axis=1))

    def step(
        self, state: State, batch: Packed, key: jax.Array
    ) -> tuple[State, dict[str, jax.Array]]:
        """Draws masks and makes one update."""
        keys = jax.vmap(jax.random.split)(
            collectives.shard(jax.random.split(key, self.config.batch_size))
        )  # [B, 2]
        masked = self.mask(keys[:, 0], batch, self.config.mask_share)
        count = jnp.maximum(
            collectives.total(jnp.sum(masked.chosen)), 1
        )  # devices may hide more and less
        gradient = jax.value_and_grad(self.loss, has_aux=True)
        (loss, (right, features)), grads = gradient(
            state.params, masked, batch.segments, keys[:, 1], count
        )
        loss, right, grads = collectives.total((loss, right, grads))
        updates, opt_state = self.optimizer.update(grads, state.opt_state, state.params)
        metrics = {"train/loss": loss, "train/masked_accuracy": right / count}
        metrics |= {"train/gradient_norm": optax.tree.norm(grads)}
        metrics["train/feature_deviation"] = collapse.feature_deviation(features)
        return State(optax.apply_updates(state.params, updates), opt_state), metrics

    def learned(self, state: State) -> Any:
        """The parameters."""
        return state.params

    @functools.cached_property
    def held_out(self) -> dict[str, tuple[Packed, Masked]]:
        """The validation and test rows with the one mask under which all models are compared, however they train."""
        return {
            name: (
                rows,
                self.mask(
                    jax.random.split(jax.random.key(0), len(rows.tokens)), rows, _EVALUATED_SHARE
                ),
            )
            for name, rows in (("validation_masked", self.validation), ("masked", self.test))
        }

    @functools.cached_property
    def _score(self) -> Any:
        def one(params: Any, row: tuple[Masked, jax.Array]) -> tuple[jax.Array, ...]:
            masked, segments = jax.tree.map(lambda x: x[None], row)
            loss, (right, features) = self.loss(params, masked, segments, None, jnp.float32(1))
            return loss, right, jnp.sum(masked.chosen), features[0]

        return jax.jit(
            lambda params, rows: jax.lax.map(functools.partial(one, params), rows, batch_size=64)
        )

    def evaluate(self, learned: Any, key: jax.Array) -> dict[str, float]:
        """Accuracy and cross-entropy (in nats) on hidden tokens of held-out text; how features spread."""
        scores = {}
        for name, (rows, masked) in self.held_out.items():
            loss, right, count, features = self._score(learned, (masked, rows.segments))
            hidden = max(int(count.sum()), 1)
            scores |= {
                f"eval/{name}_accuracy": int(right.sum()) / hidden,
                f"eval/{name}_loss": float(loss.sum()) / hidden,
            }
        return scores | collapse.spread(features)

    def baselines(self, key: jax.Array) -> dict[str, float]:
        """What counting makes of the same hidden test tokens: the most frequent token, and the n-gram.

        The n-gram reads what the model reads, where some neighbors are hidden; and once the true neighbors, which
        the model is not shown.
        """
        counts = Ngram(self.train.tokens, self.train.segments, self.words.size, tokenizer.SPECIALS)
        rows, masked = self.held_out["masked"]
        chosen = np.asarray(masked.chosen)
        row, labels = np.nonzero(chosen)[0], np.asarray(masked.labels)[chosen]
        places = rows.segments, row, np.asarray(masked.places)[chosen]
        found = {
            "unigram": counts.unigram,
            "ngram": counts.predict(np.asarray(masked.tokens), *places),
            "ngram_of_true_neighbors": counts.predict(rows.tokens, *places),
        }
        return {
            f"baseline/{name}_masked_accuracy": float(np.mean(said == labels))
            for name, said in found.items()
        }

    def hand_over(self, learned: Any, path: Path, facts: Any) -> None:
        """Writes the encoder with its tokenizer, and the head that guesses; the tokenizer in a file of its own too."""
        files.save(path, self.encoder, Variables(learned["encoder"], {}), facts, learned["head"])
        (path.parent / "tokenizer.json").write_text(self.words.to_json())

    def pictures(self, learned: Any, seed: int, folder: Path) -> None:
        """Writes what the model guesses in some test rows, as text."""
        rows, masked = self.held_out["masked"]
        some = np.linspace(0, len(rows.tokens) - 1, min(4, len(rows.tokens))).astype(int)
        masked = jax.tree.map(lambda x: np.asarray(x)[some], masked)
        logits, _ = jax.jit(self.logits)(learned, masked, rows.segments[some])
        best = np.argsort(-logits, axis=-1)[..., :3]  # [rows, M, 3]
        lines = []
        for i in range(len(some)):
            lines += [self.words.decode(masked.tokens[i]), ""]
            for slot in np.flatnonzero(masked.chosen[i])[
                np.argsort(masked.places[i][masked.chosen[i]])
            ]:
                truth, *guessed = map(self.words.token, (masked.labels[i, slot], *best[i, slot]))
                lines.append(f"  {truth:<20} guessed: {', '.join(guessed)}")
            lines.append("")
        (folder / "guesses.txt").write_text("\n".join(lines))


def check(config: Config) -> None:
    """Raises `UserError` for settings that cannot run."""
    require_positive(config, "updates", "batch_size")
    require(config.length >= 2, f"--length is {config.length}; a row needs at least 2 tokens.")
    least = 2 * tokenizer.SPECIALS
    require(
        config.vocabulary >= least,
        f"--vocabulary is {config.vocabulary}; it must be at least {least}.",
    )
    require(
        0 < config.mask_share < 1,
        f"--mask-share is {config.mask_share}; it must lie above 0 and below 1.",
    )
    require_between(config, 0, 0.9, "dropout")
