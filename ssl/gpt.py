"""GPT: a network learns text by predicting each token from those before it.

Radford et al. 2019; the default is nanoGPT's recipe for a CPU, two thousand updates. On tiny
shakespeare it reaches 1.80 nats per character (one seed) where windows of held-out text do not
overlap, as nanoGPT judges itself (1.88), and 1.77 by the default; a 5-gram 1.67.

    python run.py --exp=gpt
    python run.py --exp=gpt --data=txt:shakespeare.txt --split=end --stride=64
    python run.py sample --from=RUN --prompt="The "

With x_0 ... x_L a row of tokens, of any of the B in a batch, and p the prediction of the network,

    loss = -1 / (B L) sum_t log p(x_t | x_0 ... x_{t-1})

Rows begin at any place of the text, each as often as the others. A document starts from its SEP:
there the network forgets what was before, and the loss of a document does not depend on another.
Any of the networks of `nets/sequences/` predicts (`--network`). The embeddings of tokens are also
the last weights, whose product with what the network gives are the logits (Press and Wolf 2017).
Deviations from GPT-2: weights of layers start as Glorot and Bengio (2010) have them; the optimizer
is nanoGPT's. Held-out text counts as a whole (eval/next_tokens.py).
Shapes: B rows in a batch (on one device), L tokens of the context, D width, V vocabulary.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from missing_bits import collectives, optimizers, options
from missing_bits.data.source import BatchSource
from missing_bits.data.text import Streams, Text
from missing_bits.data.tokenizer import SEP
from missing_bits.encoders import files
from missing_bits.encoders.causal import CausalEncoder
from missing_bits.encoders.variables import Variables
from missing_bits.errors import require, require_positive
from missing_bits.eval.evaluation import Evaluation
from missing_bits.eval.next_tokens import NextTokens, stride_of
from missing_bits.losses import next_token
from missing_bits.metrics import Metrics
from missing_bits.nets.sequences.stack import Settings
from missing_bits.options import Flat
from missing_bits.plan import Plan

SIZES: dict[str, dict[str, int]] = {
    "gpt_micro": {"layers": 4, "heads": 4, "width": 128, "length": 64},  # nanoGPT's for a CPU
    "gpt_mini": {"layers": 6, "heads": 6, "width": 384, "length": 256},  # and for a GPU
    "gpt2": {"layers": 12, "heads": 12, "width": 768, "length": 1024},  # 124 M with 50,257 tokens
    "gpt2_medium": {"layers": 24, "heads": 16, "width": 1024, "length": 1024},  # 355 M
    "gpt2_large": {"layers": 36, "heads": 20, "width": 1280, "length": 1024},  # 774 M
    "gpt2_xl": {"layers": 48, "heads": 25, "width": 1600, "length": 1024},  # 1,558 M
}
_MICRO = SIZES["gpt_micro"]


@dataclass(frozen=True)
class Config:
    """GPT. Periods and budgets count updates."""

    text: Flat[Text] = Text(length=_MICRO["length"], tokenizer="characters")
    sequences: Flat[Settings] = Settings(
        "transformer", layers=_MICRO["layers"], width=_MICRO["width"], heads=_MICRO["heads"]
    )
    size: Literal[
        "custom", "gpt_micro", "gpt_mini", "gpt2", "gpt2_medium", "gpt2_large", "gpt2_xl"
    ] = "custom"
    """A published size, in place of --layers, --heads, --width and --length: nanoGPT's for a CPU
    (the default) or a GPU, or GPT-2's."""
    updates: int = 2_000
    """Budget, in updates."""
    batch_size: int = 12
    """Rows per update, over all devices."""
    stride: int = 0
    """Held-out text: tokens from one window to the next, in which alone predictions count; the rest
    of the window is context. 0 for half of --length."""
    optimizer: optimizers.Optimizer = optimizers.Optimizer(
        learning_rate=1e-3, warmup=0.05, end=0.1, weight_decay=0.1, squares=0.99, clip=1.0
    )
    """How parameters move."""


PRESETS: dict[str, dict[str, Any]] = {
    "stdlib": {"tokenizer": "bpe", "vocabulary": 4_096},
}
TINY = {
    "data": "topics",
    "length": 16,
    "layers": 1,
    "width": 16,
    "heads": 2,
    "updates": 12,
    "batch_size": 16,
}


def sized(config: Config) -> Config:
    """The configuration with the numbers of its size.

    Raises:
      UserError: some of them are given as well.
    """
    if config.size == "custom":
        return config
    default = Config()
    for name, number in SIZES[config.size].items():
        given = options.value(config, name)
        require(
            given in (number, options.value(default, name)),
            f"--{name}={given}, but --size={config.size} has a {name} of its own, {number}; leave "
            "one of the two away.",
        )
    return options.replace(config, SIZES[config.size])


class Rows(NamedTuple):
    """Pieces of a text that begin at every place: a token more than the context has."""

    tokens: np.ndarray  # int32 [N, L + 1]


class State(NamedTuple):
    """Everything a run knows."""

    params: Any
    opt_state: optax.OptState


class Model(NamedTuple):
    """The network, and what its predictions cost."""

    encoder: CausalEncoder

    def encode(
        self, params: Any, inputs: jax.Array, has_ends: bool, keys: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """What a network makes of rows, [B L, D], and the embeddings, [V, D]: factors of logits.

        Args:
          params: of the encoder.
          inputs: int [B, L].
          has_ends: whether documents may end within rows.
          keys: [B] for dropout; None for none.
        """
        reset = inputs == SEP if has_ends else None
        y = self.encoder.tokens(Variables(params, {}), inputs, reset, keys)  # [B, L, D]
        compute = jnp.bfloat16 if self.encoder.settings.bfloat16 else jnp.float32
        table = self.encoder.table(params)
        return y.reshape(-1, y.shape[2]).astype(compute), table.astype(compute)

    def losses(self, params: Any, inputs: jax.Array, targets: jax.Array) -> jax.Array:
        """The losses [B, L] of the tokens [B, L] that follow inputs [B, L], in nats."""
        x, table = self.encode(params, inputs, has_ends=True)
        return next_token.each(x, table, targets.reshape(-1)).reshape(targets.shape)


class Resources(NamedTuple):
    """What rows share."""

    streams: Streams
    model: Model
    evaluation: Evaluation  # of the parameters


class GPT:
    """The method, as functions on `State`."""

    subject = "data"

    @staticmethod
    def check(config: Config) -> None:
        """Raises `UserError` for settings that cannot run."""
        require_positive(config, "updates", "batch_size")
        config = sized(config)
        stride_of(config.stride, config.text.length)

    @staticmethod
    def resources(config: Config) -> Resources:
        """Text and its tokenizer, the network, and the n-gram that it is compared with."""
        config = sized(config)
        streams = config.text.read_streams()
        length = config.text.length
        encoder = CausalEncoder(
            config.sequences, streams.words.size, length, streams.words.to_json()
        )
        model = Model(encoder)
        stride = stride_of(config.stride, length)
        judge = NextTokens(streams, encoder, model.losses, length, stride)
        judge.tell_baselines()
        return Resources(streams, model, judge.evaluation())

    def __init__(self, config: Config, resources: Resources) -> None:
        self.config = config
        self.resources = resources
        self.plan = Plan(config.updates)
        self.evaluation = resources.evaluation
        self.data_digest = resources.streams.digest
        self.model = resources.model
        self.optimizer = optimizers.make(config.optimizer, config.updates)
        tokens = resources.streams.train.tokens
        # Those at both ends of the text are within no row; without others attention is faster.
        self.has_ends = bool((tokens[1:-1] == SEP).any())

    def source(self, seeds: Sequence[int]) -> BatchSource:
        """Batches of rows that begin anywhere in the training text."""
        tokens = self.resources.streams.train.tokens
        length = self.model.encoder.length
        rows = np.lib.stride_tricks.sliding_window_view(tokens, length + 1)  # no copy
        return BatchSource(Rows(rows), seeds, self.config.batch_size)

    def init(self, key: jax.Array) -> State:
        """The state before the first update."""
        params = self.model.encoder.init(key).params
        return State(params, self.optimizer.init(params))

    def loss(
        self, params: Any, tokens: jax.Array, keys: jax.Array | None
    ) -> tuple[jax.Array, None]:
        """The mean over this device's predictions in rows [B, L + 1], by keys [B] for dropout."""
        x, table = self.model.encode(params, tokens[:, :-1], self.has_ends, keys)
        targets = tokens[:, 1:].reshape(-1)  # [B L]
        return next_token.total(x, table, targets) / targets.size, None

    def step(self, state: State, batch: Rows, key: jax.Array) -> tuple[State, Metrics]:
        """Makes one update."""
        keys = None
        if self.model.encoder.settings.dropout:
            keys = collectives.shard(jax.random.split(key, self.config.batch_size))
        descent = optimizers.descend(
            self.loss, self.optimizer, state.params, state.opt_state, batch.tokens, keys
        )
        metrics = {"train/loss": descent.loss, "train/gradient_norm": descent.gradient_norm}
        return State(descent.params, descent.opt_state), metrics

    def learned(self, state: State) -> Any:
        """The parameters."""
        return state.params

    def hand_over(self, learned: Any, path: Path, facts: Mapping[str, Any]) -> None:
        """Writes the encoder with its tokenizer, which stands in a file of its own too."""
        files.save(path, self.model.encoder, Variables(learned, {}), facts)
        words = self.resources.streams.words
        (path.parent / "tokenizer.json").write_text(words.to_library_json())
