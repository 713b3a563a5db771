"""Causal self-attention (Vaswani et al. 2017) that remembers: a cache of keys and values.

Attention does not cross a reset. Positions are learned vectors for the number of steps since the
last reset, as GPT-2's (Radford et al. 2019) since the start of its window.

A network knows `context` positions. Where a sequence goes on for longer without a reset, each step
attends to the last `context` steps, itself among them, and has the last position: both forms then
still agree, but no training went there.

Shapes: B rows, T steps, D width, H heads, C context.
"""

from typing import NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

from missing_bits.nets.sequences import parts
from missing_bits.nets.sequences.parts import Mixed


class Place(NamedTuple):
    """Where in a sequence its next step stands."""

    since: jax.Array  # int32 [B], steps since the last reset


class Positions(hk.Module):
    """Adds what stands for the place of a step; a `parts.Mixer`.

    Args:
      context: C.
      name: of the module.
    """

    def __init__(self, context: int, name: str | None = None):
        super().__init__(name)
        self._context = context

    def initial(self, batch: int, width: int) -> Place:
        """The start."""
        return Place(jnp.zeros((batch,), jnp.int32))

    def __call__(self, x: jax.Array, reset: jax.Array | None, state: Place | None) -> Mixed:
        """A sequence [B, T, D] to one of the same shape; see `parts.Mixer`."""
        parts.check(x, reset)
        batch, length, width = x.shape
        if reset is None and state is None:  # the same for all rows
            y = x + self._table(x)[None, jnp.minimum(jnp.arange(length), self._context - 1)]
            return Mixed(y, Place(jnp.full((batch,), length, jnp.int32)))
        before = self.initial(batch, width) if state is None else state
        places = since(reset, before.since, length)  # [B, T]
        y = x + self._table(x)[jnp.minimum(places, self._context - 1)]
        return Mixed(y, Place(places[:, -1] + 1))

    @hk.name_like("__call__")
    def step(self, x: jax.Array, reset: jax.Array, state: Place) -> Mixed:
        """One step [B, D] to one of the same shape; see `parts.Mixer`."""
        place = parts.kept(state, reset).since
        y = x + self._table(x)[jnp.minimum(place, self._context - 1)]
        return Mixed(y, Place(place + 1))

    def _table(self, x: jax.Array) -> jax.Array:
        """A vector for each position, [C, D]."""
        near_zero = hk.initializers.TruncatedNormal(0.02)
        shape = [self._context, x.shape[-1]]
        return hk.get_parameter("positions", shape, jnp.float32, near_zero).astype(x.dtype)


def since(reset: jax.Array | None, before: jax.Array, length: int) -> jax.Array:
    """Steps since the last reset, int32 [B, T].

    Args:
      reset: bool [B, T], or None for never.
      before: int32 [B], the number of steps before the first since the last reset.
      length: T.
    """
    step = jnp.arange(length, dtype=jnp.int32)[None]
    start = -before[:, None]  # where what goes on began
    if reset is None:
        return step - start
    return step - jax.lax.cummax(jnp.where(reset, step, start), axis=1)


class Cache(NamedTuple):
    """The last C steps in a ring, which the next step enters at `place`."""

    k: jax.Array  # [B, C, H, D / H]
    v: jax.Array  # [B, C, H, D / H]
    place: jax.Array  # int32 scalar, 0 to C - 1
    since: jax.Array  # int32 [B], steps since the last reset


class Attention(hk.Module):
    """The layer, a `parts.Mixer`.

    Args:
      heads: H; the width must be a multiple.
      context: C.
      dtype: of the cache: what the network computes in.
      name: of the module.
    """

    def __init__(
        self,
        heads: int,
        context: int,
        dtype: jnp.dtype = jnp.float32,
        name: str | None = None,
    ):
        super().__init__(name)
        self._heads = heads
        self._context = context
        self._dtype = dtype

    def initial(self, batch: int, width: int) -> Cache:
        """An empty cache."""
        shape = (2, batch, self._context, self._heads, width // self._heads)
        k, v = jnp.zeros(shape, self._dtype)
        return Cache(k, v, jnp.int32(0), jnp.zeros((batch,), jnp.int32))

    def __call__(self, x: jax.Array, reset: jax.Array | None, state: Cache | None) -> Mixed:
        """A sequence [B, T, D] to one of the same shape; see `parts.Mixer`.

        Raises:
          ValueError: without a state, T is above C: keys that are too far away are not masked.
        """
        parts.check(x, reset)
        batch, length, _ = x.shape
        q, k, v = self._project(x)
        if state is None:
            if length > self._context:
                raise ValueError(f"{length} steps for a context of {self._context}")
            document = None if reset is None else jnp.cumsum(reset, axis=1)  # [B, T]
            mask = None if reset is None else _same(document, document)
            mixed = jax.nn.dot_product_attention(q, k, v, mask=mask, is_causal=True)
            before = jnp.zeros((batch,), jnp.int32)
        else:
            before = state.since
            mask = self._mask(reset, state, length)
            k = jnp.concatenate([_in_order(state.k, state.place), k], axis=1)  # [B, C + T, ...]
            v = jnp.concatenate([_in_order(state.v, state.place), v], axis=1)
            mixed = jax.nn.dot_product_attention(q, k, v, mask=mask)
        last = Cache(
            self._cached(k),
            self._cached(v),
            jnp.int32(min(k.shape[1], self._context) % self._context),
            since(reset, before, length)[:, -1] + 1,
        )
        return Mixed(self._mix(mixed.reshape(x.shape)), last)

    @hk.name_like("__call__")
    def step(self, x: jax.Array, reset: jax.Array, state: Cache) -> Mixed:
        """One step [B, D] to one of the same shape; see `parts.Mixer`."""
        q, k, v = self._project(x[:, None])
        place = state.place
        k = jax.lax.dynamic_update_slice_in_dim(state.k, k.astype(state.k.dtype), place, 1)
        v = jax.lax.dynamic_update_slice_in_dim(state.v, v.astype(state.v.dtype), place, 1)
        count = jnp.where(reset, 0, state.since) + 1  # [B]
        age = (place - jnp.arange(self._context)) % self._context  # [C], of this step 0
        mask = age[None] < count[:, None]
        mixed = jax.nn.dot_product_attention(q, k, v, mask=mask[:, None, None])
        last = Cache(k, v, (place + 1) % self._context, count)
        return Mixed(self._mix(mixed.reshape(x.shape)), last)

    @hk.name_like("__call__")
    def _project(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Queries, keys and values [B, T, H, D / H]."""
        qkv = parts.Linear(3 * x.shape[2], name="qkv")(x)
        qkv = qkv.reshape(*x.shape[:2], 3, self._heads, -1)
        q, k, v = jnp.moveaxis(qkv, 2, 0)
        return q, k, v

    @hk.name_like("__call__")
    def _mix(self, x: jax.Array) -> jax.Array:
        return parts.Linear(x.shape[-1], name="mix")(x)

    def _mask(self, reset: jax.Array | None, state: Cache, length: int) -> jax.Array:
        """Which of the cache and the T steps each of the latter attends to [B, 1, T, C + T]."""
        context = self._context
        batch = state.since.shape[0]
        age = jnp.arange(context, 0, -1)[None]  # 1 is the last
        cached = jnp.where(age <= state.since[:, None], 0, -1)  # -1: another document, or none
        if reset is None:
            document = jnp.zeros((batch, length), cached.dtype)
        else:
            document = jnp.cumsum(reset, axis=1, dtype=cached.dtype)
        same = _same(document, jnp.concatenate([cached, document], axis=1))
        query = jnp.arange(length)[:, None] + context
        key = jnp.arange(context + length)[None]
        near = (key <= query) & (query - key < context)
        return same & near[None, None]

    def _cached(self, x: jax.Array) -> jax.Array:
        """The last C steps of keys or values [B, ..., H, D / H]; zeros where there are fewer."""
        missing = max(0, self._context - x.shape[1])
        last = x[:, max(0, x.shape[1] - self._context) :]
        return jnp.pad(last, ((0, 0), (0, missing), (0, 0), (0, 0))).astype(self._dtype)


def _same(document: jax.Array, of_keys: jax.Array) -> jax.Array:
    """Whether queries [B, T] and keys [B, S] are of the same document, bool [B, 1, T, S]."""
    return (document[:, :, None] == of_keys[:, None, :])[:, None]


def _in_order(ring: jax.Array, place: jax.Array) -> jax.Array:
    """The steps of a ring [B, C, ...], the oldest first."""
    return jnp.roll(ring, -place, axis=1)
