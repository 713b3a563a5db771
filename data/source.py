"""Batches of examples, gathered while the device works."""

import contextlib
import itertools
import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from missing_bits.errors import require

_INNER_STEPS = 10  # enough to hide what a jitted call costs
_STACKED = 64 << 20  # bytes that the batches of one call may take


class Order:
    """Which examples an update sees: for each seed and epoch another permutation, one after the other.

    A batch that an epoch cannot fill goes on into the next one: over an epoch every example comes once.
    """

    def __init__(self, size: int, seeds: Sequence[int], batch_size: int) -> None:
        self._size, self._seeds, self._batch_size = size, seeds, batch_size
        self._last: dict[
            int, tuple[int, np.ndarray]
        ] = {}  # for each seed, its last epoch and permutation

    def __call__(self, update: int) -> np.ndarray:
        """Indices [S, B] of update `update`: a pure function of seeds and update."""
        return np.stack([self._indices(seed, update * self._batch_size) for seed in self._seeds])

    def _indices(self, seed: int, start: int) -> np.ndarray:
        end, parts = start + self._batch_size, []
        while start < end:
            epoch, offset = divmod(start, self._size)
            parts.append(self._permutation(seed, epoch)[offset : offset + end - start])
            start += len(parts[-1])
        return np.concatenate(parts)

    def _permutation(self, seed: int, epoch: int) -> np.ndarray:
        if self._last.get(seed, (None,))[0] != epoch:
            self._last[seed] = epoch, np.random.default_rng((seed, epoch)).permutation(self._size)
        return self._last[seed][1]


class BatchSource:
    """The batches of several seeds, a pure function of seed and update (`Source` in loop/experiment.py).

    A thread gathers the next ones while the device works.

    Args:
      examples: a NamedTuple of arrays [N, ...], such as `Split`; the first may be decoded when asked for, others may
        be None. Batches are NamedTuples of the same class, with leaves [S, B, ...].
      seeds: a batch for each.
      batch_size: examples per seed and update.
      pools: for each seed, indices [M] of the only examples it sees, over and over; by default it sees all.

    Raises:
      UserError: the batch is larger than the set.
    """

    def __init__(
        self,
        examples: Any,
        seeds: Sequence[int],
        batch_size: int,
        pools: Sequence[np.ndarray] | None = None,
    ) -> None:
        count, *shape = examples[0].shape
        require(
            batch_size <= count or pools is not None,
            f"--batch-size is {batch_size}, but there are {count} examples to train on; give at most that many.",
        )
        self._examples, self._seeds, self._batch_size, self._pools = (
            examples,
            tuple(seeds),
            batch_size,
            pools,
        )
        most = _STACKED // (len(self._seeds) * batch_size * int(np.prod(shape)))
        self.inner_steps = (
            min(_INNER_STEPS, max(1, most)) if isinstance(examples[0], np.ndarray) else 1
        )
        self._ahead: _Ahead | None = None
        self._update = 0  # what the thread hands over next

    def next(self, act: Any, update: int) -> Any:
        """The batch of an update; the next ones are on their way if it is asked for in order."""
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

    def _batches(self, start: int) -> Iterator[Any]:
        pools = self._pools
        size = self._examples[0].shape[0] if pools is None else len(pools[0])
        order = Order(size, self._seeds, self._batch_size)
        for update in itertools.count(start):
            indices = order(update)  # [S, B]
            if pools is not None:
                indices = np.stack([pool[row] for pool, row in zip(pools, indices, strict=True)])
            yield type(self._examples)(
                *(None if x is None else _take(x, indices) for x in self._examples)
            )


def _take(array: Any, indices: np.ndarray) -> np.ndarray:
    """Examples [S, B, ...] of an array [N, ...], which may be one that takes flat indices only."""
    return array[indices.ravel()].reshape(*indices.shape, *array.shape[1:])


class _Ahead:
    """A thread that keeps the next few items of a generator ready."""

    def __init__(self, items: Iterator[Any], depth: int) -> None:
        self._ready: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(depth)
        self._stopped = threading.Event()
        # A daemon: a run that ends in an error does not wait for it.
        self._thread = threading.Thread(
            target=self._fill, args=(items,), name="batches", daemon=True
        )
        self._thread.start()

    def get(self) -> Any:
        """The next item; raises what the generator raised."""
        item, error = self._ready.get()
        if error is not None:
            raise error
        return item

    def close(self) -> None:
        """Returns once the thread has ended."""
        self._stopped.set()
        with contextlib.suppress(queue.Empty):
            while True:  # makes room: the thread may be waiting to hand over
                self._ready.get_nowait()
        self._thread.join()

    def _fill(self, items: Iterator[Any]) -> None:
        try:
            for item in items:
                self._ready.put((item, None))
                if self._stopped.is_set():
                    return
        except BaseException as error:
            self._ready.put((None, error))
