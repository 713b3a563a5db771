"""A small classifier of the very images that are to be generated, whose features compare sets.

Frechet distances are usually taken in the features of a network that was trained on photographs,
which must be downloaded and fits no digits. This one is trained here, in a few seconds, on the
training images and their labels, always from the same seed. Where images have no labels, features
are their principal components instead.
Shapes: N images, H, W, C of an image, D of a feature, K classes.
"""

import functools
from typing import NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax

from missing_bits import optimizers
from missing_bits.augment import color
from missing_bits.data.images import ImageSet, Lazy, Split
from missing_bits.eval.probes import at_once, in_batches
from missing_bits.losses import classification
from missing_bits.nets.vision import ConvNet

SIZE = 64  # D, at most
_BATCH = 128
_WIDTHS = (16, 32, 64)
_NUMBERS = 200_000_000  # bytes of images that are in memory at once
_OPTIMIZER = optimizers.Optimizer(learning_rate=3e-3)


class Judge:
    """Makes features of images.

    Nothing is computed before it is asked for.

    Args:
      data: what it is trained on.
      updates: how long, each with 128 images.

    Attributes:
      described: what the features are, in a few words.
    """

    def __init__(self, data: ImageSet, updates: int) -> None:
        self._data = data
        self._updates = updates
        self.labeled = data.labeled.labels is not None
        self.described = (
            f"of a small classifier of the training images, after {updates} updates"
            if self.labeled
            else "principal components of the training images"
        )

    def features(self, images: np.ndarray) -> np.ndarray:
        """Features [N, D] of images, uint8 [N, H, W, C]; D is at most 64."""
        if self.labeled:
            encode = functools.partial(_encode, self._network, self._trained)
        else:
            encode = functools.partial(_project, self._components)
        return in_batches(encode, images, at_once(self._data.shape))

    def accuracy(self, split: Split) -> float:
        """The share of a split's images whose class is told, in [0, 1]."""
        classify = functools.partial(_classify, self._network, self._trained)
        chosen = some(split, len(split.labels))
        found = in_batches(classify, chosen.images, at_once(self._data.shape))
        return float(np.mean(found == chosen.labels))

    @functools.cached_property
    def _network(self) -> "_Network":
        moments = self._data.moments()
        return _Network(len(self._data.classes), moments.mean, moments.deviation)

    @functools.cached_property
    def _trained(self) -> "_Variables":
        """The classifier."""
        train = some(self._data.labeled, 60_000)
        return _train(
            self._network, jnp.asarray(train.images), jnp.asarray(train.labels), self._updates
        )

    @functools.cached_property
    def _components(self) -> "_Components":
        """The principal components of some training images."""
        pixels = some(self._data.train, 5_000).images
        pixels = pixels.reshape(len(pixels), -1).astype(np.float32) / 255
        mean = pixels.mean(axis=0)
        _, _, axes = np.linalg.svd(pixels - mean[None], full_matrices=False)
        return _Components(jnp.asarray(mean), jnp.asarray(axes[:SIZE].T))


def some(split: Split, most: int) -> Split:
    """So many images of a split in memory, evenly spaced; fewer where they are large."""
    count = split.images.shape[0]
    size = int(np.prod(split.images.shape[1:]))
    most = max(10, min(most, _NUMBERS // size))
    images: np.ndarray | Lazy = split.images
    if count <= most and isinstance(images, np.ndarray):
        return split
    chosen = np.linspace(0, count - 1, min(count, most)).astype(int)
    labels = None if split.labels is None else split.labels[chosen]
    return Split(images[chosen], labels)


class _Components(NamedTuple):
    """Principal components of pixels."""

    mean: jax.Array  # [H W C]
    axes: jax.Array  # [H W C, D]


@jax.jit
def _project(components: _Components, images: jax.Array) -> jax.Array:
    pixels = images.reshape(images.shape[0], -1).astype(jnp.float32) / 255
    return jnp.dot(pixels - components.mean[None], components.axes, precision="highest")


class _Network(NamedTuple):
    """A classifier, without its parameters."""

    classes: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    @property
    def encoder(self) -> hk.TransformedWithState:
        """Of (normalized images, is_training), to features."""
        return hk.transform_with_state(
            lambda x, is_training: ConvNet(_WIDTHS, SIZE)(x, is_training)
        )

    @property
    def classifier(self) -> hk.Transformed:
        """Of features, to logits."""
        return hk.without_apply_rng(
            hk.transform(lambda features: hk.Linear(self.classes)(features))
        )

    def prepared(self, images: jax.Array) -> jax.Array:
        """Bytes [N, H, W, C], normalized."""
        return color.normalize(images.astype(jnp.float32) / 255, self.mean, self.deviation)


class _Params(NamedTuple):
    encoder: hk.Params
    classifier: hk.Params


class _Variables(NamedTuple):
    params: _Params
    state: hk.State


@functools.partial(jax.jit, static_argnums=0)
def _encode(network: _Network, variables: _Variables, images: jax.Array) -> jax.Array:
    x = network.prepared(images)
    return network.encoder.apply(variables.params.encoder, variables.state, None, x, False)[0]


@functools.partial(jax.jit, static_argnums=0)
def _classify(network: _Network, variables: _Variables, images: jax.Array) -> jax.Array:
    features = _encode(network, variables, images)
    return jnp.argmax(network.classifier.apply(variables.params.classifier, features), axis=1)


@functools.partial(jax.jit, static_argnums=(0, 3))
def _train(network: _Network, images: jax.Array, labels: jax.Array, updates: int) -> _Variables:
    """Trains a classifier on images [N, H, W, C], uint8, and labels [N]."""
    encoder_key, classifier_key, order_key = jax.random.split(jax.random.key(0), 3)
    encoder, state = network.encoder.init(encoder_key, network.prepared(images[:2]), True)
    classifier = network.classifier.init(classifier_key, jnp.zeros((2, SIZE)))
    params = _Params(encoder, classifier)
    optimizer = optimizers.make(_OPTIMIZER, updates)

    def loss(
        params: _Params, state: hk.State, x: jax.Array, labels: jax.Array
    ) -> tuple[jax.Array, hk.State]:
        features, state = network.encoder.apply(params.encoder, state, None, x, True)
        logits = network.classifier.apply(params.classifier, features)
        return classification.cross_entropy(logits, labels), state

    def update(i: jax.Array, carry: tuple[_Variables, optax.OptState]) -> tuple:
        variables, opt_state = carry
        key = jax.random.fold_in(order_key, i)
        chosen = jax.random.randint(key, (_BATCH,), 0, len(images))
        x = network.prepared(images[chosen])
        descent = optimizers.descend(
            loss, optimizer, variables.params, opt_state, variables.state, x, labels[chosen]
        )
        return _Variables(descent.params, descent.aux), descent.opt_state

    first = _Variables(params, state)
    return jax.lax.fori_loop(0, updates, update, (first, optimizer.init(params)))[0]
