"""Multinomial logistic regression on frozen features, by L-BFGS on the whole training set.

For features x of N images and K classes it minimizes

    mean of cross-entropy(w' x + b, label) + regularization / 2 |w|^2

where a held-out part of the training split chooses the regularization. Features are standardized by
the training split (or scaled by one number for all, where rare ones are not to count as much as
common ones), then turned to their principal axes: a rotation changes neither the predictions
nor |w|, so the problem stays the same, but one step length for each axis now suits it. L-BFGS moves
v, where w is v times the inverse root of a bound on the second derivative, variance / 2 +
regularization (Böhning 1992). Correlated features, on which the plain method takes hundreds of
iterations, then take a few dozen. Memory grows with N D + min(N, D)^2, not with D^2.
Shapes: N images, D of a feature, K classes.
"""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

# From strong to weak: each starts from the one before.
_REGULARIZATIONS = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
_HELD_OUT = 0.2  # of the training images
_TOLERANCE = 1e-3  # length of the gradient in (v, b) at which the objective counts as minimized
# At most, for each regularization; and again for the chosen one, on all training images.
_ITERATIONS = 40


class Affine(NamedTuple):
    """Logits w' x + b."""

    w: jax.Array  # [D, K]
    b: jax.Array  # [K]


class _Search(NamedTuple):
    """A search for the minimum under one regularization."""

    iterations: jax.Array | int  # made so far
    moved: Affine  # v and b
    opt_state: optax.OptState


def accuracy(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    num_classes: int,
    separately: bool = True,
) -> float:
    """The share of test features that a classifier of the training split puts in their class.

    Args:
      train_features: [N, D].
      train_labels: [N] integers in [0, num_classes).
      test_features: [M, D].
      test_labels: [M].
      num_classes: K.
      separately: scale every feature to the same deviation; otherwise all by one number.

    Returns:
      The accuracy, in [0, 1].
    """
    chex.assert_shape(train_labels, (len(train_features),))
    chex.assert_shape(test_labels, (len(test_features),))
    axes = _principal_axes(train_features, separately)
    train = _turn(train_features, axes)
    test = _turn(test_features, axes)
    model = fit(train, jnp.asarray(train_labels, jnp.int32), num_classes)
    return float(_accuracy(model, test, jnp.asarray(test_labels)))


def fit(features: jax.Array, labels: jax.Array, num_classes: int) -> Affine:
    """Chooses the regularization on a fifth of the images, then fits to all images with it.

    Args:
      features: [N, D] of mean 0, best along their principal axes.
      labels: [N] integers in [0, num_classes).
      num_classes: K.

    Returns:
      The fitted model, the same at every call. Of equally accurate regularizations, the strongest
      is taken.
    """
    count = len(labels)
    order = np.random.default_rng(0).permutation(count)
    held_out, rest = np.split(order, [max(1, round(_HELD_OUT * count))])
    if not len(rest):  # a single image is both
        rest = held_out
    # Images that are held out weigh nothing: the same program then fits to the rest and to all.
    weights = np.zeros(count, np.float32)
    weights[rest] = 1 / len(rest)
    model = Affine(jnp.zeros((features.shape[1], num_classes)), jnp.zeros(num_classes))
    path = []
    for regularization in _REGULARIZATIONS:
        model = minimize(features, labels, weights, model, regularization)
        path.append(model)
    accuracies = [_accuracy(model, features[held_out], labels[held_out]) for model in path]
    best = int(np.argmax(accuracies))
    everyone = np.full(count, 1 / count, np.float32)
    return minimize(features, labels, everyone, path[best], _REGULARIZATIONS[best])


@jax.jit
def minimize(
    features: jax.Array,
    labels: jax.Array,
    weights: jax.Array,
    start: Affine,
    regularization: jax.Array | float,
) -> Affine:
    """The minimizer of the mean cross-entropy under one regularization.

    Args:
      features: [N, D].
      labels: [N] integers in [0, K).
      weights: [N], the shares of the images in the mean, of sum 1.
      start: where to start, w [D, K] and b [K].
      regularization: above 0.
    """
    chex.assert_rank([features, labels, weights], [2, 1, 1])
    variances = jnp.dot(weights, jnp.square(features), precision="highest")[:, None]  # [D, 1]
    lengths = jax.lax.rsqrt(variances / 2 + regularization)

    def objective(moved: Affine) -> jax.Array:
        w = lengths * moved.w
        # [K, N], as this layout reduces fastest.
        logits = jnp.dot(w.T, features.T, precision="highest") + moved.b[:, None]
        right = jnp.take_along_axis(logits, labels[None, :], axis=0)[0]
        loss = jnp.sum(weights * (jax.nn.logsumexp(logits, axis=0) - right))
        return loss + regularization / 2 * jnp.sum(jnp.square(w))

    optimizer = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(objective)

    def unfinished(search: _Search) -> jax.Array:
        gradient = optax.tree.norm(optax.tree.get(search.opt_state, "grad"))
        fresh = search.iterations == 0  # no gradient is known yet
        return fresh | ((search.iterations < _ITERATIONS) & (gradient > _TOLERANCE))

    def iterate(search: _Search) -> _Search:
        value, grad = value_and_grad(search.moved, state=search.opt_state)
        updates, opt_state = optimizer.update(
            grad, search.opt_state, search.moved, value=value, grad=grad, value_fn=objective
        )
        moved = optax.apply_updates(search.moved, updates)
        return _Search(search.iterations + 1, moved, opt_state)

    moved = Affine(start.w / lengths, start.b)
    first = _Search(0, moved, optimizer.init(moved))
    found = jax.lax.while_loop(unfinished, iterate, first).moved
    return Affine(lengths * found.w, found.b)


class _Axes(NamedTuple):
    """How features are scaled and turned to R axes."""

    mean: jax.Array  # [1, D]
    scale: jax.Array  # [1, D], what makes deviations 1; 0 for constant features
    axes: jax.Array  # [D, R], orthonormal


@functools.partial(jax.jit, static_argnums=1)
def _principal_axes(features: jax.Array, separately: bool) -> _Axes:
    """The principal axes of features [N, D], once these are scaled; R = min(N, D).

    Where there are fewer images than components, no matrix of D x D is made: first an orthonormal
    basis of what the images span is found, then the axes within it. Regularized weights never leave
    that span.
    """
    features = features.astype(jnp.float32)
    # Relative to the largest, so that squares of very large or small features stay finite.
    largest = jnp.max(jnp.abs(features), axis=0, keepdims=True)  # [1, D]
    if not separately:
        largest = jnp.full_like(largest, jnp.max(largest))
    largest = jnp.where(largest > 0, largest, 1.0)
    relative = features / largest
    mean = jnp.mean(relative, axis=0, keepdims=True)
    centered = relative - mean
    deviation = jnp.sqrt(jnp.mean(jnp.square(centered), axis=0, keepdims=True))
    constant = deviation <= 1e-6  # they become zeros
    if not separately:
        deviation = jnp.full_like(deviation, jnp.sqrt(jnp.mean(jnp.square(deviation))))
    scale = jnp.where(constant, 0.0, 1 / jnp.where(constant, 1.0, deviation))  # [1, D]
    scaled = centered * scale
    count, size = features.shape
    if count >= size:
        axes = _axes(scaled)
    else:
        basis = jnp.linalg.qr(scaled.T)[0]  # [D, N]
        within = jnp.dot(scaled, basis, precision="highest")  # [N, N]
        axes = jnp.dot(basis, _axes(within), precision="highest")
    return _Axes(mean * largest, scale / largest, axes)


def _axes(features: jax.Array) -> jax.Array:
    """The principal axes [D, D] of features [N, D] of mean 0."""
    products = jnp.dot(features.T, features, precision="highest") / len(features)
    return jnp.linalg.eigh(products)[1]


@jax.jit
def _turn(features: jax.Array, to: _Axes) -> jax.Array:
    """Features [N, D] along the axes, [N, R]."""
    scaled = (features.astype(jnp.float32) - to.mean) * to.scale
    return jnp.dot(scaled, to.axes, precision="highest")


def _accuracy(model: Affine, features: jax.Array, labels: jax.Array) -> jax.Array:
    logits = jnp.dot(features, model.w, precision="highest") + model.b[None, :]
    return jnp.mean((jnp.argmax(logits, axis=1) == labels).astype(jnp.float32))
