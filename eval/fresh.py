"""How well a discriminator that is trained afterwards tells generated images from real ones.

The generator never met it, and it is tested on images that it has not seen: 0.5 means that it was
left to guess (the two-sample test of Lopez-Paz and Oquab 2017).
Shapes: N real and M generated images, H, W, C of an image.
"""

import functools

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax

from missing_bits import optimizers
from missing_bits.eval.probes import at_once, in_batches
from missing_bits.nets.discriminator import Discriminator

_WIDTH = 16
_BATCH = 64  # of each kind
_OPTIMIZER = optimizers.Optimizer(learning_rate=1e-3)


def accuracy(
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    updates: int,
    key: jax.Array,
) -> float:
    """The share of test images that are told to be real or generated, the mean of both kinds.

    Args:
      train: real images and generated ones to learn from, uint8 [N, H, W, C] and [M, H, W, C].
      test: others, likewise.
      updates: how long it learns, each from 64 of each kind.
      key: of its first parameters and the order of images.
    """
    params = _train(jnp.asarray(train[0]), jnp.asarray(train[1]), updates, key)
    judge = functools.partial(_is_real, params)
    real, generated = (in_batches(judge, x, at_once(x.shape[1:])).mean() for x in test)
    return float(real + (1 - generated)) / 2


@hk.without_apply_rng
@hk.transform
def _network(images: jax.Array) -> jax.Array:
    return Discriminator(width=_WIDTH)(images.astype(jnp.float32) / 127.5 - 1, None)


@jax.jit
def _is_real(params: hk.Params, images: jax.Array) -> jax.Array:
    return _network.apply(params, images) > 0


@functools.partial(jax.jit, static_argnums=2)
def _train(real: jax.Array, generated: jax.Array, updates: int, key: jax.Array) -> hk.Params:
    init_key, order_key = jax.random.split(key)
    params = _network.init(init_key, real[:2])
    optimizer = optimizers.make(_OPTIMIZER, updates)

    def loss(params: hk.Params, x: jax.Array) -> tuple[jax.Array, None]:
        logits = _network.apply(params, x)
        of_real, of_generated = jnp.split(logits, 2)
        losses = jax.nn.softplus(-of_real) + jax.nn.softplus(of_generated)
        return jnp.mean(losses), None

    def update(i: jax.Array, carry: tuple[hk.Params, optax.OptState]) -> tuple:
        key = jax.random.fold_in(order_key, i)
        real_key, generated_key = jax.random.split(key)
        batch = [
            images[jax.random.randint(key, (_BATCH,), 0, len(images))]
            for key, images in ((real_key, real), (generated_key, generated))
        ]
        descent = optimizers.descend(loss, optimizer, *carry, jnp.concatenate(batch))
        return descent.params, descent.opt_state

    return jax.lax.fori_loop(0, updates, update, (params, optimizer.init(params)))[0]
