"""Masked language: which tokens of a row are hidden, and by what.

As in BERT (Devlin et al. 2019, section 3.1). Functions treat one row; vmap them. A token's id means
nothing here: what may be hidden is what `maskable` says.
Shapes: L tokens in a row, M tokens of it that may be hidden at most.
"""

from fractions import Fraction
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

_MASKED = 0.8  # share of the chosen tokens that become the mask
_RANDOM = 0.1  # share that become a random token; the rest stay


class Masked(NamedTuple):
    """A corrupted row and what stood there before.

    Slots that are not `chosen` hold some other place; ignore them.
    """

    tokens: jax.Array  # int32 [L], corrupted
    places: jax.Array  # int32 [M], in [0, L), all different
    labels: jax.Array  # int32 [M], the tokens that stood at these places
    chosen: jax.Array  # bool [M], which slots count


def most_masked(length: int, share: float) -> int:
    """The tokens that may be chosen of `length`: `max(1, round(length * share))`.

    The arithmetic is exact; halves are rounded to even.

    Args:
      length: tokens, at least 1.
      share: in (0, 1], meant as it is written: 0.15 is fifteen hundredths.
    """
    return max(1, round(length * Fraction(str(share))))


def mask(
    key: jax.Array,
    tokens: jax.Array,
    maskable: jax.Array,
    words: jax.Array | None,
    *,
    share: float,
    vocabulary: int,
    specials: int,
    mask_id: int,
) -> Masked:
    """Chooses tokens of a row and corrupts them.

    Of n maskable tokens `most_masked(n, share)` are chosen, none if n is 0: places uniformly
    without replacement or, given `words`, whole words in random order. A word that does not fit
    into what is left of that budget is skipped, as in the authors' code, so the number chosen may
    fall short. Of the chosen, each by itself, 80 % become `mask_id`, 10 % a random token, and 10 %
    stay.

    Args:
      key: a typed key.
      tokens: int32 [L].
      maskable: bool [L], False for special tokens and padding.
      words: int32 [L], equal for neighboring tokens of the same word; or None to choose token by
        token.
      share: of the maskable tokens to choose, in (0, 1].
      vocabulary: number of token ids.
      specials: ids below this are never drawn as random tokens; less than `vocabulary`.
      mask_id: what stands for a hidden token.
    """
    length = tokens.shape[0]
    chex.assert_shape([tokens, maskable], (length,))
    chex.assert_type([tokens, maskable], [jnp.int32, bool])
    assert specials < vocabulary, "there is no token to draw"
    order_key, fate_key, random_key = jax.random.split(key, 3)
    most = most_masked(length, share)
    # A table made on the host: float32 would round some products of n and share the wrong way.
    budgets = jnp.array([0] + [most_masked(n, share) for n in range(1, length + 1)])
    budget = budgets[jnp.sum(maskable)]
    scores = jax.random.uniform(order_key, (length,))
    if words is None:
        count = budget
        scores = jnp.where(maskable, scores, -1.0)
    else:
        hidden = _whole_words(scores, maskable, words, budget)
        count = jnp.sum(hidden)
        scores = hidden.astype(jnp.float32)
    # Distinct even where unused: no slot overwrites another's token.
    _, places = jax.lax.top_k(scores, most)  # [M]
    chosen = jnp.arange(most) < count
    labels = tokens[places]
    fate = jax.random.uniform(fate_key, (most,))
    drawn = jax.random.randint(random_key, (most,), specials, vocabulary)
    drawn_or_same = jnp.where(fate < _MASKED + _RANDOM, drawn, labels)
    corrupted = jnp.where(fate < _MASKED, mask_id, drawn_or_same)
    corrupted = jnp.where(chosen, corrupted, labels)
    return Masked(tokens.at[places].set(corrupted), places, labels, chosen)


def _whole_words(
    scores: jax.Array, maskable: jax.Array, words: jax.Array, budget: jax.Array
) -> jax.Array:
    """The places, bool [L], of the words that fit into the budget [].

    The word of the least score [L] comes first.
    """
    chex.assert_equal_shape([scores, maskable, words])
    length = len(words)
    starts = words[1:] != words[:-1]
    numbers = jnp.cumsum(starts, dtype=jnp.int32)
    word = jnp.concatenate([jnp.zeros(1, jnp.int32), numbers])  # [L], from 0
    # Of words, [L]; 0 behind the last.
    sizes = jax.ops.segment_sum(maskable.astype(jnp.int32), word, num_segments=length)

    def take(left: jax.Array, size: jax.Array) -> tuple[jax.Array, jax.Array]:
        fits = size <= left
        return left - jnp.where(fits, size, 0), fits

    order = jnp.argsort(scores)
    _, fits = jax.lax.scan(take, budget, sizes[order])
    taken = jnp.zeros(length, bool).at[order].set(fits)  # [L], of words
    return maskable & taken[word]
