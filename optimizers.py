"""Optimizers of pretraining: AdamW, LARS and Muon with a warm-up, a cosine, and the published exclusions."""

import re
from dataclasses import dataclass
from typing import Any, Literal

import jax
import optax
from optax import contrib

from missing_bits.errors import require, require_between, require_positive


@dataclass(frozen=True)
class Optimizer:
    """The step size rises linearly, then falls as a cosine over the rest of the budget."""

    name: Literal["adamw", "lars", "muon"] = "adamw"
    """AdamW (Loshchilov and Hutter 2019), LARS with momentum (You et al. 2017), or Muon (Jordan et al. 2024)."""
    learning_rate: float = 3e-3
    """Largest step size, whatever the batch size."""
    warmup: float = 0.05
    """Share of the budget over which the step size rises, 0 up to 1."""
    end: float = 0.001
    """The last step size as a share of the largest, 0 to 1."""
    weight_decay: float = 1e-4
    """Decay of weights, coupled to the step size; biases and normalization parameters are left alone."""
    momentum: float = 0.9
    """Momentum of LARS and Muon, and AdamW's average of gradients, 0 up to 1."""
    squares: float = 0.999
    """AdamW's average of squared gradients, also where Muon leaves parameters to it, 0 up to 1."""
    trust: float = 0.001
    """LARS: length of a step as a share of its weights' length, before the step size multiplies it."""
    vector_scale: float = 1.0
    """Factor on the step size of biases and normalization parameters."""


def schedule(config: Optimizer, updates: int) -> optax.Schedule:
    """The step size at each update of a budget of `updates`."""
    warmup, peak = int(config.warmup * updates), config.learning_rate
    return optax.warmup_cosine_decay_schedule(
        0.0 if warmup else peak, peak, warmup, updates, peak * config.end
    )


def make(config: Optimizer, updates: int) -> optax.GradientTransformation:
    """The optimizer for a budget of `updates`; raises `UserError` for settings that cannot train.

    Parameters with at most one axis, biases and those of normalization, are excluded from weight decay and from the
    adaptation of LARS, as published (Grill et al. 2020, appendix J; Zbontar et al. 2021, section 2.2). As in their
    code, the step size multiplies what momentum has gathered.

    Muon takes the weights of linear layers and convolutions, as matrices from inputs to outputs, and moves each along
    the orthogonal matrix next to its momentum, with steps as long as those of Adam (Liu et al. 2025, arXiv:2502.16982,
    section 2.2). It leaves embeddings, biases and all else to AdamW.
    """
    require_positive(config, "learning_rate", "trust", "vector_scale", prefix="optimizer.")
    require_between(config, 0, 1, "end", prefix="optimizer.")
    require_between(config, 0, 0.9999, "warmup", "momentum", "squares", prefix="optimizer.")
    require_between(config, 0, float("inf"), "weight_decay", prefix="optimizer.")

    def weights(params: Any) -> Any:
        return jax.tree.map(lambda p: p.ndim > 1, params)

    def vectors(params: Any) -> Any:
        return jax.tree.map(lambda p: p.ndim <= 1, params)

    step_size = optax.scale_by_learning_rate(schedule(config, updates))
    slow_vectors = optax.masked(optax.scale(config.vector_scale), vectors)
    decay = optax.add_decayed_weights(config.weight_decay, weights)
    adam = optax.scale_by_adam(b1=config.momentum, b2=config.squares)
    if config.name == "adamw":
        return optax.chain(adam, decay, slow_vectors, step_size)
    if config.name == "muon":
        muon = optax.chain(
            contrib.scale_by_muon(beta=config.momentum, weight_dimension_numbers=_matrices),
            optax.stateless(lambda moves, params: jax.tree.map(_as_long_as_adam, moves)),
        )
        return optax.chain(
            optax.partition({"muon": muon, "adam": adam}, _takes), decay, slow_vectors, step_size
        )
    adapt = optax.masked(optax.scale_by_trust_ratio(trust_coefficient=config.trust), weights)
    return optax.chain(decay, adapt, optax.trace(config.momentum), slow_vectors, step_size)


def _takes(params: Any) -> Any:
    """Whether Muon or Adam moves each parameter: those of layers are called "w"."""
    return jax.tree_util.tree_map_with_path(
        lambda path, p: "muon" if p.ndim > 1 and path[-1] == jax.tree_util.DictKey("w") else "adam",
        params,
    )


def _matrices(params: Any) -> Any:
    """How each weight is a matrix: its last axis counts the outputs, the others the inputs."""
    return jax.tree.map(
        lambda p: contrib.MuonDimensionNumbers(tuple(range(p.ndim - 1)), p.ndim - 1), params
    )


def _as_long_as_adam(move: jax.Array) -> jax.Array:
    """An orthogonal matrix, scaled so that its elements have a root mean square of 0.2."""
    return 0.2 * max(move.size // move.shape[-1], move.shape[-1]) ** 0.5 * move


def layerwise(decay: float, encoder: Any) -> optax.GradientTransformation:
    """Smaller steps for lower layers of a transformer (Clark et al. 2020, "ELECTRA", appendix): the last to transform.

    With n blocks, updates of what embeds are multiplied by decay^(n + 1), those of block i (from 0) by decay^(n - i),
    and all others, the last normalization and whatever stands on the encoder, by 1.

    Args:
      decay: factor from a layer to the one below, in (0, 1].
      encoder: Haiku parameters of the encoder, to count its blocks.

    Raises:
      UserError: the encoder is no transformer.
    """
    blocks = {found[1] for module in encoder if (found := _BLOCK.search(module))}
    require(
        bool(blocks), f"--layer-decay is {decay}, but the encoder is no transformer; leave it at 1."
    )

    def scaled(path: Any, update: jax.Array) -> jax.Array:
        name = jax.tree_util.keystr(path)
        if found := _BLOCK.search(name):
            return update * decay ** (len(blocks) - int(found[1] or 0))
        return update * decay ** (len(blocks) + 1) if _EMBEDS.search(name) else update

    return optax.stateless(
        lambda updates, params: jax.tree_util.tree_map_with_path(scaled, updates)
    )


_BLOCK = re.compile(r"transformer/block(?:_(\d+))?\b")
_EMBEDS = re.compile(r"transformer/embed|class_token")
