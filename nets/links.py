"""Links between rows and columns: the one operation under all networks on graphs, and its gradient.

A graph is a sparse matrix whose entries are edges: rows receive, columns send. Sparse features are
one too: rows are nodes, columns are words. What networks need of such a matrix is

    total_i = sum of values_e over the entries e of row i
    product_i = sum of weights_e x_j over the entries e = (i, j) of row i

and the same by columns, which are their gradients. Scatter-add, the usual way, writes every message
to memory first. Where the links are known beforehand (`linked`) they are laid out instead so that a
row gathers its entries: rows of about as many entries form a bucket, and a bucket adds its first
entries, its second ones, and so on, in one pass over its results. Rows of more than 8 entries are
cut into pieces that are summed again. Links that are made within a program (batches) are summed by
scatter-add. Numbers of fewer than 32 bits are added in float32, and sums have the type of what was
added. Shapes: E entries, R rows, C columns, D features, H heads.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_WIDTHS = np.array([2, 4, 8])  # of buckets, in entries of a row


class Bucket(NamedTuple):
    """Rows, or pieces of rows, of about as many entries."""

    entries: np.ndarray | jax.Array
    """Int32 [n, W]; E for none."""
    others: np.ndarray | jax.Array
    """Int32 [n, W]: the column of each, if these are rows; 0 for none."""


class Sums(NamedTuple):
    """How the entries of each row are gathered and added."""

    buckets: tuple[Bucket, ...]
    place: np.ndarray | jax.Array
    """Int32 [R]: where each row stands among those of all buckets; past the last if it is empty."""
    again: "Sums | None"
    """Sums the pieces of cut rows; `place` then has the pieces, in order."""


class Links(NamedTuple):
    """Entries of a sparse matrix [R, C]."""

    rows: np.ndarray | jax.Array
    """Int32 [E]; R or more for padding, which counts nowhere."""
    columns: np.ndarray | jax.Array
    """Int32 [E]; C or more for padding."""
    by_row: Sums | None = None
    """None for scatter-add."""
    by_column: Sums | None = None


def linked(rows: np.ndarray, columns: np.ndarray, num_rows: int, num_columns: int) -> Links:
    """Links that are known beforehand, laid out for gathers; none of them is padding.

    Args:
      rows: integers [E] in [0, num_rows).
      columns: integers [E] in [0, num_columns).
      num_rows: R.
      num_columns: C.
    """
    rows = np.asarray(rows, np.int32)
    columns = np.asarray(columns, np.int32)
    return Links(rows, columns, _sums(rows, columns, num_rows), _sums(columns, rows, num_columns))


def _sums(rows: np.ndarray, others: np.ndarray, num_rows: int) -> Sums:
    """How entries are added by row."""
    order = np.argsort(rows, kind="stable")
    counts = np.bincount(rows, minlength=num_rows)
    starts = np.cumsum(counts) - counts
    pieces = -(-counts // _WIDTHS[-1])
    again = None
    if pieces.max(initial=0) > 1:
        owners = np.repeat(np.arange(num_rows), pieces)  # the row of each piece
        within = np.arange(len(owners)) - (np.cumsum(pieces) - pieces)[owners]
        again = _sums(owners, np.zeros(len(owners), np.int32), num_rows)
        starts = starts[owners] + _WIDTHS[-1] * within
        counts = np.minimum(counts[owners] - _WIDTHS[-1] * within, _WIDTHS[-1])
    widths = np.where(counts, _WIDTHS[np.searchsorted(_WIDTHS, counts)], 0)
    place = np.full(len(counts), len(rows) + len(counts), np.int32)  # past the last row
    buckets = []
    filled = 0
    for width in np.unique(widths[widths > 0]):
        mine = np.flatnonzero(widths == width)
        place[mine] = filled + np.arange(len(mine))
        filled += len(mine)
        step = np.arange(width)[None]
        real = step < counts[mine][:, None]  # [n, W]
        entries = order[np.where(real, starts[mine][:, None] + step, 0)]
        buckets.append(
            Bucket(
                np.where(real, entries, len(rows)).astype(np.int32),
                np.where(real, others[entries], 0).astype(np.int32),
            )
        )
    return Sums(tuple(buckets), place, again)


def turned(links: Links) -> Links:
    """The same entries, by columns."""
    return Links(links.columns, links.rows, links.by_column, links.by_row)


def total(links: Links, values: jax.Array, num_rows: int) -> jax.Array:
    """Sums by row [R, ...] of values [E, ...]; an empty row's is 0."""
    if links.by_row is None:
        return jax.ops.segment_sum(_wide(values), links.rows, num_rows).astype(values.dtype)
    return _total_by_row(links, values)


def at_rows(links: Links, x: jax.Array) -> jax.Array:
    """What stands at the row of each entry: [E, ...] of x [R, ...]."""
    if links.by_row is None:
        return _clipped(x, links.rows)
    return _at_rows(links, x)


def at_columns(links: Links, x: jax.Array) -> jax.Array:
    """What stands at the column of each entry: [E, ...] of x [C, ...]."""
    if links.by_column is None:
        return _clipped(x, links.columns)
    return _at_columns(links, x)


def product(links: Links, weights: jax.Array, x: jax.Array, num_rows: int) -> jax.Array:
    """Weighted sums by row of what stands at the columns.

    Args:
      links: the entries.
      weights: [E], or [E, H] where x has heads.
      x: [C, D] or [C, H, D].
      num_rows: R.

    Returns:
      [R, D] or [R, H, D].
    """
    if links.by_row is None:
        sent = _wide(weights)[..., None] * at_columns(links, x)
        return total(links, sent, num_rows).astype(x.dtype)
    return _product(links, jnp.asarray(weights), jnp.asarray(x))


def largest(links: Links, values: jax.Array, num_rows: int) -> jax.Array:
    """The largest by row [R, ...] of values [E, ...]; minus infinity for an empty row. No gradient
    passes."""
    values = jax.lax.stop_gradient(values)
    if links.by_row is None:
        return jax.ops.segment_max(values, links.rows, num_rows)
    return _gathered(
        links.by_row, lambda at, _: _taken(values, at, -jnp.inf), values, jnp.maximum, -jnp.inf
    )


def counts(links: Links, num_rows: int) -> jax.Array:
    """The number of entries of each row, float32 [R]."""
    return total(links, jnp.ones(links.rows.shape, jnp.float32), num_rows)


def _wide(x: jax.Array) -> jax.Array:
    """Numbers as they are added."""
    return jnp.asarray(x, jnp.promote_types(x.dtype, jnp.float32))


def _clipped(x: jax.Array, at: jax.Array) -> jax.Array:
    """Rows of x, whose gradients are added up too."""
    return _wide(x).at[at].get(mode="clip").astype(x.dtype)


Take = Callable[[jax.Array, jax.Array], jax.Array]
"""Maps entries [n] and their columns [n] to what is to be added [n, ...]."""


def _gathered(
    sums: Sums,
    take: Take,
    like: jax.Array,
    join: Callable[[jax.Array, jax.Array], jax.Array] = jnp.add,
    nothing: float = 0.0,
) -> jax.Array:
    """Joins what each row takes of its entries, [R, ...], of the form and type of `like`'s rows."""
    found = []
    for bucket in sums.buckets:
        taken = [
            take(bucket.entries[:, k], bucket.others[:, k]) for k in range(bucket.entries.shape[1])
        ]
        joined = taken[0]
        for more in taken[1:]:
            joined = join(joined, more)
        found.append(joined)
    if not found:
        return jnp.full((len(sums.place), *like.shape[1:]), nothing, like.dtype)
    placed = _taken(jnp.concatenate(found), sums.place, nothing)
    if sums.again is None:
        return placed
    return _gathered(sums.again, lambda at, _: _taken(placed, at, nothing), like, join, nothing)


def _taken(x: jax.Array, at: jax.Array, nothing: float) -> jax.Array:
    return jnp.asarray(x).at[at].get(mode="fill", fill_value=nothing)


def _sum(sums: Sums, values: jax.Array) -> jax.Array:
    found = _gathered(sums, lambda at, _: _wide(_taken(values, at, 0)), values)
    return found.astype(values.dtype)


def _weighted(sums: Sums, weights: jax.Array, x: jax.Array) -> jax.Array:
    found = _gathered(
        sums, lambda at, other: _wide(_taken(weights, at, 0))[..., None] * x[other], x
    )
    return found.astype(x.dtype)


# The gradients: what is gathered by rows flows back by columns. Links have none.


@jax.custom_vjp
def _total_by_row(links: Links, values: jax.Array) -> jax.Array:
    return _sum(links.by_row, values)


_total_by_row.defvjp(
    lambda links, values: (_sum(links.by_row, values), links),
    lambda links, g: (None, g[links.rows]),
)


@jax.custom_vjp
def _at_rows(links: Links, x: jax.Array) -> jax.Array:
    return x[links.rows]


_at_rows.defvjp(
    lambda links, x: (x[links.rows], links),
    lambda links, g: (None, _sum(links.by_row, g)),
)


@jax.custom_vjp
def _at_columns(links: Links, x: jax.Array) -> jax.Array:
    return x[links.columns]


_at_columns.defvjp(
    lambda links, x: (x[links.columns], links),
    lambda links, g: (None, _sum(links.by_column, g)),
)


@jax.custom_vjp
def _product(links: Links, weights: jax.Array, x: jax.Array) -> jax.Array:
    return _weighted(links.by_row, weights, x)


def _product_forward(links, weights, x):
    return _weighted(links.by_row, weights, x), (links, weights, x)


def _product_back(kept, g):
    links, weights, x = kept
    along = jnp.sum(_wide(g[links.rows]) * x[links.columns], axis=-1).astype(weights.dtype)
    return None, along, _weighted(links.by_column, weights, g)


_product.defvjp(_product_forward, _product_back)
