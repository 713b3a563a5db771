"""Episodes as a GIF or a video."""

import textwrap
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from missing_bits.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

FRAMES = 150  # of an episode, at most
_SECONDS = 0.04  # that a frame is seen
_HELD = 1.5  # seconds that an episode's last frame is seen
_WIDTH = 300  # pixels
_HEIGHT = 600  # pixels, at most


def gif(frames: Iterable[tuple[Any, float]], path: Path) -> None:
    """Writes an episode as a GIF with its return so far in the corner.

    Nothing is written where there are no frames.

    Args:
      frames: one before the first step and one after each: a picture, RGB [height, width, 3] or
        gray [height, width], uint8; and the sum of rewards so far.
      path: the file to write.

    Raises:
      UserError: a picture is none.
    """
    kept = thinned(frames)
    if kept:
        save([kept], path)


def save(episodes: Sequence[Sequence["Image"]], path: Path) -> None:
    """Writes episodes one after another, as `thinned` gives them.

    Args:
      episodes: at least one, each with at least one frame, all of one size.
      path: the file, whose ending says its kind: .gif or .mp4.

    Raises:
      UserError: nothing that writes videos is installed.
      OSError: the file cannot be written.
    """
    frames = [frame for episode in episodes for frame in episode]
    if path.suffix == ".mp4":
        held = round(_HELD / _SECONDS)
        _video([frame for episode in episodes for frame in (*episode, *episode[-1:] * held)], path)
        return
    milliseconds = [
        round(1000 * seconds)
        for episode in episodes
        for seconds in (*[_SECONDS] * (len(episode) - 1), _HELD)
    ]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=milliseconds, loop=0)


def check_video() -> Any:
    """The package that writes videos.

    Raises:
      UserError: it is not installed.
    """
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise UserError(
            "--out: a video needs imageio-ffmpeg, which is not installed. Install it: pip install "
            "-e '.[video]'; or name a file that ends in .gif."
        ) from error
    return imageio_ffmpeg


def _video(frames: Sequence["Image"], path: Path) -> None:
    """Writes frames as an mp4 of one rate."""
    width, height = frames[0].size
    size = width + width % 2, height + height % 2  # colors are those of squares of four pixels
    writer = check_video().write_frames(str(path), size, fps=1 / _SECONDS, macro_block_size=2)
    with warnings.catch_warnings():
        # JAX fears for processes that go on after a fork; this one becomes ffmpeg.
        warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)
        writer.send(None)
        for frame in frames:
            writer.send(frame.convert("RGB").crop((0, 0, *size)).tobytes())
        writer.close()


def thinned(frames: Iterable[tuple[Any, float]], most: int = FRAMES) -> list["Image"]:
    """The frames of an episode as small pictures, however long it is.

    Of a longer episode every second, every fourth and so on is kept, with the first and the last.

    Args:
      frames: as of `gif`.
      most: pictures that are kept, at least 2.
    """
    kept: list[tuple[Image, str]] = []
    stride = 1
    last = None
    for step, (picture, total) in enumerate(frames):
        text = f"step {step}   return {total:g}"
        last = step, picture, text
        if step % stride == 0 and len(kept) == most:
            kept = kept[::2]
            stride *= 2
        if step % stride == 0:
            kept.append((_small(picture), text))
    if last is not None and last[0] % stride != 0:
        del kept[most - 1 :]
        _, picture, text = last
        kept.append((_small(picture), text))
    return [_labeled(*frame) for frame in kept]


def _small(picture: Any) -> "Image":
    """A frame, made small."""
    from PIL import Image

    frame = Image.fromarray(_pixels(picture)).convert("RGB")
    scale = min(_WIDTH / frame.width, _HEIGHT / frame.height)
    size = max(1, round(frame.width * scale)), max(1, round(frame.height * scale))
    return frame.resize(size, Image.Resampling.BOX)


def _labeled(frame: "Image", text: str) -> "Image":
    """A frame with a text in its corner, in 64 colors."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(size=16)
    draw = ImageDraw.Draw(frame)
    draw.text((6, 4), text, font=font, fill="white", stroke_width=2, stroke_fill="black")
    return frame.quantize(64, method=Image.Quantize.FASTOCTREE)  # a quarter of the default's time


def _pixels(picture: Any) -> np.ndarray:
    """A picture as [height, width] or [height, width, 3 or 4] uint8."""
    is_array = isinstance(picture, np.ndarray)
    if is_array and picture.ndim == 3 and picture.shape[-1] == 1:
        picture = picture[..., 0]
    is_gray = is_array and picture.ndim == 2
    is_rgb = is_array and picture.ndim == 3 and picture.shape[-1] in (3, 4)
    if not ((is_gray or is_rgb) and picture.size > 0 and picture.dtype == np.uint8):
        what = textwrap.shorten(repr(picture), 80)
        if is_array:
            what = f"an array of shape {picture.shape} and dtype {picture.dtype}"
        raise UserError(
            f"render() returned {what}; a picture is RGB [height, width, 3] or gray "
            "[height, width], of uint8"
        )
    return np.ascontiguousarray(picture)
