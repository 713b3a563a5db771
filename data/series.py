"""Sequences to learn from with an answer: the option `--task`.

A set of series is for classification, one label for each, or for forecasting, what comes `horizon`
steps later at every step.

Shapes: N series, T steps, F features.
"""

import csv
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from missing_bits.data import files, generated
from missing_bits.data.images import ImageSet
from missing_bits.errors import UserError, require

_IMAGES = ("digits_rows", "digits_pixels", "fashion_rows", "fashion_pixels")
_SPEECH = ("speech", "speech_samples")
_FILES = ("csv:", "npz:")
_WINDOW = 64  # steps of a forecast's series, if nothing else is said
_TEST_SHARE = 0.2


class Labeled(NamedTuple):
    """Series of one purpose, each with its answer."""

    inputs: np.ndarray  # float32 [N, T, F]
    targets: np.ndarray  # int32 [N], classes; or float32 [N, T, F], what comes later
    lengths: np.ndarray  # int32 [N], steps that are real


@dataclass(frozen=True, eq=False)
class SeriesSet:
    """Series to train on, and others that training never sees."""

    train: Labeled
    test: Labeled
    classes: tuple[str, ...]
    """What the labels stand for; empty where something is to be forecast."""

    @property
    def digest(self) -> str:
        """SHA-256 of all series and answers."""
        found = hashlib.sha256()
        for array in (*self.train, *self.test):
            found.update(np.ascontiguousarray(array).tobytes())
        return found.hexdigest()


@dataclass(frozen=True)
class Task:
    """Which sequences to learn from, and what of them."""

    task: str = "digits_rows"
    """Classify images: digits_rows, digits_pixels, fashion_rows, fashion_pixels (pooled to 14x14);
    spoken digits: speech (log-mel energies), speech_samples; remember: adding, copying,
    selective_copying, induction, parity; your own: csv:PATH or npz:PATH."""
    data_dir: str = ""
    """Where the files of fashion or speech lie; empty for the usual places."""
    length: int = 0
    """Steps of adding, selective copying, induction and parity, the delay of copying, or steps of
    the series that forecasts read; 0 for the task's own."""
    permuted: bool = False
    """Pixels in another order, random but always the same."""
    horizon: int = 1
    """How many steps ahead to forecast."""

    @property
    def drawn(self) -> generated.Generated | None:
        """The task if it is generated."""
        return generated.TASKS.get(self.task)

    @property
    def size(self) -> int:
        """What `length` means, for a generated task."""
        assert self.drawn is not None
        return self.length or self.drawn.size

    def check(self, prefix: str) -> None:
        """Raises `UserError` for a task that there is not, and for options that do not fit it."""
        option = f"--{prefix}task={self.task}"
        is_file = self.task.startswith(_FILES)
        known = (*_IMAGES, *_SPEECH, *generated.TASKS)
        require(
            is_file or self.task in known,
            f"{option} is none of {', '.join(known)}, csv:PATH and npz:PATH.",
        )
        require(
            not self.permuted or self.task.endswith("_pixels"),
            f"--{prefix}permuted is for digits_pixels and fashion_pixels, not for {self.task}.",
        )
        require(
            not self.data_dir or self.task.startswith(("fashion", "speech")),
            f"--{prefix}data-dir is for fashion and speech, not for {self.task}.",
        )
        require(
            self.length == 0 or is_file or self.drawn is not None,
            f"--{prefix}length={self.length} is for tasks that are generated and for forecasts; "
            f"series of {self.task} have a length of their own.",
        )
        shortest = generated.SHORTEST.get(self.task, 2)
        require(
            self.length == 0 or self.length >= shortest,
            f"--{prefix}length is {self.length}; for {self.task} it must be at least {shortest}, "
            "or 0 for the usual one.",
        )
        require(self.horizon >= 1, f"--{prefix}horizon is {self.horizon}; it must be at least 1.")
        require(
            self.horizon == 1 or is_file,
            f"--{prefix}horizon is for forecasts of csv:PATH and npz:PATH, not for {self.task}.",
        )

    def load(self) -> SeriesSet:
        """The series of a task that is not generated.

        Raises:
          UserError: they cannot be had.
        """
        if self.task in _IMAGES:
            return self._images()
        if self.task in _SPEECH:
            from missing_bits.data import spoken_digits

            spoken = spoken_digits.load(self.data_dir, self.task == "speech")
            parts = [Labeled(part.series, part.labels, part.lengths) for part in spoken]
            return SeriesSet(*parts, tuple("0123456789"))
        kind, _, written = self.task.partition(":")
        path = files.at(written)
        require(os.path.isfile(path), f"--task={self.task}: there is no file {path}.")
        read = _read_csv(path) if kind == "csv" else _read_npz(path)
        if read.labels is not None:
            return _classified(read, self.task)
        length = self.length or _WINDOW
        return forecasts(read.values, length, self.horizon, self.task)

    def _images(self) -> SeriesSet:
        if self.task.startswith("digits"):
            return self._digits()
        from missing_bits.data import fashion_mnist

        found: ImageSet = fashion_mnist.load(self.data_dir)
        parts = []
        for split in (found.train, found.test):
            images = np.asarray(split.images)[..., 0].astype(np.float32) / 255  # [N, 28, 28]
            if self.task == "fashion_pixels":
                images = images.reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4))
            parts.append(self._of_images(images, split.labels))
        return SeriesSet(*parts, found.classes)

    def _digits(self) -> SeriesSet:
        """The published 8 x 8 pixels, of which `data.digits` has the same split."""
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        levels, labels = load_digits(return_X_y=True)
        images = (levels / 16).astype(np.float32).reshape(-1, 8, 8)
        labels = labels.astype(np.int32)
        train, test = train_test_split(
            np.arange(len(labels)), test_size=500, stratify=labels, random_state=0
        )
        parts = [self._of_images(images[rows], labels[rows]) for rows in (train, test)]
        return SeriesSet(*parts, tuple("0123456789"))

    def _of_images(self, images: np.ndarray, labels: np.ndarray) -> Labeled:
        """Images [N, H, W] as rows, or as single pixels."""
        if self.task.endswith("_pixels"):
            images = images.reshape(len(images), -1, 1)
            if self.permuted:
                images = images[:, np.random.default_rng(0).permutation(images.shape[1])]
        lengths = np.full(len(images), images.shape[1], np.int32)
        return Labeled(np.ascontiguousarray(images), labels, lengths)


class _Read(NamedTuple):
    """What a user's file holds."""

    values: np.ndarray  # float32 [N, T, F], or [T, F] to forecast
    labels: np.ndarray | None  # [N], of any type


def _read_csv(path: Path) -> _Read:
    """A table with names above.

    With a column `label` each row is a series of one feature, its other columns the steps; without,
    each row is a step and each column a feature.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as a table: {error}.") from error
    require(len(rows) >= 2, f"{path} has no rows below the names of its columns.")
    names = [name.strip() for name in rows[0]]
    label = names.index("label") if "label" in names else None
    values = np.empty((len(rows) - 1, len(names) - (label is not None)), np.float32)
    labels = []
    for number, row in enumerate(rows[1:], 2):
        require(
            len(row) == len(names),
            f"{path}, line {number}: {len(row)} cells for {len(names)} columns.",
        )
        cells = iter(range(values.shape[1]))
        for column, (name, cell) in enumerate(zip(names, row, strict=True)):
            if column == label:
                labels.append(cell.strip())
                continue
            values[number - 2, next(cells)] = _number(cell, f'{path}, line {number}, "{name}"')
    if label is None:
        return _Read(values, None)
    return _Read(values[:, :, None], np.array(labels))


def _number(cell: str, where: str) -> float:
    """A cell as a number."""
    require(
        cell.strip() != "",
        f"{where} is empty: series have no gaps. Fill it in, or leave out its rows.",
    )
    try:
        value = float(cell)
    except ValueError as error:
        raise UserError(
            f'{where} holds "{cell[:40]}", no number. Leave out columns that hold none.'
        ) from error
    require(np.isfinite(value), f"{where} holds {cell}: series have no gaps. Fill it in.")
    return value


def _read_npz(path: Path) -> _Read:
    """Arrays: `series` [T] or [T, F] to forecast; or [N, T] or [N, T, F], with `labels` [N]."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is no .npz file of arrays: {error}.") from error
    require(
        "series" in arrays,
        f"{path} holds {', '.join(arrays) or 'nothing'}; expected series, and perhaps labels.",
    )
    series = arrays["series"]
    labels = arrays.get("labels")
    require(
        series.dtype.kind in "fiu" and series.ndim in ((2, 3) if labels is not None else (1, 2)),
        f"{path}: series are {series.dtype} of shape {series.shape}; expected numbers [T] or "
        "[T, F] to forecast, or [N, T] or [N, T, F] with labels [N].",
    )
    require(
        labels is None or labels.shape == series.shape[:1],
        f"{path}: labels are of shape {None if labels is None else labels.shape}; expected "
        f"[{series.shape[0]}], one for each series.",
    )
    require(
        bool(np.isfinite(series).all()),
        f"{path}: series hold gaps (NaN or infinite numbers). Fill them in.",
    )
    flat = series.ndim == (2 if labels is not None else 1)
    return _Read((series[..., None] if flat else series).astype(np.float32), labels)


def _classified(read: _Read, task: str) -> SeriesSet:
    """A fifth of the series of each class to test on, random but always the same; standardized."""
    from sklearn.model_selection import train_test_split

    classes, labels, counts = np.unique(read.labels, return_inverse=True, return_counts=True)
    require(len(classes) >= 2, f"--task={task} has {len(classes)} class; expected at least 2.")
    rare = classes[np.argmin(counts)]
    require(
        counts.min() >= 5,
        f"--task={task} has {counts.min()} series of class {rare}; expected at least 5 of each.",
    )
    train, test = train_test_split(
        np.arange(len(labels)), test_size=_TEST_SHARE, stratify=labels, random_state=0
    )
    values = _standardized(read.values, read.values[train])
    lengths = np.full(len(labels), values.shape[1], np.int32)
    labels = labels.astype(np.int32)
    parts = [Labeled(values[rows], labels[rows], lengths[rows]) for rows in (train, test)]
    return SeriesSet(*parts, tuple(str(name) for name in classes))


def forecasts(values: np.ndarray, length: int, horizon: int, task: str) -> SeriesSet:
    """Series of `length` steps, each step with what comes `horizon` steps later.

    The last fifth of the time is to test on: answers there are no inputs of training.

    Args:
      values: [T, F].
      length: steps of a series.
      horizon: steps ahead.
      task: for messages.
    """
    border = round((1 - _TEST_SHARE) * len(values))
    tested = len(values) - border
    require(
        tested >= length + horizon,
        f"--task={task} has {len(values)} steps, of which the last {tested} are to test on; a "
        f"series takes {length} and {horizon} more. Give a smaller --length.",
    )
    values = _standardized(values, values[:border])

    def windows(part: np.ndarray, every: int) -> Labeled:
        both = np.lib.stride_tricks.sliding_window_view(part, length + horizon, axis=0)
        both = np.moveaxis(both[::every], 2, 1)  # [N, length + horizon, F]
        inputs = both[:, :length]
        return Labeled(inputs, both[:, horizon:], np.full(len(both), length, np.int32))

    return SeriesSet(windows(values[:border], 1), windows(values[border:], length), ())


def _standardized(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Each feature with mean 0 and deviation 1 over the series to train on."""
    axes = tuple(range(known.ndim - 1))
    mean = known.mean(axis=axes, keepdims=True)
    deviation = known.std(axis=axes, keepdims=True)
    return ((values - mean) / np.where(deviation > 0, deviation, 1)).astype(np.float32)
