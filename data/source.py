"""Batches of examples, gathered while the device works.

Shapes: N examples, S seeds, B examples in a batch, M examples of a pool.
"""

import contextlib
import itertools
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from missing_bits.data.images import Lazy
from missing_bits.errors import require

Examples = Any  # a NamedTuple of arrays [N, ...], such as `Split`
Batch = Any  # a NamedTuple of the same class, leaves [S, B, ...]

_INNER_STEPS = 10  # enough to hide what a jitted call costs
_STACKED = 64 << 20  # bytes that the batches of one call may take


class Epoch(NamedTuple):
    """One pass over all examples."""

    number: int
    permutation: np.ndarray  # [N]


class Order:
    """Which examples an update sees: for each seed and epoch another permutation.

    A batch that an epoch cannot fill goes on into the next one: over an epoch every example comes
    once.
    """

    def __init__(self, size: int, seeds: Sequence[int], batch_size: int) -> None:
        self._size = size
        self._seeds = seeds
        self._batch_size = batch_size
        self._last: dict[int, Epoch] = {}  # of each seed

    def __call__(self, update: int) -> np.ndarray:
        """Indices [S, B] of update `update`: a pure function of seeds and update."""
        return np.stack([self._indices(seed, update) for seed in self._seeds])

    def _indices(self, seed: int, update: int) -> np.ndarray:
        start = update * self._batch_size
        end = start + self._batch_size
        parts = []
        for number in range(start // self._size, (end - 1) // self._size + 1):
            first = number * self._size  # where this epoch begins
            permutation = self._permutation(seed, number)
            parts.append(permutation[max(0, start - first) : end - first])
        return np.concatenate(parts)

    def _permutation(self, seed: int, number: int) -> np.ndarray:
        last = self._last.get(seed)
        if last is None or last.number != number:
            permutation = np.random.default_rng((seed, number)).permutation(self._size)
            last = Epoch(number, permutation)
            self._last[seed] = last
        return last.permutation


class BatchSource:
    """The batches of several seeds, pure in seed and update (`Source` in loop/experiment.py).

    A thread gathers the next ones while the device works.

    Args:
      examples: a NamedTuple of arrays [N, ...], such as `Split`; the first may be decoded when
        asked for, others may be None.
      seeds: a batch for each.
      batch_size: examples per seed and update.
      pools: for each seed, indices [M] of the only examples it sees, over and over; by default it
        sees all.

    Raises:
      UserError: the batch is larger than the set.
    """

    def __init__(
        self,
        examples: Examples,
        seeds: Sequence[int],
        batch_size: int,
        pools: Sequence[np.ndarray] | None = None,
    ) -> None:
        count = examples[0].shape[0]
        require(
            batch_size <= count or pools is not None,
            f"--batch-size is {batch_size}, but there are {count} examples to train on; "
            "give at most that many.",
        )
        self._examples = examples
        self._seeds = tuple(seeds)
        self._batch_size = batch_size
        self._pools = pools
        self.inner_steps = _inner_steps(examples[0], len(self._seeds) * batch_size)
        self._ahead: _Ahead | None = None
        self._update = 0  # what the thread hands over next

    def next(self, act: Callable[..., Any] | None, update: int) -> Batch:
        """The batch of an update; the next ones are on their way if it is asked for in order.

        Args:
          act: not used.
          update: index from 0.
        """
        if self._ahead is None or update != self._update:
            self.close()
            self._ahead = _Ahead(self._batches(update), 2 * self.inner_steps)
        self._update = update + 1
        try:
            return self._ahead.get()
        except BaseException:
            self.close()
            raise

    def metrics(self) -> list[dict[str, float]]:
        """Nothing."""
        return [{} for _ in self._seeds]

    def save(self) -> dict[str, np.ndarray]:
        """Nothing: `next` is pure."""
        return {}

    def restore(self, saved: Mapping[str, np.ndarray]) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Ends the thread; `next` starts another."""
        if self._ahead is not None:
            self._ahead.close()
            self._ahead = None

    def _batches(self, start: int) -> Iterator[Batch]:
        """The batches from update `start` on."""
        seen = self._examples[0].shape[0] if self._pools is None else len(self._pools[0])
        order = Order(seen, self._seeds, self._batch_size)
        for update in itertools.count(start):
            indices = order(update)  # [S, B]
            if self._pools is not None:
                rows = zip(self._pools, indices, strict=True)
                indices = np.stack([pool[row] for pool, row in rows])
            leaves = [None if array is None else _take(array, indices) for array in self._examples]
            yield type(self._examples)(*leaves)


def _inner_steps(array: np.ndarray | Lazy, examples: int) -> int:
    """The most updates of one call, each of so many examples of an array [N, ...]."""
    if not isinstance(array, np.ndarray):
        return 1
    fitting = _STACKED // (examples * int(np.prod(array.shape[1:])))
    return min(_INNER_STEPS, max(1, fitting))


def _take(array: np.ndarray | Lazy, indices: np.ndarray) -> np.ndarray:
    """Examples [S, B, ...] of an array [N, ...], which may be one that takes flat indices only."""
    return array[indices.ravel()].reshape(*indices.shape, *array.shape[1:])


class _Ready(NamedTuple):
    """What the thread hands over: a batch, or the error it met instead."""

    batch: Batch
    error: BaseException | None


class _Ahead:
    """A thread that keeps the next few batches ready."""

    def __init__(self, batches: Iterator[Batch], depth: int) -> None:
        self._ready: queue.Queue[_Ready] = queue.Queue(depth)
        self._stopped = threading.Event()
        # A daemon: a run that ends in an error does not wait for it.
        self._thread = threading.Thread(
            target=self._fill, args=(batches,), name="batches", daemon=True
        )
        self._thread.start()

    def get(self) -> Batch:
        """The next batch; raises what making it raised."""
        ready = self._ready.get()
        if ready.error is not None:
            raise ready.error
        return ready.batch

    def close(self) -> None:
        """Returns once the thread has ended."""
        self._stopped.set()
        with contextlib.suppress(queue.Empty):
            while True:  # makes room: the thread may be waiting to hand over
                self._ready.get_nowait()
        self._thread.join()

    def _fill(self, batches: Iterator[Batch]) -> None:
        try:
            for batch in batches:
                self._ready.put(_Ready(batch, None))
                if self._stopped.is_set():
                    return
        except BaseException as error:
            self._ready.put(_Ready(None, error))
