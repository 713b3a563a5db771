"""Methods that differ in nothing but numbers: what the rows of one program are made of."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from missing_bits import options
from missing_bits.loop.experiment import Acting, DeviceSource, Experiment


def row_bytes(method: Any, config: Any, seed: int) -> int | None:
    """The bytes of one row's state; None where rows are tied to environments on the host.

    Args:
      method: the method's class.
      config: of the row.
      seed: of the row.
    """
    experiment = method(config, method.resources(config))
    source = experiment.source([seed])
    if source is not None and not isinstance(source, DeviceSource):
        source.close()
        if isinstance(experiment, Acting):
            return None

    def init(key: jax.Array) -> Any:
        feed = ()
        if isinstance(source, DeviceSource):
            feed = source.init(experiment.memory, key)
        return experiment.init(key), feed

    shapes = jax.tree.leaves(jax.eval_shape(init, jax.random.key(seed)))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in shapes)


class Family:
    """A method with one configuration for each row.

    Args:
      method: the method's class.
      configs: one for each row; they may differ only in numbers marked with `options.row`.
      resources: of any of them.

    Attributes:
      numbers: float32 [rows, N], the numbers of each row.
      rows: each row's method, built from the original decimals; equal configurations share one.
    """

    def __init__(
        self, method: Callable[[Any, Any], Experiment], configs: Sequence[Any], resources: Any
    ) -> None:
        self._method = method
        self._config = configs[0]
        self._resources = resources
        self.numbers = np.stack([options.numbers(config) for config in configs])
        same = [options.with_numbers(config, np.zeros_like(self.numbers[0])) for config in configs]
        assert all(config == same[0] for config in same), "rows may differ in numbers alone"
        self.rows: list[Experiment] = []
        for i, config in enumerate(configs):
            twin = next((j for j in range(i) if configs[j] == config), None)
            self.rows.append(method(config, resources) if twin is None else self.rows[twin])

    @property
    def first(self) -> Experiment:
        """The method of the first row, for all that does not depend on numbers."""
        return self.rows[0]

    def at(self, numbers: jax.Array) -> Experiment:
        """The method with (traced) numbers [N]: build it inside each traced function."""
        return self._method(options.with_numbers(self._config, numbers), self._resources)
