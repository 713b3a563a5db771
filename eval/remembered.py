"""Dear results of what was learned, kept until something else is asked for."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import jax

Result = TypeVar("Result")


class Remembered(Generic[Result]):
    """A function that gives its last result again as long as it is asked about the same arrays.

    Scores and pictures at a run's end ask about the same networks, one after the other. "The same"
    means the same objects, which nobody writes to.

    Args:
      fn: maps a pytree of arrays to a result.
    """

    def __init__(self, fn: Callable[[Any], Result]) -> None:
        self._fn = fn
        self._leaves: list[Any] | None = None
        self._result: Result | None = None

    def __call__(self, learned: Any) -> Result:
        """The result for a pytree of arrays."""
        leaves = jax.tree.leaves(learned)
        known = self._leaves
        if known is None or len(known) != len(leaves) or any(map(_differ, known, leaves)):
            self._leaves = None
            self._result = None  # not held beside the next, which may be as large
            self._result = self._fn(learned)
            self._leaves = leaves  # they are kept, so that no other object can take their place
        return self._result


def _differ(one: Any, other: Any) -> bool:
    return one is not other
