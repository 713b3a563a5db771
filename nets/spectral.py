"""Spectral normalization: weights divided by their largest singular value (Miyato et al. 2018).

A weight is a matrix from its inputs, all axes but the last, to its outputs. Its largest singular
value s is found by power iteration from a vector u that is kept from one update to the next
(algorithm 1):

    v = W u / |W u|,  u = W' v / |W' v|,  s = v' W u

with one iteration for each update. u and v are constants to the gradient, s is not.
Shapes: I inputs and O outputs of a weight.
"""

from typing import NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

Vectors = dict[str, jax.Array]  # u [O] of each weight, by the name of its module


class Normalized(NamedTuple):
    """Parameters whose weights have a largest singular value of about 1."""

    params: hk.Params
    vectors: Vectors


def start(params: hk.Params, key: jax.Array) -> Vectors:
    """Vectors of length 1 to begin with, for each weight of Haiku parameters."""
    names = [name for name, leaves in params.items() if "w" in leaves]
    keys = jax.random.split(key, len(names))
    sizes = [params[name]["w"].shape[-1] for name in names]
    drawn = [jax.random.normal(key, (size,)) for key, size in zip(keys, sizes, strict=True)]
    return {name: _unit(u) for name, u in zip(names, drawn, strict=True)}


def normalize(params: hk.Params, vectors: Vectors) -> Normalized:
    """The parameters with their weights "w" normalized, and the vectors after one iteration."""
    normalized = {name: dict(leaves) for name, leaves in params.items()}
    moved: Vectors = {}
    for name, u in vectors.items():
        w = params[name]["w"]
        matrix = w.reshape(-1, w.shape[-1])  # [I, O]
        fixed = jax.lax.stop_gradient(matrix)
        v = _unit(jnp.dot(fixed, u, precision="highest"))  # [I]
        moved[name] = _unit(jnp.dot(v, fixed, precision="highest"))
        s = jnp.dot(v, jnp.dot(matrix, moved[name], precision="highest"), precision="highest")
        normalized[name]["w"] = w / s
    return Normalized(normalized, moved)


def _unit(x: jax.Array) -> jax.Array:
    return x / (jnp.linalg.norm(x) + 1e-12)
