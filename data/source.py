"""Batches of images, gathered while the device works."""

import contextlib
import itertools
import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from missing_bits.data.images import Split
from missing_bits.errors import require

_INNER_STEPS = 10  # enough to hide what a jitted call costs
_STACKED = 64 << 20  # bytes that the batches of one call may take


class Batch(NamedTuple):
    """Images for one update of S seeds."""

    images: np.ndarray  # uint8 [S, B, H, W, C]
    labels: np.ndarray | None  # int32 [S, B]


class Order:
    """Which images an update sees: for each seed and epoch another permutation, one after the other.

    The last batch of an epoch goes on into the next one: over an epoch every image comes once.
    """

    def __init__(self, size: int, seeds: Sequence[int], batch_size: int) -> None:
        self._size, self._seeds, self._batch_size = size, seeds, batch_size
        self._last: dict[int, tuple[int, np.ndarray]] = {}  # for each seed, its last epoch and permutation

    def __call__(self, update: int) -> np.ndarray:
        """Indices [S, B] of update `update`: a pure function of seeds and update."""
        return np.stack([self._indices(seed, update * self._batch_size) for seed in self._seeds])

    def _indices(self, seed: int, start: int) -> np.ndarray:
        epoch, offset = divmod(start, self._size)
        indices = self._permutation(seed, epoch)[offset : offset + self._batch_size]
        missing = self._batch_size - len(indices)
        return np.concatenate([indices, self._permutation(seed, epoch + 1)[:missing]]) if missing else indices

    def _permutation(self, seed: int, epoch: int) -> np.ndarray:
        if self._last.get(seed, (None,))[0] != epoch:
            self._last[seed] = epoch, np.random.default_rng((seed, epoch)).permutation(self._size)
        return self._last[seed][1]


class ImageSource:
    """The batches of several seeds, a pure function of seed and update (`Source` in loop/experiment.py).

    A thread gathers the next ones while the device works.

    Args:
      split: the images.
      seeds: a batch for each.
      batch_size: images per seed and update.
      labelled: whether batches carry labels.

    Raises:
      UserError: the batch is larger than the split.
    """

    def __init__(self, split: Split, seeds: Sequence[int], batch_size: int, labelled: bool = False) -> None:
        count, *shape = split.images.shape
        require(
            batch_size <= count,
            f"--batch-size is {batch_size}, but there are {count} images to train on; give at most that many.",
        )
        self._split, self._seeds, self._batch_size, self._labelled = split, tuple(seeds), batch_size, labelled
        most = _STACKED // (len(self._seeds) * batch_size * int(np.prod(shape)))
        self.inner_steps = min(_INNER_STEPS, max(1, most)) if isinstance(split.images, np.ndarray) else 1
        self._ahead: _Ahead | None = None
        self._update = 0  # what the thread hands over next

    def next(self, act: Any, update: int) -> Batch:
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

    def _batches(self, start: int) -> Iterator[Batch]:
        images, labels = self._split
        order = Order(images.shape[0], self._seeds, self._batch_size)
        for update in itertools.count(start):
            indices = order(update)  # [S, B]
            batch = images[indices.ravel()].reshape(*indices.shape, *images.shape[1:])
            yield Batch(batch, labels[indices] if self._labelled else None)


class _Ahead:
    """A thread that keeps the next few items of a generator ready."""

    def __init__(self, items: Iterator[Any], depth: int) -> None:
        self._ready: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(depth)
        self._stopped = threading.Event()
        # A daemon: a run that ends in an error does not wait for it.
        self._thread = threading.Thread(target=self._fill, args=(items,), name="batches", daemon=True)
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
