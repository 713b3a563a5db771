"""Sequences that are made, not found: tasks that ask what a network can remember.

Each draws one example from a random key; lengths are those of whole sequences, in steps. Symbols
enter as one-hot vectors.

Shapes: T steps, F features of an input, K outputs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

_COPIED = 10  # symbols to remember in `copying`
_LETTERS = 8  # of `copying`
_SELECTED = 16  # symbols to remember in `selective_copying`
_ALPHABET = 16  # of `selective_copying` and `induction`


class Example(NamedTuple):
    """A sequence and what is to be said of it."""

    inputs: jax.Array  # float32 [T, F]
    targets: jax.Array  # int32 [T] of classes, or float32 [T, K]
    counted: jax.Array  # bool [T], the steps that are judged


@dataclass(frozen=True)
class Generated:
    """A task.

    Attributes:
      draw: maps (key, size) to an example.
      features: F.
      outputs: K, classes or numbers.
      size: what `draw` is given if nothing else is said: its length, or a delay.
      chance: the accuracy of the best guess that does not look.
      classes: whether targets are classes.
      beyond: how many steps the sequence is longer than `size`.
    """

    draw: Callable[[jax.Array, int], Example]
    features: int
    outputs: int
    size: int
    chance: float
    classes: bool = True
    beyond: int = 0


def adding(key: jax.Array, length: int) -> Example:
    """The sum of two marked numbers (Hochreiter and Schmidhuber 1997, 5.4; as in Le et al. 2015).

    Numbers are uniform in [0, 1]; one of the first half and one of the second are marked by a 1 in
    the second feature. The sum is asked for at the last step. Always saying 1 has a squared error
    of 1 / 6.
    """
    value_key, first_key, second_key = jax.random.split(key, 3)
    values = jax.random.uniform(value_key, (length,))
    half = length // 2
    first = jax.random.randint(first_key, (), 0, half)
    second = jax.random.randint(second_key, (), half, length)
    step = jnp.arange(length)
    marked = (step == first) | (step == second)
    total = jnp.sum(values * marked)
    inputs = jnp.stack([values, marked.astype(jnp.float32)], axis=1)
    targets = jnp.full((length, 1), total)
    return Example(inputs, targets, step == length - 1)


def copying(key: jax.Array, delay: int) -> Example:
    """Ten symbols again, after a delay (Arjovsky et al. 2016, section 4.1).

    Ten of 8 letters, `delay` - 1 blanks, a sign, ten blanks: during the latter the ten letters are
    to be said in their order. (In the paper, blanks are to be said before, and count too; they are
    soon learned, and not judged here.)
    """
    letters = jax.random.randint(key, (_COPIED,), 0, _LETTERS)
    blank = _LETTERS
    sign = _LETTERS + 1
    wait = jnp.full((delay - 1,), blank)
    ask = jnp.full((_COPIED,), blank)
    symbols = jnp.concatenate([letters, wait, jnp.array([sign]), ask])
    quiet = jnp.zeros((_COPIED + delay,), jnp.int32)
    targets = jnp.concatenate([quiet, letters])
    counted = jnp.arange(delay + 2 * _COPIED) >= delay + _COPIED
    return Example(_one_hot(symbols, _LETTERS + 2), targets, counted)


def selective_copying(key: jax.Array, length: int) -> Example:
    """Sixteen symbols again, which stand at random places (Gu and Dao 2023, section 4.1.1).

    Among `length` steps, 16 of 16 letters stand at random places and blanks at all others; then a
    sign asks 16 times for the letters, in their order.
    """
    letter_key, place_key = jax.random.split(key)
    letters = jax.random.randint(letter_key, (_SELECTED,), 0, _ALPHABET)
    places = jnp.sort(jax.random.permutation(place_key, length)[:_SELECTED])
    blank = _ALPHABET
    sign = _ALPHABET + 1
    shown = jnp.full((length,), blank).at[places].set(letters)
    symbols = jnp.concatenate([shown, jnp.full((_SELECTED,), sign)])
    targets = jnp.concatenate([jnp.zeros((length,), jnp.int32), letters])
    return Example(
        _one_hot(symbols, _ALPHABET + 2), targets, jnp.arange(length + _SELECTED) >= length
    )


def induction(key: jax.Array, length: int) -> Example:
    """What came after the special symbol (Olsson et al. 2022; Gu and Dao 2023, section 4.1.2).

    Of 16 symbols one is special. It stands at a random place and at the end; what followed it the
    first time is to be said at the end. All others are random.
    """
    symbol_key, place_key = jax.random.split(key)
    special = _ALPHABET - 1
    symbols = jax.random.randint(symbol_key, (length,), 0, special)
    place = jax.random.randint(place_key, (), 0, length - 2)
    step = jnp.arange(length)
    symbols = jnp.where((step == place) | (step == length - 1), special, symbols)
    targets = jnp.full((length,), symbols[place + 1])
    return Example(_one_hot(symbols, _ALPHABET), targets, step == length - 1)


def parity(key: jax.Array, length: int) -> Example:
    """Whether the ones so far are odd in number (Minsky and Papert 1969), asked at every step."""
    bits = jax.random.bernoulli(key, 0.5, (length,)).astype(jnp.int32)
    counted = jnp.ones((length,), bool)
    return Example(bits[:, None].astype(jnp.float32), jnp.cumsum(bits) % 2, counted)


def _one_hot(symbols: jax.Array, many: int) -> jax.Array:
    return jax.nn.one_hot(symbols, many)


# The chance of `adding` is that of being within 0.04 of the sum by saying 1: 1 - (1 - 0.04)^2.
TASKS = {
    "adding": Generated(adding, 2, 1, 200, 1 - 0.96**2, classes=False),
    "copying": Generated(copying, _LETTERS + 2, _LETTERS, 100, 1 / _LETTERS, beyond=2 * _COPIED),
    "selective_copying": Generated(
        selective_copying, _ALPHABET + 2, _ALPHABET, 64, 1 / _ALPHABET, beyond=_SELECTED
    ),
    "induction": Generated(induction, _ALPHABET, _ALPHABET - 1, 64, 1 / (_ALPHABET - 1)),
    "parity": Generated(parity, 1, 2, 40, 1 / 2),
}
SHORTEST = {"adding": 2, "copying": 1, "selective_copying": _SELECTED, "induction": 3, "parity": 1}
