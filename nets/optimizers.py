"""Optimisers of pretraining: AdamW and LARS with a warm-up, a cosine, and the published exclusions."""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import optax

from missing_bits.errors import require_between, require_positive


@dataclass(frozen=True)
class Optimizer:
    """The step size rises linearly, then falls as a cosine over the rest of the budget."""

    name: Literal["adamw", "lars"] = "adamw"
    """AdamW (Loshchilov and Hutter 2019) or LARS with momentum (You et al. 2017)."""
    learning_rate: float = 3e-3
    """Largest step size, whatever the batch size."""
    warmup: float = 0.05
    """Share of the budget over which the step size rises, 0 up to 1."""
    end: float = 0.001
    """The last step size as a share of the largest, 0 to 1."""
    weight_decay: float = 1e-4
    """Decay of weights, coupled to the step size; biases and normalisation parameters are left alone."""
    momentum: float = 0.9
    """Momentum of LARS, and AdamW's average of gradients, 0 up to 1."""
    trust: float = 0.001
    """LARS: length of a step as a share of its weights' length, before the step size multiplies it."""
    vector_scale: float = 1.0
    """Factor on the step size of biases and normalisation parameters."""


def schedule(config: Optimizer, updates: int) -> optax.Schedule:
    """The step size at each update of a budget of `updates`."""
    warmup, peak = int(config.warmup * updates), config.learning_rate
    return optax.warmup_cosine_decay_schedule(0.0 if warmup else peak, peak, warmup, updates, peak * config.end)


def make(config: Optimizer, updates: int) -> optax.GradientTransformation:
    """The optimiser for a budget of `updates`; raises `UserError` for settings that cannot train.

    Parameters with at most one axis, biases and those of normalisation, are excluded from weight decay and from the
    adaptation of LARS, as published (Grill et al. 2020, appendix J; Zbontar et al. 2021, section 2.2). As in their
    code, the step size multiplies what momentum has gathered.
    """
    require_positive(config, "learning_rate", "trust", "vector_scale", prefix="optimizer.")
    require_between(config, 0, 1, "end", prefix="optimizer.")
    require_between(config, 0, 0.999, "warmup", "momentum", prefix="optimizer.")
    require_between(config, 0, float("inf"), "weight_decay", prefix="optimizer.")

    def weights(params: Any) -> Any:
        return jax.tree.map(lambda p: p.ndim > 1, params)

    def vectors(params: Any) -> Any:
        return jax.tree.map(lambda p: p.ndim <= 1, params)

    step_size = optax.scale_by_learning_rate(schedule(config, updates))
    slow_vectors = optax.masked(optax.scale(config.vector_scale), vectors)
    decay = optax.add_decayed_weights(config.weight_decay, weights)
    if config.name == "adamw":
        return optax.chain(optax.scale_by_adam(b1=config.momentum), decay, slow_vectors, step_size)
    adapt = optax.masked(optax.scale_by_trust_ratio(trust_coefficient=config.trust), weights)
    return optax.chain(decay, adapt, optax.trace(config.momentum), slow_vectors, step_size)
