"""Makes updates of a method as the loop does, without a folder: for laws and for passports."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from missing_bits.loop.experiment import Acting, DeviceSource
from missing_bits.loop.family import Family
from missing_bits.loop.parallel import Layout, Running, Window
from missing_bits.loop.train import _stacked


class SharingLayout(Layout):
    """Lays out each function once for all layouts of a shape, so that it is compiled once.

    All that differs between rows is an argument: what is laid out for one seed and step size
    serves others.

    Args:
      seeds, devices: as of `Layout`.
      programs: those there are, of one method, one configuration but for numbers, and equal
        resources.
    """

    def __init__(self, seeds: Sequence[int], devices: int, programs: dict[Any, Any]) -> None:
        super().__init__(seeds, devices)
        self._programs = programs

    def _lay(self, fn: Any, *arguments: Any, **settings: Any) -> Any:
        key = (fn.__qualname__, len(self.seeds), self.num_devices)
        if key not in self._programs:
            self._programs[key] = super()._lay(fn, *arguments, **settings)
        return self._programs[key]


class Drive:
    """A method's rows, before their first update.

    Args:
      method: the class.
      configs: one for every row, or one for all.
      seeds: one for every row.
      devices: to lay them over.
      resources: by default those of the first configuration.
      batches: leaves [K, rows, ...], to be taken instead of the source's; update i gets batch i.
      programs: of `SharingLayout`; by default none.
      room: how many updates the batches of a call have room for, at least; each number compiles
        anew.
    """

    def __init__(
        self,
        method: Any,
        configs: Any,
        seeds: Sequence[int],
        devices: int = 1,
        resources: Any = None,
        batches: Any = None,
        programs: dict[Any, Any] | None = None,
        room: int = 1,
    ) -> None:
        configs = configs if isinstance(configs, list) else [configs] * len(seeds)
        if resources is None:
            resources = method.resources(configs[0])
        self.layout = SharingLayout(seeds, devices, {} if programs is None else programs)
        self.family = Family(method, configs, resources)
        self.experiment = self.family.first
        self.source = self.experiment.source(seeds)
        self.on_host = self.source is not None and not isinstance(self.source, DeviceSource)
        self.batches = batches
        self._room = room
        self.running: Running = self.layout.init(self.family, self.source)
        acts = isinstance(self.experiment, Acting) and self.on_host
        self.acting = self.layout.acting(self.family) if acts else None
        self.window: Window | None = None
        self.update = 0
        self._updates = self.layout.updates(self.family, self.source)

    def take(self, count: int) -> Any:
        """The batches of the next updates, leaves [count, rows, ...]."""
        if not self.on_host:
            return None
        if self.batches is not None:
            chosen = slice(self.update, self.update + count)
            return jax.tree.map(lambda x: x[chosen], self.batches)
        made = [self.source.next(self._act, self.update + i) for i in range(count)]
        return _stacked(made, count)

    def _act(self, *seen: np.ndarray) -> Any:
        return self.acting(self.running, *seen)

    def advance(self, *counts: int) -> "Drive":
        """Makes as many updates in each call."""
        if self.experiment.plan.behind and self.acting.held is None:
            self.acting.hold(self.running)
        for count in counts:
            batches = jax.tree.map(self._padded, self.take(max(count, 1)))
            if self.experiment.plan.behind:
                self.acting.hold(self.running)
            if self.window is None:
                self.window = self.layout.window(self.family, self.source, self.running, batches)
            self.running, self.window = self._updates(
                self.running, self.window, batches, self.update, count
            )
            self.update += count
        return self

    def _padded(self, x: np.ndarray) -> np.ndarray:
        missing = max(0, self._room - len(x))
        return np.concatenate([x, np.repeat(x[-1:], missing, axis=0)])

    @property
    def learned(self) -> list[Any]:
        """What each row has learned."""
        return self.layout.learned(self.experiment, self.running)

    @property
    def sums(self) -> list[Any]:
        """Each row's sums and counts of metrics."""
        return self.layout.rows(self.window)

    @property
    def everything(self) -> "Everything":
        """All that a checkpoint holds, on the host."""
        return Everything(
            self.layout.fetch(self.experiment, self.running),
            jax.device_get(self.window),
            jax.device_get(self.acting.memory) if self.acting else None,
            self.source.save() if self.on_host else {},
        )

    def restore(self, saved: "Everything", update: int) -> "Drive":
        """Continues where another one stood after `update` updates."""
        self.running = self.layout.put(self.experiment, saved.running)
        self.window = self.layout.put_all(saved.window)
        self.update = update
        if self.acting:
            self.acting.memory = self.layout.put_all(saved.memory)
        if self.on_host:
            self.source.restore(saved.source)
        return self


class Everything(NamedTuple):
    """What a checkpoint holds."""

    running: Running
    window: Window
    memory: Any
    source: dict[str, np.ndarray]
