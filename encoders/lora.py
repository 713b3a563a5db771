"""Low-rank adapters for fine-tuning (Hu et al. 2021, "LoRA").

A weight matrix W stays as it is; a product of two narrow matrices is learned beside it (equation 3,
for row vectors):

    h = x W + scale x A B

Training differentiates through `merge`, which adds the products to the weights. By the distributive
law that is the same function, and it keeps the method to a few lines that work for every network,
convolutions too. It saves the optimizer's state, which holds A and B alone; it does not save
arithmetic: the gradient of every full matrix is computed on the way to those of A and B. After
training, merged parameters cost no more than those of the original network.
"""

import math
from typing import TypeAlias

import haiku as hk
import jax
import jax.numpy as jnp

Adapters: TypeAlias = dict[str, dict[str, jax.Array]]
"""{module: {"a": [rows, rank], "b": [rank, out]}}."""


def init(key: jax.Array, params: hk.Params, rank: int) -> Adapters:
    """Makes an adapter for each weight `w` of two or more axes.

    These are the weights of linear layers and convolutions. A kernel [..., in, out] counts as a
    matrix whose rows are all axes but the last. Biases, parameters of normalization and embeddings
    bear other names and get no adapter. As in the paper (section 4.1), A is Gaussian and B zero, so
    that training starts from the original network; the deviation 1 / sqrt(rows) keeps the scale of
    inputs.

    Args:
      key: a random key.
      params: {module: {name: array}}.
      rank: of the products, at least 1. Above the number of a matrix's rows or columns it is
        allowed, and wasted.

    Returns:
      Adapters of the type of the weights.
    """
    adapters = {}
    adapted = sorted(
        module for module, arrays in params.items() if "w" in arrays and arrays["w"].ndim >= 2
    )
    for i, module in enumerate(adapted):
        w = params[module]["w"]
        rows = math.prod(w.shape[:-1])
        out = w.shape[-1]
        a = jax.random.normal(jax.random.fold_in(key, i), (rows, rank), w.dtype) / math.sqrt(rows)
        adapters[module] = {"a": a, "b": jnp.zeros((rank, out), w.dtype)}
    return adapters


def merge(params: hk.Params, adapters: Adapters, scale: float | jax.Array) -> hk.Params:
    """Adds the adapters to the weights: W + scale A B. All other parameters stay the same objects.

    Args:
      params: {module: {name: array}}.
      adapters: of some of the modules, as `init` makes them.
      scale: factor of the products; alpha / rank in the paper (section 4.1).

    Returns:
      Parameters for the same network.
    """
    merged = dict(params)
    for module, adapter in adapters.items():
        w = params[module]["w"]
        product = adapter["a"] @ adapter["b"]  # [rows, out]
        merged[module] = {**params[module], "w": w + scale * product.reshape(w.shape)}
    return merged
