"""Value heads: what a Q-network gives for each action, and how it is held against a target.

A head knows what the K numbers mean that a network gives for every action:

- `scalar`: the value itself (Mnih et al. 2015);
- `categorical`: the logits of fixed returns, C51 (Bellemare et al. 2017);
- `quantile`: returns at fixed quantiles, QR-DQN (Dabney et al. 2018a);
- `implicit`: returns at quantiles that are drawn, IQN (Dabney et al. 2018b).

What comes next is valued through a policy over actions: the one-hot of the best one, or a soft one
(`munchausen`). Shapes: B transitions, A actions, K numbers of an action, L of a target.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import rlax

from missing_bits import collectives
from missing_bits.errors import require

NAMES = ("scalar", "categorical", "quantile", "implicit")
"""Of the heads."""
MOST = 1 << 16
"""Atoms or quantiles that a head may have."""
MOST_RETURN = 1e9
"""How far from 0 the returns of the categorical head may lie; a policy's card holds no more."""


class Errors(NamedTuple):
    """How far predictions are from their targets."""

    loss: jax.Array  # [B]
    surprise: jax.Array  # [B], what prioritized replay ranks by; not below 0


class Head(NamedTuple):
    """What a network's numbers mean."""

    outputs: int
    """How many a network gives for each action: K, or 1 for each quantile that it is asked for."""
    taus: Callable[[jax.Array | None, int], jax.Array | None]
    """(key, B) -> the quantiles [B, K] to ask a network for, drawn, or evenly spread without a key;
    None where it is not asked. The key is the same on every device, B this device's share."""
    mean: Callable[[jax.Array], jax.Array]
    """raw [B, A, K] -> values [B, A]."""
    mix: Callable[[jax.Array, jax.Array], jax.Array]
    """(raw [B, A, K], policy [B, A]) -> what the policy's actions return, [B, K]."""
    errors: Callable[
        [jax.Array, jax.Array | None, jax.Array, jax.Array, jax.Array, jax.Array], Errors
    ]
    """(chosen raw [B, K], its taus, mixed [B, L], bonus [B], r_t [B], discount_t [B]): the
    prediction for the action taken against r_t + discount_t * (mixed + bonus)."""


def _none(key: jax.Array | None, batch: int) -> None:
    return None


def _average(raw: jax.Array, policy: jax.Array) -> jax.Array:
    """Numbers of actions weighed by a policy."""
    return jnp.einsum("bak,ba->bk", raw, policy)


def scalar(huber: bool) -> Head:
    """The value itself.

    Args:
      huber: whether errors beyond 1 count linearly; otherwise all count by half their squares.
    """
    penalty = rlax.huber_loss if huber else rlax.l2_loss

    def errors(
        chosen: jax.Array,
        taus: None,
        mixed: jax.Array,
        bonus: jax.Array,
        r_t: jax.Array,
        discount_t: jax.Array,
    ) -> Errors:
        target = r_t + discount_t * (mixed[:, 0] + bonus)
        error = jax.lax.stop_gradient(target) - chosen[:, 0]
        return Errors(penalty(error), jnp.abs(error))

    return Head(1, _none, lambda raw: raw[..., 0], _average, errors)


def categorical(low: float, high: float, atoms: int) -> Head:
    """The distribution over fixed returns, C51 (Bellemare et al. 2017, algorithm 1).

    Args:
      low: the smallest return.
      high: the largest return.
      atoms: how many returns there are, evenly spread.
    """
    returns = jnp.linspace(low, high, atoms)

    def mean(raw: jax.Array) -> jax.Array:
        return jax.nn.softmax(raw) @ returns

    def mix(raw: jax.Array, policy: jax.Array) -> jax.Array:
        return _average(jax.nn.softmax(raw), policy)

    def errors(
        chosen: jax.Array,
        taus: None,
        mixed: jax.Array,
        bonus: jax.Array,
        r_t: jax.Array,
        discount_t: jax.Array,
    ) -> Errors:
        moved = r_t[:, None] + discount_t[:, None] * (returns[None] + bonus[:, None])
        project = jax.vmap(rlax.categorical_l2_project, (0, 0, None))
        target = jax.lax.stop_gradient(project(moved, mixed, returns))
        loss = -jnp.sum(target * jax.nn.log_softmax(chosen), axis=-1)
        known = -jnp.sum(jax.scipy.special.xlogy(target, target), axis=-1)
        # The divergence, as Rainbow ranks by; rounding may leave it a little below 0.
        return Errors(loss, jnp.maximum(loss - known, 0.0))

    return Head(atoms, _none, mean, mix, errors)


def quantile(count: int) -> Head:
    """Returns at fixed quantiles, QR-DQN (Dabney et al. 2018a, algorithm 1).

    Args:
      count: K quantiles, at (i + 1/2) / K.
    """
    fixed = _midpoints(count)

    def errors(
        chosen: jax.Array,
        taus: None,
        mixed: jax.Array,
        bonus: jax.Array,
        r_t: jax.Array,
        discount_t: jax.Array,
    ) -> Errors:
        every = jnp.broadcast_to(fixed[None], chosen.shape)
        return _quantile_errors(chosen, every, mixed, bonus, r_t, discount_t)

    return Head(count, _none, lambda raw: jnp.mean(raw, axis=-1), _average, errors)


def implicit(count: int) -> Head:
    """Returns at quantiles that are drawn anew each time, IQN (Dabney et al. 2018b, section 3).

    Args:
      count: K quantiles that are drawn for prediction and target, each for itself.
    """

    def taus(key: jax.Array | None, batch: int) -> jax.Array:
        if key is None:
            return jnp.broadcast_to(_midpoints(count)[None], (batch, count))
        drawn = jax.random.uniform(key, (batch * collectives.size(), count))
        return collectives.shard(drawn)

    return Head(1, taus, lambda raw: jnp.mean(raw, axis=-1), _average, _quantile_errors)


def make(
    name: str, quantiles: int, atoms: int, between: tuple[float, float], huber: bool = False
) -> Head:
    """The head of a name.

    Args:
      name: "scalar", "categorical", "quantile" or "implicit".
      quantiles: of the last two.
      atoms: of the categorical one.
      between: its lowest and its highest return.
      huber: of the scalar one.
    """
    require(name in NAMES, f"There is no head {name[:40]!r}; it is one of {', '.join(NAMES)}.")
    if name == "categorical":
        return categorical(*between, atoms)
    if name == "quantile":
        return quantile(quantiles)
    if name == "implicit":
        return implicit(quantiles)
    return scalar(huber)


def _midpoints(count: int) -> jax.Array:
    return (jnp.arange(count) + 0.5) / count


def _quantile_errors(
    chosen: jax.Array,
    taus: jax.Array,
    mixed: jax.Array,
    bonus: jax.Array,
    r_t: jax.Array,
    discount_t: jax.Array,
) -> Errors:
    """The quantile Huber loss with threshold 1 (Dabney et al. 2018a, equation 10), between every
    quantile predicted, summed over, and every one of the target, averaged over.

    rlax.quantile_regression_loss keeps the errors to itself, by which priorities rank."""
    target = r_t[:, None] + discount_t[:, None] * (mixed + bonus[:, None])  # [B, L]
    error = jax.lax.stop_gradient(target)[:, None, :] - chosen[:, :, None]  # [B, K, L]
    weight = jnp.abs(taus[:, :, None] - (error < 0))
    loss = jnp.sum(jnp.mean(weight * rlax.huber_loss(error), axis=2), axis=1)
    return Errors(loss, jnp.mean(jnp.abs(error), axis=(1, 2)))


class Munchausen(NamedTuple):
    """What a soft policy adds to the target of an action."""

    policy: jax.Array  # [B, A] of what comes next
    bonus: jax.Array  # [B], the policy's scaled entropy there
    reward: jax.Array  # [B], the scaled log probability of the action taken, clipped


def munchausen(
    q_tm1: jax.Array,
    a_tm1: jax.Array,
    q_t: jax.Array,
    temperature: jax.Array | float,
    scale: jax.Array | float,
    lowest: float,
) -> Munchausen:
    """The soft policy of Munchausen DQN (Vieillard et al. 2020, equation 2).

    Args:
      q_tm1: [B, A], the target network's values where the action was taken.
      a_tm1: int [B], the actions taken.
      q_t: [B, A], the target network's values of what came next.
      temperature: of the softmax, above 0.
      scale: of the log probability that is added to the reward.
      lowest: what the scaled log probability is clipped to from below, below 0.
    """
    log_next = jax.nn.log_softmax(q_t / temperature)
    policy = jnp.exp(log_next)
    entropy = -temperature * jnp.sum(policy * log_next, axis=-1)
    log_taken = rlax.batched_index(jax.nn.log_softmax(q_tm1 / temperature), a_tm1)
    reward = scale * jnp.clip(temperature * log_taken, lowest, 0.0)
    return Munchausen(policy, entropy, reward)


def check_categorical(low: float, high: float, atoms: int) -> None:
    """Raises `UserError` for returns that make no sense."""
    require(
        low < high and atoms >= 2,
        f"--value-low={low}, --value-high={high} and --atoms={atoms} describe no range of returns: "
        "low must be below high, with at least 2 atoms.",
    )
    require(
        max(abs(low), abs(high)) <= MOST_RETURN,
        f"--value-low={low} and --value-high={high} must lie within {MOST_RETURN:,.0f} of 0; scale "
        "the rewards in a wrapper of the environment.",
    )
    known = np.finfo(np.float32)
    span = high - low
    rounding = 4 * float(known.eps) * max(abs(low), abs(high))
    require(
        max(float(known.tiny), rounding) < span / (atoms - 1) and span < float(known.max),
        f"--value-low={low}, --value-high={high} and --atoms={atoms} describe returns that float32 "
        "does not tell apart; give another range, or fewer atoms.",
    )
