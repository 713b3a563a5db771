"""Spoken digits at 8 kHz (Free Spoken Digit Dataset, Jackson et al. 2018, CC BY-SA 4.0).

3,000 recordings of six speakers. The official split tests on takes 0 to 4 of each speaker and digit
and trains on all others. The file `spoken_digits.npz` holds `samples`, int16, one recording after
the other, and for each its number of samples, `lengths`, its `digit` and its `take`.
"""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from missing_bits.data import files, npy
from missing_bits.errors import require

RATE = 8_000  # samples a second
NAME = "spoken_digits.npz"
_ARRAYS = ("samples", "lengths", "digit", "take")
_TESTED = 4  # takes up to this one are to test on
_SECONDS = 1  # of a recording: longer ones are cut
_FRAME = 256  # samples of a spectrum, 32 ms
_HOP = 80  # samples from one to the next, 10 ms
_BANDS = 40


class Recordings(NamedTuple):
    """Recordings of one purpose, N of them."""

    series: np.ndarray  # float32 [N, T, F], zeros after the end
    lengths: np.ndarray  # int32 [N], steps
    labels: np.ndarray  # int32 [N], the digit


class Spoken(NamedTuple):
    """All recordings."""

    train: Recordings
    test: Recordings


def load(data_dir: str, log_mel: bool) -> Spoken:
    """The recordings, of which the first second counts.

    Args:
      data_dir: the folder that holds the file; empty for the cache.
      log_mel: as 40 logarithms of energies every 10 ms, standardized; else as single samples,
        divided by their deviation over all recordings.

    Raises:
      UserError: there is no such file, or not these arrays in it.
    """
    folder = files.at(data_dir) if data_dir else files.cache("spoken_digits")
    path = folder / NAME
    require(
        os.path.isfile(path),
        f"--data-dir={data_dir} holds no {NAME}: the recordings of the Free Spoken Digit Dataset "
        f"(github.com/Jakobovits/free-spoken-digit-dataset) as arrays {', '.join(_ARRAYS)}. Put it "
        f"there, or into {files.cache('spoken_digits')}.",
    )
    missing = set(_ARRAYS) - set(npy.names(path))
    require(
        not missing,
        f"{path} is not the file of spoken digits: it has no {', '.join(sorted(missing))}; "
        f"expected arrays {', '.join(_ARRAYS)}.",
    )
    samples, lengths, digit, take = npy.read(path, _ARRAYS).values()
    _check(path, samples, lengths, digit, take)
    ends = np.cumsum(lengths)
    longest = _SECONDS * RATE
    kept = np.minimum(lengths, longest).astype(np.int32)
    waves = np.zeros((len(ends), longest), np.float32)
    for wave, end, length, many in zip(waves, ends, lengths, kept, strict=True):
        wave[:many] = samples[end - length : end - length + many] / 2**15
    is_test = take <= _TESTED
    if log_mel:
        series = _log_mel(waves)  # [N, T, 40]
        steps = np.minimum(series.shape[1], 1 + kept // _HOP).astype(np.int32)
    else:
        series = waves[:, :, None]
        steps = kept
    real = np.arange(series.shape[1])[None] < steps[:, None]  # [N, T]
    known = series[~is_test][real[~is_test]]
    scale = known.std(axis=0) + 1e-6
    series = (series - (known.mean(axis=0) if log_mel else 0)) / scale
    series = np.where(real[:, :, None], series, 0).astype(np.float32)
    labels = digit.astype(np.int32)
    parts = (Recordings(series[s], steps[s], labels[s]) for s in (~is_test, is_test))
    return Spoken(*parts)


def _check(
    path: Path, samples: np.ndarray, lengths: np.ndarray, digit: np.ndarray, take: np.ndarray
) -> None:
    """Raises `UserError` for arrays that are no recordings."""
    wrong = f"{path} is not the file of spoken digits: "
    require(
        samples.ndim == 1 and samples.dtype == np.int16,
        f"{wrong}its samples are {samples.dtype} of shape {samples.shape}; expected int16, one "
        "recording after the other.",
    )
    require(
        all(array.dtype.kind in "iu" and array.ndim == 1 for array in (lengths, digit, take))
        and len(lengths) == len(digit) == len(take),
        f"{wrong}expected lengths, digit and take to be as many whole numbers.",
    )
    require(
        bool((lengths > 0).all()) and lengths.sum() == len(samples),
        f"{wrong}its lengths do not add up to its samples.",
    )
    require(
        bool(((digit >= 0) & (digit <= 9)).all()) and 0 < (take <= _TESTED).sum() < len(take),
        f"{wrong}expected digits from 0 to 9, and takes up to {_TESTED} and above.",
    )


def _log_mel(waves: np.ndarray) -> np.ndarray:
    """Logarithms of energies in bands of equal width in mel (O'Shaughnessy 1987), [N, T, 40]."""
    padded = np.pad(waves, ((0, 0), (_FRAME // 2, _FRAME // 2)))
    frames = np.lib.stride_tricks.sliding_window_view(padded, _FRAME, axis=1)[:, ::_HOP]
    window = np.hanning(_FRAME).astype(np.float32)
    bands = _mel_bands()
    found = [
        np.log(np.square(np.abs(np.fft.rfft(some * window))) @ bands + 1e-6)
        for some in frames  # one recording after the other: the spectra of all are large
    ]
    return np.stack(found).astype(np.float32)


def _mel_bands() -> np.ndarray:
    """Triangles over the spectrum, [frequencies, bands]."""

    def mel(hertz: float) -> float:
        return 2595 * np.log10(1 + hertz / 700)

    edges = 700 * (10 ** (np.linspace(mel(60), mel(RATE / 2), _BANDS + 2) / 2595) - 1)
    hertz = np.linspace(0, RATE / 2, _FRAME // 2 + 1)[:, None]
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]
    rising = (hertz - low) / (middle - low)
    falling = (high - hertz) / (high - middle)
    return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)
