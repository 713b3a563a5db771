"""Reductions over the devices that share one update; without such devices, each is the identity.

`loop/parallel.py` maps an update over devices and binds the axis `AXIS`. Code below the loop calls
these functions and never asks how it is mapped, so it can be tested alone, on one device, outside
of any map.
"""

from typing import TypeVar

import jax

AXIS = "devices"

T = TypeVar("T")


def bound() -> bool:
    """Whether the surrounding function is mapped over devices that share one update."""
    try:
        jax.lax.axis_index(AXIS)
    except NameError:
        return False
    return True


def size() -> int:
    """The number of devices that share this update (a Python integer: 1 outside of a map)."""
    return jax.lax.axis_size(AXIS) if bound() else 1


def mean(tree: T) -> T:
    """The mean over devices of every leaf, for leaves that are means over equally large shards."""
    return jax.lax.pmean(tree, AXIS) if bound() else tree


def total(tree: T) -> T:
    """The sum over devices of every leaf."""
    return jax.lax.psum(tree, AXIS) if bound() else tree


def largest(tree: T) -> T:
    """The largest over devices of every leaf."""
    return jax.lax.pmax(tree, AXIS) if bound() else tree


def shard(x: jax.Array) -> jax.Array:
    """This device's rows of an array that every device computed whole.

    Drawing random numbers for the global batch and keeping one's own rows makes a result
    independent of how many devices share the work.

    Args:
      x: [B, ...], the same on every device, B a multiple of the number of devices.

    Returns:
      [B / devices, ...].
    """
    if not bound():
        return x
    rows = x.shape[0] // size()
    return jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(AXIS) * rows, rows)
