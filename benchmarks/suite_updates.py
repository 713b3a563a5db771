"""The suite's own updates within the loop's compiled program, for benchmarks that time them."""

import time
from typing import Any

import jax
import numpy as np

from missing_bits.loop.experiment import DeviceSource
from missing_bits.loop.family import Family
from missing_bits.loop.parallel import Layout
from missing_bits.loop.train import _stacked


class Updates:
    """A method before its first update, its program compiled.

    Args:
      method: the class.
      config: its configuration.
      seeds: rows of the program, trained at once.
      per_call: most updates of one call, each with a batch of its own; any number where the method
        makes its batches on the device.
      on_device: whether the batches that lie ready do so on the device, not on the host.

    Attributes:
      resources: what rows share.
      family: the method's rows.
      source: what makes batches; None where updates need none.
      ready: leaves [K, seeds, B, ...], the first batches of a source on the host; None for a
        source on the device, or without one.
      running: what the loop carries: parameters and all else.
      done: updates made.
      compile_seconds: how long tracing and compiling took.
    """

    def __init__(
        self,
        method: type,
        config: Any,
        *,
        seeds: int = 1,
        per_call: int = 1,
        on_device: bool = False,
    ) -> None:
        self.per_call = per_call
        self.resources = method.resources(config)
        self.family = Family(method, [config] * seeds, self.resources)
        self._layout = Layout(list(range(seeds)), 1)
        self.source = self.family.first.source(self._layout.seeds)
        self.done = 0
        self._asked = 0  # batches, in order: the source prepares the next ones
        self.ready = self.gathered()
        if on_device:
            self.ready = jax.device_put(self.ready)
        self.running = self._layout.init(self.family, self.source)
        self._one = self._traced()
        self._window = self._layout.empty_window(list(self._one.out_info[1]))
        self.compile_seconds = self._compile()

    def exchange(self, resources: Any) -> None:
        """Goes on with the same parameters and other resources, and compiles anew."""
        first = self.family.first
        self.resources = resources
        self.family = Family(type(first), [first.config] * len(self.family.rows), resources)
        self._one = self._traced()
        self.compile_seconds = self._compile()

    def gathered(self) -> Any:
        """The batches of the next call, from a source on the host."""
        if self.source is None or isinstance(self.source, DeviceSource):
            return None
        coming = range(self._asked, self._asked + self.per_call)
        self._asked += self.per_call
        return _stacked([self.source.next(None, update) for update in coming], self.per_call)

    def call(self, batches: Any, count: int) -> None:
        """Makes so many updates in one call, and does not wait for them."""
        self.running, self._window = self._updates(
            self.running, self._window, batches, self.done, count
        )
        self.done += count

    def make(self, count: int) -> float:
        """Makes updates on the batches that lie ready, and returns the seconds they took."""
        most = count if self.ready is None else self.per_call
        start = time.perf_counter()
        left = count
        while left > 0:
            self.call(self.ready, min(left, most))
            left -= most
        jax.block_until_ready(self.running)
        return time.perf_counter() - start

    def metrics(self) -> dict[str, float]:
        """The means of what was logged, over all updates and seeds that logged it."""
        sums = jax.device_get(self._window)
        means = {}
        for name, mean in sums.items():
            count = float(np.sum(mean.count))
            if count:
                means[name] = float(np.sum(mean.total)) / count
        return means

    def flops(self) -> float:
        """The floating-point operations of one update of all seeds.

        XLA's own count (`cost_analysis`), of the program before it is optimized: a compiled program
        of a GPU hides products and convolutions in library calls, which count as nothing.
        Everything counts, augmentation and optimizer too; a loop within an update counts once. It
        is the count of the program for TPUs, on every platform: convolutions in it are plain.
        """
        # An accelerator's client counts compiled programs alone, the CPU's others too.
        with jax.default_device(jax.devices("cpu")[0]):
            cost = self._one.lower(lowering_platforms=("tpu",)).cost_analysis()
        return float(cost["flops"]) * len(self.family.rows)

    def close(self) -> None:
        """Lets go of threads and files."""
        if self.source is not None and not isinstance(self.source, DeviceSource):
            self.source.close()

    def _traced(self) -> jax.stages.Traced:
        """One update of one row: (running, batch, keys, numbers, i) -> (running, metrics)."""
        first = self.family.first
        family = Family(type(first), [first.config], self.resources)
        update = Layout([0], 1)._update(family, self.source)
        rows = len(self._layout._leading())  # axes before those of one row
        running = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape[rows:], x.dtype), self.running
        )
        batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[2:], x.dtype), self.ready)
        keys = np.asarray(jax.random.key_data(jax.random.split(jax.random.key(0))))
        return jax.jit(update).trace(running, batch, keys, family.numbers[0], np.int32(0))

    def _compile(self) -> float:
        self._updates = self._layout.updates(self.family, self.source)
        start = time.perf_counter()
        self.call(self.ready, 0)
        jax.block_until_ready(self.running)
        return time.perf_counter() - start
