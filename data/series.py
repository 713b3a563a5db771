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

from missing_bits.data import files, generated, npy
from missing_bits.data.images import ImageSet
from missing_bits.data.said import number, short, some
from missing_bits.errors import UserError, require

_IMAGES = ("digits_rows", "digits_pixels", "fashion_rows", "fashion_pixels")
_SPEECH = ("speech", "speech_samples")
_FILES = ("csv:", "npz:")
_WINDOW = 64  # steps of a forecast's series, if nothing else is said
_TEST_SHARE = 0.2
_LARGEST = 1e30  # of a user's numbers: squares of larger ones are beyond float32
_CONSTANT = 1e-14  # deviation of a feature as a share of its mean: below it, there is only rounding


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
        require(
            read.values.size > 0, f"--task={self.task}: its series have no steps, or no features."
        )
        require(
            bool((np.abs(read.values) <= _LARGEST).all()),
            f"--task={self.task} holds numbers beyond {_LARGEST:g}; give them in another unit.",
        )
        if read.labels is not None:
            require(
                self.length == 0 and self.horizon == 1,
                f"--length and --horizon are for forecasts; series of {self.task} have labels, and "
                "a length of their own.",
            )
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

    values: np.ndarray  # float64 [N, T, F], or [T, F] to forecast
    labels: np.ndarray | None  # [N], of any type


def _read_csv(path: Path) -> _Read:
    """A table with names above.

    With a column `label` each row is a series of one feature, its other columns the steps; without,
    each row is a step and each column a feature.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            lines = [_Line(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as a table in UTF-8: {error}.") from error
    while lines and not lines[-1].cells:  # empty lines at the end are no gaps
        lines.pop()
    require(len(lines) >= 2, f"{path} has no rows below the names of its columns.")
    names = [name.strip() for name in lines[0].cells]
    other = next((mark for mark in (";", "\t") if len(names) == 1 and mark in names[0]), "")
    require(not other, f"{path} parts its columns by {other!r}; write it with commas (and points).")
    require(
        not _are_data(names),
        f"{path} begins with numbers ({some(names, 3)}); its first line must name the columns.",
    )
    label = names.index("label") if "label" in names else None
    values = np.empty((len(lines) - 1, len(names) - (label is not None)))
    labels = []
    for row, line in enumerate(lines[1:]):
        where = f"{path}, line {line.number}"
        require(
            len(line.cells) == len(names),
            f"{where}: {number(len(line.cells), 'cell')} for {number(len(names), 'column')}.",
        )
        cells = iter(range(values.shape[1]))
        for column, (name, cell) in enumerate(zip(names, line.cells, strict=True)):
            if column == label:
                require(bool(cell.strip()), f"{where}: the label is empty; leave out such rows.")
                labels.append(cell.strip())
                continue
            values[row, next(cells)] = _number(cell, f'{where}, "{short(name)}"')
    if label is None:
        return _Read(values, None)
    return _Read(values[:, :, None], np.array(labels))


class _Line(NamedTuple):
    """A row of a table."""

    number: int  # of its last line in the file, from 1
    cells: list[str]


def _are_data(names: list[str]) -> bool:
    """Whether what should name columns are numbers, but not 0, 1, 2, ... as programs count them."""
    counted = [str(column) for column in range(len(names))]
    return names != counted and all(map(_is_number, names))


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _number(cell: str, where: str) -> float:
    """A cell as a number."""
    require(
        cell.strip() != "",
        f"{where} is empty: series have no gaps. Fill it in, or leave out its rows.",
    )
    try:
        value = float(cell.replace("_", "?"))  # to Python 1_0 is ten
    except ValueError as error:
        raise UserError(
            f'{where} holds "{short(cell, 40)}", no number. Leave out columns that hold none.'
        ) from error
    require(np.isfinite(value), f"{where} holds {cell}: series have no gaps. Fill it in.")
    return value


def _read_npz(path: Path) -> _Read:
    """Arrays: `series` [T] or [T, F] to forecast; or [N, T] or [N, T, F], with `labels` [N].

    What an .npy file holds is `series`.
    """
    names = npy.names(path, "series")
    require(
        "series" in names,
        f"{path} holds {some(names) or 'nothing'}; expected series, and perhaps labels.",
    )
    wanted = [name for name in ("series", "labels") if name in names]
    arrays = npy.read(path, wanted, alone="series")
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
    require(
        labels is None or labels.dtype.kind != "f" or bool(np.isfinite(labels).all()),
        f"{path}: some labels are NaN or infinite; leave out such series.",
    )
    flat = series.ndim == (2 if labels is not None else 1)
    return _Read((series[..., None] if flat else series).astype(np.float64), labels)


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
    """Each feature with mean 0 and deviation 1 over the series to train on.

    In double precision: what are seconds since 1970 to float32 differ by minutes, if at all.
    """
    axes = tuple(range(known.ndim - 1))
    mean = known.mean(axis=axes, keepdims=True, dtype=np.float64)
    deviation = known.std(axis=axes, keepdims=True, dtype=np.float64)
    moves = deviation > _CONSTANT * np.abs(mean)
    return ((values - mean) / np.where(moves, deviation, 1)).astype(np.float32)
