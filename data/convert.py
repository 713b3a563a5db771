"""Arrays as users have them, made images of bytes and labels: what can only mean one thing.

What could mean several is refused, with the line of code that converts it. Notes say what was done.
Shapes: N images, H, W, C of an image.
"""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from missing_bits.errors import UserError, require

_CHUNK = 1_000  # images that are converted at once
_SLACK = 1e-3  # by which floats may leave [0, 1], as resizing makes them


def images(path: Path, given: Mapping[str, np.ndarray], notes: list[str]) -> dict[str, np.ndarray]:
    """Images as uint8 [N, H, W, C], with C 1 or 3.

    Args:
      path: their file, for messages.
      given: arrays by their names, for training and for testing, which are scaled alike.
      notes: gets a line for each conversion.

    Raises:
      UserError: what the numbers or axes mean is not clear.
    """
    shaped = {name: _channels_last(path, name, array, notes) for name, array in given.items()}
    floats = {name: array for name, array in shaped.items() if array.dtype.kind == "f"}
    for name, array in floats.items():
        finite = math.isfinite(array.min()) and math.isfinite(array.max())
        require(
            finite,
            f"{path}: {name} hold NaN or infinity; expected numbers from 0 to 255: mend them, for "
            f"example with {name} = np.nan_to_num({name}).",
        )
    highest = max((float(array.max()) for array in floats.values()), default=0.0)
    return {name: _bytes(path, name, array, highest, notes) for name, array in shaped.items()}


def labels(path: Path, name: str, given: np.ndarray, count: int, notes: list[str]) -> np.ndarray:
    """Labels as int64, bool or text, [N].

    Args:
      path: their file, for messages.
      name: theirs.
      given: numbers or text [N], [N, 1], or one-hot [N, K].
      count: N.
      notes: gets a line for each conversion.

    Raises:
      UserError: they are none, or not so many.
    """
    array = given
    kind = f"{name} are {given.dtype} of shape {given.shape}"
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
        notes.append(f"{name} from a column")
    elif array.ndim == 2 and array.dtype.kind in "biuf" and _is_one_hot(array):
        array = array.argmax(axis=1)
        notes.append(f"{name} from one-hot")
    require(
        array.ndim == 1,
        f"{path}: {kind}; expected one for each image [N]: "
        f"{name} = {name}.argmax(axis=1) makes them of scores, {name}.reshape(-1) of other axes.",
    )
    require(
        len(array) == count,
        f"{path}: {len(array)} {name} for {count} images; give one for each.",
    )
    if array.dtype.kind == "f":
        whole = np.isfinite(array).all() and (array == np.rint(array)).all()
        require(
            bool(whole),
            f"{path}: {kind}, not whole numbers; expected classes: "
            f"{name} = np.digitize({name}, np.quantile({name}, [0.25, 0.5, 0.75])) makes four.",
        )
        notes.append(f"{name} from {array.dtype}")
    if array.dtype.kind in "iuf":
        require(
            bool((np.abs(array.astype(np.float64)) < 2.0**53).all()),
            f"{path}: {name} reach {array.max()}; give numbers of classes below 2**53.",
        )
        return array.astype(np.int64)
    if array.dtype.kind == "S":
        array = np.char.decode(array, "utf-8", "replace")
    if array.dtype.kind == "U":
        require(
            _is_text(array),
            f"{path}: {name} hold numbers that are no letters; write them anew as text.",
        )
    return array


def _is_text(array: np.ndarray) -> bool:
    """Whether all that an array [N] calls letters are some: a file may hold any numbers there."""
    native = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("=")))
    letters = native.view(np.uint32)
    halves = (letters >= 0xD800) & (letters < 0xE000)  # of letters in UTF-16
    return bool((letters <= 0x10FFFF).all() and not halves.any())


def _is_one_hot(array: np.ndarray) -> bool:
    return bool(np.isin(array, (0, 1)).all() and (array.sum(axis=1) == 1).all())


def _channels_last(path: Path, name: str, array: np.ndarray, notes: list[str]) -> np.ndarray:
    """Images as [N, H, W, C], with C 1 or 3, of any numbers."""
    shape = array.shape
    expected = "expected [N, H, W, C] with C 1 or 3, or [N, H, W]"
    require(
        array.dtype.kind in "biuf", f"{path}: {name} are {array.dtype}; expected uint8, 0 to 255."
    )
    require(array.size > 0, f"{path}: {name} have shape {shape}: there is no image in it.")
    if array.ndim == 3:
        return array[..., None]
    require(
        array.ndim != 2,
        f"{path}: {name} have shape {shape}; {expected}{_unflattened(name, shape)}.",
    )
    require(array.ndim == 4, f"{path}: {name} have shape {shape}; {expected}.")
    if shape[3] not in (1, 3) and (shape[1] in (1, 3) or (shape[1] == 4 and shape[3] > 4)):
        array = array.transpose(0, 2, 3, 1)
        notes.append(f"{name} from channels first")
    if array.shape[3] == 4:
        array = array[..., :3]
        notes.append(f"{name} without their fourth channel, transparency")
    require(
        array.shape[3] in (1, 3),
        f"{path}: {name} have shape {shape}; {expected}: {name} = {name}[..., :1] takes the first "
        "channel.",
    )
    return array


def _unflattened(name: str, shape: tuple[int, ...]) -> str:
    """How flat images of so many numbers could be given their axes."""
    for channels in (1, 3):
        side = math.isqrt(shape[1] // channels)
        if side * side * channels == shape[1]:
            last = f"{name}.reshape(-1, {side}, {side}, {channels})"
            first = f", or {name}.reshape(-1, 3, {side}, {side}) if colors come first"
            return f": {name} = {last}{first if channels == 3 else ''}"
    return f": {name} = {name}.reshape(-1, height, width, channels)"


def _bytes(
    path: Path, name: str, array: np.ndarray, highest: float, notes: list[str]
) -> np.ndarray:
    """Images as uint8; `highest` is the largest of all floats of a file."""
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if array.dtype.kind == "b":
        notes.append(f"{name} from booleans")
        return _scaled(array, 255)
    low = float(array.min())
    high = float(array.max())
    if array.dtype.kind != "f":
        highest = 255.0
    if low >= -_SLACK and highest <= 1 + _SLACK:
        notes.append(f"{name} from {array.dtype} in 0 to 1")
        return _scaled(array, 255)
    # Less than half of 255 may well be white on another scale.
    if low > -0.5 and highest >= 128 and high < 255.5:
        notes.append(f"{name} from {array.dtype} in 0 to 255")
        return _scaled(array, 1)
    if -1 <= low < 0 and high <= 1:
        code = f"(({name} + 1) * 127.5).round().astype('uint8'), if -1 is black"
    elif array.dtype == np.uint16:
        code = f"({name} // 257).astype('uint8'), if 65535 is white"
    else:
        code = (
            f"(({name} - {low:g}) * (255 / {high - low:g})).round().astype('uint8'), if {low:g} is "
            f"black and {high:g} white"
        )
    raise UserError(
        f"{path}: {name} are {array.dtype} from {low:g} to {high:g}; expected uint8, or numbers "
        f"from 0 to 1 or 0 to 255: {name} = {code}."
    )


def _scaled(array: np.ndarray, factor: int) -> np.ndarray:
    """Numbers times a factor, rounded to bytes, some images at once."""
    found = np.empty(array.shape, np.uint8)
    for start in range(0, len(array), _CHUNK):
        some = array[start : start + _CHUNK].astype(np.float32) * factor
        found[start : start + _CHUNK] = np.clip(np.rint(some), 0, 255)
    return found
