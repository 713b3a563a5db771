"""Optimizers: AdamW, LARS and Muon with a warm-up, a cosine, and the published exclusions.

`make` builds one of them, `descend` takes a step with it.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import optax
from optax import contrib

from missing_bits import collectives
from missing_bits.errors import require, require_between, require_positive
from missing_bits.options import row


@dataclass(frozen=True)
class Optimizer:
    """The step size rises linearly, then falls as a cosine over the rest of the budget.

    Of a warm-up of n updates, the first has 1 / (n + 1) of the largest step size.
    """

    name: Literal["adamw", "lars", "muon"] = "adamw"
    """AdamW (Loshchilov and Hutter 2019), LARS with momentum (You et al. 2017), or Muon (Jordan et
    al. 2024)."""
    learning_rate: float = row(3e-3)
    """Largest step size, whatever the batch size."""
    warmup: float = 0.05
    """Share of the budget over which the step size rises, 0 up to 1."""
    end: float = row(0.001)
    """The last step size as a share of the largest, 0 to 1."""
    weight_decay: float = row(1e-4)
    """Decay of weights, coupled to the step size; biases, those of attention too, and normalization
    parameters are left alone."""
    momentum: float = row(0.9)
    """Momentum of LARS and Muon, and AdamW's average of gradients, 0 up to 1."""
    squares: float = row(0.999)
    """AdamW's average of squared gradients, also where Muon leaves parameters to it, 0 up to 1."""
    trust: float = row(0.001)
    """LARS: length of a step as a share of its weights' length, before the step size multiplies
    it."""
    vector_scale: float = row(1.0)
    """Factor on the step size of biases and normalization parameters."""
    clip: float = 0.0
    """Gradients that are longer, all together, are scaled down to this length; 0 for never."""

    def check(self, prefix: str) -> None:
        """Raises `UserError` for settings that cannot train."""
        require_positive(self, "learning_rate", "trust", "vector_scale", prefix=prefix)
        require_between(self, 0, 1, "end", prefix=prefix)
        require_between(self, 0, 0.9999, "warmup", "momentum", "squares", prefix=prefix)
        require_between(self, 0, float("inf"), "weight_decay", "clip", prefix=prefix)


def schedule(config: Optimizer, updates: int) -> optax.Schedule:
    """The step size at each update of a budget of `updates`."""
    warmup = int(config.warmup * updates)
    # From above 0, so that the first update moves something. optax branches on the peak, which
    # therefore is 1: the step size may be traced, and scales.
    first = 1 / (warmup + 1)
    shape = optax.warmup_cosine_decay_schedule(first, 1.0, warmup, updates, config.end)
    return lambda count: config.learning_rate * shape(count)


def make(config: Optimizer, updates: int) -> optax.GradientTransformation:
    """The optimizer for a budget of `updates`; the numbers marked as a row's may be traced.

    Vectors are excluded from weight decay and from the adaptation of LARS, as published (Grill et
    al. 2020, appendix J; Zbontar et al. 2021, section 2.2): parameters with at most one axis, which
    are biases, tokens and those of normalization, and the biases of attention, which have two. As
    in their code, the step size multiplies what momentum has gathered.

    Muon takes the weights of linear layers and convolutions, as matrices from inputs to outputs,
    and moves each along the orthogonal matrix next to its momentum, with steps as long as those of
    Adam (Liu et al. 2025, arXiv:2502.16982, section 2.2). It leaves embeddings, biases and all else
    to AdamW.

    What makes the state matrix of a state-space model (S4) moves by a tenth of the step size and
    does not decay, as in the published code of Gu et al. 2022.
    """
    moves = _moves(config, updates)
    if config.clip:
        return optax.chain(optax.clip_by_global_norm(config.clip), moves)
    return moves


def _moves(config: Optimizer, updates: int) -> optax.GradientTransformation:
    """What makes steps of gradients, whatever their length."""
    step_size = optax.scale_by_learning_rate(schedule(config, updates))
    slow_vectors = optax.masked(optax.scale(config.vector_scale), _vectors)
    slow_states = optax.masked(optax.scale(_OF_STATES), _states)
    slow = optax.chain(slow_vectors, slow_states)
    decay = optax.add_decayed_weights(config.weight_decay, _weights)
    adam = optax.scale_by_adam(b1=config.momentum, b2=config.squares)
    if config.name == "adamw":
        return optax.chain(adam, decay, slow, step_size)
    if config.name == "muon":
        muon = optax.chain(
            contrib.scale_by_muon(beta=config.momentum, weight_dimension_numbers=_matrices),
            optax.stateless(lambda moves, params: jax.tree.map(_as_long_as_adam, moves)),
        )
        layers = optax.partition({"muon": muon, "adam": adam}, _takes)
        return optax.chain(layers, decay, slow, step_size)
    adapt = optax.masked(optax.scale_by_trust_ratio(trust_coefficient=config.trust), _weights)
    return optax.chain(decay, adapt, optax.trace(config.momentum), slow, step_size)


# Parameters of several axes that multiply nothing: biases, and logarithms of rates.
_NO_WEIGHTS = ("by_distance", "log_rate", "state_rate", "state_frequency")
_STATES = ("state_rate", "state_frequency", "state_step")  # of state-space models
_OF_STATES = 0.1  # their part of the step size


def _weights(params: optax.Params) -> Any:
    """Which parameters are weights, which multiply what comes in."""
    return jax.tree_util.tree_map_with_path(
        lambda path, p: p.ndim > 1 and _name(path) not in _NO_WEIGHTS, params
    )


def _states(params: optax.Params) -> Any:
    """Which parameters make the state matrix of a state-space model."""
    return jax.tree_util.tree_map_with_path(lambda path, p: _name(path) in _STATES, params)


def _name(path: Any) -> str | None:
    """The parameter's own name."""
    return getattr(path[-1], "key", None) if path else None


def _vectors(params: optax.Params) -> Any:
    """Which parameters are not."""
    return jax.tree.map(lambda is_weight: not is_weight, _weights(params))


class Descent(NamedTuple):
    """What one step of descent leads to, and what it met on its way."""

    params: optax.Params
    opt_state: optax.OptState
    loss: jax.Array  # scalar, reduced over devices
    aux: Any  # what the loss returned beside it, on this device
    gradient_norm: jax.Array  # scalar: length of the reduced gradients


def descend(
    loss: Callable[..., tuple[jax.Array, Any]],
    optimizer: optax.GradientTransformation,
    params: optax.Params,
    opt_state: optax.OptState,
    *inputs: Any,
    reduce: Callable[[Any], Any] = collectives.mean,
) -> Descent:
    """Moves parameters one step down a loss, the same on all devices that share the update.

    Args:
      loss: maps (params, *inputs) to a scalar and whatever else is wanted of the same pass (`aux`).
      optimizer: what moves parameters along gradients.
      params: where to start.
      opt_state: the optimizer's.
      inputs: further arguments of the loss, this device's share of the batch among them.
      reduce: makes one loss and gradient of those of all devices: `collectives.mean` where each is
        a mean over an equal share of the batch, or already one over all of it;
        `collectives.total` where each is its device's part of a sum.

    Returns:
      The new parameters and what belongs to them. `aux` stays as this device's loss returned it:
      statistics may be global already, and features are this device's own; the caller reduces what
      it reports.
    """
    (value, aux), grads = jax.value_and_grad(loss, has_aux=True)(params, *inputs)
    value, grads = reduce((value, grads))
    updates, opt_state = optimizer.update(grads, opt_state, params)
    moved = optax.apply_updates(params, updates)
    return Descent(moved, opt_state, value, aux, optax.tree.norm(grads))


def _takes(params: optax.Params) -> Any:
    """Whether Muon or Adam moves each parameter: those of layers are called "w"."""
    return jax.tree_util.tree_map_with_path(
        lambda path, p: "muon" if p.ndim > 1 and path[-1] == jax.tree_util.DictKey("w") else "adam",
        params,
    )


def _matrices(params: optax.Params) -> Any:
    """How each weight is a matrix: its last axis counts the outputs, the others the inputs."""
    return jax.tree.map(
        lambda p: contrib.MuonDimensionNumbers(tuple(range(p.ndim - 1)), p.ndim - 1), params
    )


def _as_long_as_adam(move: jax.Array) -> jax.Array:
    """An orthogonal matrix, scaled so that its elements have a root mean square of 0.2."""
    return 0.2 * max(move.size // move.shape[-1], move.shape[-1]) ** 0.5 * move


def layerwise(decay: float, encoder: optax.Params) -> optax.GradientTransformation:
    """Smaller steps for lower layers of a transformer (Clark et al. 2020, "ELECTRA", appendix).

    It is the last to transform. With n blocks, updates of what embeds are multiplied by
    decay^(n + 1), those of block i (from 0) by decay^(n - i), and all others, the last
    normalization and whatever stands on the encoder, by 1.

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


_BLOCK = re.compile(r"(?:transformer|stack)/block(?:_(\d+))?\b")
_EMBEDS = re.compile(r"transformer/embed|\['embed'\]|stack/positions|class_token")
