"""Images that a generator makes of latents which are drawn from its prior, in a picture or a file.

python run.py sample --from=RUN
python run.py sample --from=RUN --num=10000 --out=samples.npz
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import tyro

from missing_bits import handover, memory
from missing_bits.commands import command_line
from missing_bits.errors import UserError, remedy, require, require_between
from missing_bits.notes import say

if TYPE_CHECKING:  # what is imported late, so that --help is quick
    from missing_bits.generative.generators import Loaded, Sampled

_COLUMNS = 10  # images in a row of an interpolation
_MOST_DRAWN = 2_000  # images in a picture


@dataclass(frozen=True)
class Config:
    """Generates images from latents that are drawn from a standard normal."""

    run: Annotated[str, tyro.conf.arg(name="from")]
    """Folder of a finished run of --exp=vae or gan, or one of its generator/seed*.safetensors."""
    num: int = 64
    """How many images; with --interpolate, between how many pairs of them to draw."""
    out: str = "samples.png"
    """File to write: a .png, or an .npz with `images`, uint8 [num, H, W, C], and perhaps
    `labels`; of points, `points`, float32 [num, D]."""
    interpolate: bool = False
    """In each row go from one image to another in ten steps, on the great circle between their
    latents (White 2016)."""
    probabilities: bool = False
    """Of a model of black and white, how probable white is, and no draw; interpolations always show
    that."""
    label: Annotated[str, tyro.conf.arg(name="class")] = ""
    """The only class to generate, by its name or number; empty for all in turn."""
    seed: int = 0
    """Of the draws: the same one gives the same images."""

    def check(self, prefix: str) -> None:
        """Raises `UserError` for settings with which nothing can be drawn."""
        require_between(self, 1, 10_000_000, "num", prefix=prefix)
        require_between(self, 0, float("inf"), "seed", prefix=prefix)
        require(
            Path(self.out).suffix.lower() in (".png", ".npz"),
            f"--{prefix}out={self.out} must end in .png for a picture, or in .npz for numbers.",
        )


def are_meant(arguments: Sequence[str]) -> bool:
    """Whether a command names a run that has left a generator, or a file that holds one."""
    named, _ = command_line.take(arguments, "--from")
    if named is None:
        return False
    path = Path(named)
    if path.suffix == ".safetensors":
        return handover.kind(path) == "generator"
    return (path / "generator").is_dir()


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns the exit status."""
    config = command_line.of_command("sample", Config, arguments)
    from missing_bits.generative import generators

    loaded = generators.load(config.run)
    made = sample(loaded, config)
    path = Path(config.out)
    try:
        write(path, made, config)
    except OSError as error:
        reason = f"{error.strerror or error}. {remedy(error)}"
        raise UserError(f"--out={config.out} cannot be written: {reason}") from error
    what = "points" if loaded.generator.image_shape[:2] == (1, 1) else "images"
    say(f"{len(made.images):,} {what}: {path}")
    return 0


def sample(loaded: "Loaded", config: Config) -> "Sampled":
    """What a generator makes for a command.

    Raises:
      UserError: the class is none of its own, or there are too many images for a picture.
    """
    import jax

    from missing_bits.generative import generators

    generator = loaded.generator
    chosen = _class(loaded, config.label)
    count = config.num * _COLUMNS if config.interpolate else config.num
    is_picture = Path(config.out).suffix.lower() == ".png"
    require(
        not is_picture or count <= _MOST_DRAWN,
        f"--num is {config.num}, which makes {count:,} images; a picture takes {_MOST_DRAWN:,}. "
        "Name an .npz file by --out.",
    )
    height, width, channels = generator.image_shape
    require(
        not is_picture or (height, width) != (1, 1),
        f"{config.run} generates points of {channels} numbers, no images: name an .npz file by "
        "--out.",
    )
    require(
        not is_picture or channels in (1, 3),
        f"{config.run} generates images of {channels} channels; a picture has 1 or 3: name an .npz "
        "file by --out.",
    )
    ends = (config.num, 2 if config.interpolate else 1, generator.latent)
    z = np.asarray(jax.random.normal(jax.random.key(config.seed), ends))
    of_bits = generator.head == "sigmoid"
    require(
        of_bits or not config.probabilities,
        f"--probabilities is for models of black and white; {config.run} is none. Leave it out.",
    )
    # As numbers, once in parts and once in all.
    memory.check(8 * count * math.prod(generator.image_shape), f"--num={config.num}")
    labels = None
    if generator.classes:
        every = np.arange(config.num) % generator.classes
        labels = every if chosen is None else np.full(config.num, chosen)
    if not config.interpolate:
        made = loaded.decode(z[:, 0], labels)
        if not of_bits or config.probabilities:
            return made
        drawn = np.random.default_rng((config.seed, *b"pixels")).random(
            made.images.shape, np.float32
        )
        return made._replace(images=(drawn < made.images).astype(np.float32))
    between = generators.interpolated(z[:, 0], z[:, 1], _COLUMNS)  # [num, _COLUMNS, Z]
    labels = None if labels is None else labels.repeat(_COLUMNS)
    return loaded.decode(between.reshape(-1, generator.latent), labels)


def write(path: Path, made: "Sampled", config: Config) -> None:
    """Writes what was made as a picture or as arrays, by the ending of the file.

    A file of the name stays as it is until the new one is whole.
    """
    images = made.images
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        if path.suffix.lower() == ".png":
            from missing_bits.pictures import images as pictures

            columns = _COLUMNS if config.interpolate else max(8, math.isqrt(len(images)))
            what = "Interpolations" if config.interpolate else "Samples"
            pictures.grid(images, columns, what, part)
        else:
            arrays = {} if made.labels is None else {"labels": made.labels}
            if images.shape[1:3] == (1, 1):
                arrays["points"] = images[:, 0, 0]
            else:
                arrays["images"] = np.rint(np.clip(images, 0, 1) * 255).astype(np.uint8)
            with part.open("wb") as file:
                np.savez(file, **arrays)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _class(loaded: "Loaded", label: str) -> int | None:
    """The number of the class that is asked for; None for all."""
    if not label:
        return None
    count = loaded.generator.classes
    require(
        count > 0,
        f"--class={label}: this generator knows no classes; train one with --conditional.",
    )
    names = loaded.card.get("classes", [])
    if label in names:
        return names.index(label)
    if names == [str(number) for number in range(count)]:
        names = []
    fits = label.isdecimal() and len(label) < 10 and int(label) < count
    known = f"{', '.join(name[:40] for name in names[:20])}, or " if names else ""
    require(fits, f"--class={label[:40]} is unknown; it is {known}a number from 0 to {count - 1}.")
    return int(label)
