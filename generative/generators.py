"""Generators as they are handed over: networks from a latent vector to an image, in a file.

    generator = generators.load("runs/vae/...")  # the folder of a finished run
    images = generator(z)  # [B, Z] to [B, H, W, C] in [0, 1]
    images = generator.sample(jax.random.key(0), 64)  # from latents of its prior

The file is laid out as those of encoders (handover.py): a card, and the network's variables.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from missing_bits import handover
from missing_bits.encoders.variables import Variables
from missing_bits.errors import require
from missing_bits.nets.generator import Generator, Network, Norm

KIND = "generator"
Head = Literal["sigmoid", "tanh", "linear", "shared_scale", "scales"]
LARGEST = {"latent": 1 << 16, "width": 1 << 12, "classes": 1 << 16, "hidden": 16}
LARGEST_SCALE = 1e3  # of latents
_MOST_NUMBERS = 1 << 24  # of an image
_AT_ONCE = 500  # images


@dataclass(frozen=True)
class ImageGenerator:
    """A network from a latent vector, which is drawn from a standard normal, to an image.

    These fields are all that its file must say besides its variables.
    """

    image_shape: tuple[int, int, int]
    """Height, width, channels. A vector of D numbers is an image (1, 1, D)."""
    latent: int
    """Z, numbers in a latent vector."""
    network: Network = "conv"
    """See nets/generator.py."""
    width: int = 32
    """See nets/generator.py."""
    norm: Norm = "none"
    """See nets/generator.py."""
    head: Head = "sigmoid"
    """What the network's numbers mean for each channel: an image's value as it is ("linear"), by a
    "sigmoid" or by (1 + tanh) / 2 ("tanh"); or a mean and the logarithm of a scale, which are both
    of the network ("scales"), or the scale one parameter for all ("shared_scale")."""
    classes: int = 0
    """K, of labels that an image is generated from as well; 0 for none."""
    latent_scale: float = 1.0
    """What latents are multiplied by before the network."""
    hidden: int = 0
    """Hidden layers before the first map of a convolutional network."""

    def __post_init__(self) -> None:
        size = math.prod(self.image_shape)
        require(
            min(self.image_shape) >= 1 and size <= _MOST_NUMBERS,
            f"A generator's image is {self.image_shape}; it must hold 1 to {_MOST_NUMBERS:,} "
            "numbers.",
        )
        for name, most in LARGEST.items():
            least = 0 if name in ("classes", "hidden") else 1
            number = getattr(self, name)
            require(
                least <= number <= most,
                f"A generator's {name} is {number}; it must lie between {least} and {most:,}.",
            )

        require(
            0 < self.latent_scale <= LARGEST_SCALE,
            f"A generator's latent_scale is {self.latent_scale}; it must lie above 0, at most "
            f"{LARGEST_SCALE:g}.",
        )

    @property
    def transformed(self) -> hk.TransformedWithState:
        """The network, of (z, labels, is_training)."""
        height, width, channels = self.image_shape
        numbers = 2 * channels if self.head == "scales" else channels

        def forward(z: jax.Array, labels: jax.Array | None, is_training: bool) -> jax.Array:
            network = Generator(
                (height, width, numbers),
                self.network,
                self.width,
                self.norm,
                self.classes,
                self.hidden,
            )
            x = network(self.latent_scale * z, labels, is_training)
            if self.head != "shared_scale":
                return x
            scale = hk.get_parameter("log_scale", (), init=jnp.zeros)
            return jnp.concatenate([x, jnp.broadcast_to(scale, x.shape)], axis=-1)

        return hk.transform_with_state(forward)

    def init(self, key: jax.Array) -> Variables:
        """Fresh variables."""
        z = jnp.zeros((2, self.latent))
        labels = jnp.zeros(2, jnp.int32)
        params, state = self.transformed.init(key, z, labels, True)
        return Variables(params, state)

    def apply(
        self,
        variables: Variables,
        z: jax.Array,
        labels: jax.Array | None = None,
        is_training: bool = False,
    ) -> tuple[jax.Array, hk.State]:
        """The network's numbers, and the new state of batch normalization.

        Args:
          variables: of this generator.
          z: latents [B, Z].
          labels: int [B], where there are classes.
          is_training: whether batch normalization uses and gathers the batch's statistics.

        Returns:
          [B, H, W, C], with scales [B, H, W, 2 C], and the new state.
        """
        return self.transformed.apply(
            variables.params, variables.state, None, z, labels, is_training
        )

    def images(self, numbers: jax.Array) -> jax.Array:
        """Images [B, H, W, C] of the network's numbers; the means, where these tell scales too.

        They lie in [0, 1] for the heads "sigmoid" and "tanh"; otherwise anywhere.
        """
        if self.head == "sigmoid":
            return jax.nn.sigmoid(numbers)
        if self.head == "tanh":
            return (1 + jnp.tanh(numbers)) / 2
        return numbers[..., : self.image_shape[2]]

    def generate(
        self, variables: Variables, z: jax.Array, labels: jax.Array | None = None
    ) -> jax.Array:
        """Images [B, H, W, C] of latents [B, Z], batch normalization in evaluation mode."""
        numbers, _ = self.apply(variables, z, labels)
        return self.images(numbers)


class Sampled(NamedTuple):
    """What a generator made."""

    images: np.ndarray
    """float32 [n, H, W, C]."""
    labels: np.ndarray | None
    """int32 [n], which they were made from, where there are classes."""


class Loaded(NamedTuple):
    """A generator from a run."""

    generator: ImageGenerator
    variables: Variables
    card: dict[str, Any]

    def __call__(self, z: ArrayLike, labels: ArrayLike | None = None) -> jax.Array:
        """Images [B, H, W, C] of latents.

        Args:
          z: floats [B, Z].
          labels: integers [B] in [0, K), which a generator with classes needs.

        Raises:
          UserError: they are nothing that this generator takes.
        """
        z = np.asarray(z, np.float32)
        generator = self.generator
        require(
            z.ndim == 2 and z.shape[1] == generator.latent,
            f"The latents are of shape {z.shape}; this generator takes (images, "
            f"{generator.latent}).",
        )
        require(bool(np.isfinite(z).all()), "The latents hold NaN or infinite numbers.")
        if generator.classes:
            labels = self._checked(labels, len(z))
        else:
            require(labels is None, "This generator knows no classes; leave the labels out.")
        return _generate(generator, self.variables, z, labels)

    def sample(self, key: jax.Array, count: int, labels: ArrayLike | None = None) -> Sampled:
        """Images of latents that are drawn from the prior, a standard normal.

        Args:
          key: a random key.
          count: n, how many.
          labels: integers [n]; by default all classes in turn, where there are any.
        """
        z = jax.random.normal(key, (count, self.generator.latent))
        return self.decode(z, labels)

    def decode(self, z: ArrayLike, labels: ArrayLike | None = None) -> Sampled:
        """Images of latents [n, Z], few at once; labels as for `sample`."""
        z = np.asarray(z, np.float32)
        if labels is None and self.generator.classes:
            labels = np.arange(len(z)) % self.generator.classes
        found = []
        for start in range(0, len(z), _AT_ONCE):
            some = slice(start, start + _AT_ONCE)
            found.append(np.asarray(self(z[some], None if labels is None else labels[some])))
        return Sampled(
            np.concatenate(found), None if labels is None else np.asarray(labels, np.int32)
        )

    def _checked(self, labels: ArrayLike | None, count: int) -> np.ndarray:
        classes = self.generator.classes
        require(
            labels is not None,
            f"This generator makes images of {classes} classes; say which by labels [{count}].",
        )
        found = np.asarray(labels)
        fits = found.shape == (count,) and np.issubdtype(found.dtype, np.integer)
        require(
            bool(fits) and bool(((found >= 0) & (found < classes)).all()),
            f"The labels must be {count} integers from 0 to {classes - 1}, one for each latent.",
        )
        return found.astype(np.int32)


@functools.partial(jax.jit, static_argnums=0)
def _generate(
    generator: ImageGenerator, variables: Variables, z: jax.Array, labels: jax.Array | None
) -> jax.Array:
    return generator.generate(variables, z, labels)


def interpolated(start: np.ndarray, end: np.ndarray, steps: int) -> np.ndarray:
    """Latents [n, steps, Z] from start [n, Z] to end [n, Z], both among them.

    They go along the great circle, as what lies straight between two draws of a normal is too close
    to the origin to be one itself.
    """
    lengths = np.linalg.norm(start, axis=1) * np.linalg.norm(end, axis=1)
    cosine = np.sum(start * end, axis=1) / np.maximum(lengths, 1e-12)
    angle = np.arccos(np.clip(cosine, -1, 1))[:, None, None]  # [n, 1, 1]
    share = np.linspace(0, 1, steps)[None, :, None]
    sine = np.sin(angle)
    straight = sine < 1e-6
    safe = np.where(straight, 1, sine)
    first = np.where(straight, 1 - share, np.sin((1 - share) * angle) / safe)
    second = np.where(straight, share, np.sin(share * angle) / safe)
    return (first * start[:, None] + second * end[:, None]).astype(np.float32)


def save(
    path: Path, generator: ImageGenerator, variables: Variables, facts: Mapping[str, Any]
) -> None:
    """Writes variables as safetensors, with a card that says what is in it.

    Args:
      path: the .safetensors file; its folder is made.
      generator: what the variables belong to.
      variables: as arrays on the host.
      facts: what else is known: the configuration, the hash of the data, the scores; `classes`, the
        names of classes, where there are any.
    """
    card = {"kind": KIND, KIND: dataclasses.asdict(generator), **facts}
    handover.save(path, variables._asdict(), card)


def load(run: str | Path, seed: int | None = None) -> Loaded:
    """The generator that a run has left behind.

    Args:
      run: the run's folder, or a .safetensors file out of it.
      seed: which seed's; by default the first.

    Raises:
      UserError: there is none, or the file is damaged or foreign. What it claims is checked before
        its tensors are read.
    """
    path = Path(run)
    if path.suffix != ".safetensors":
        path = handover.file_in(path, KIND, seed, "a finished run of --exp=vae or gan")
    read = handover.load(path, _understood)
    return Loaded(read.what, Variables(read.trees["params"], read.trees["state"]), read.card)


def _understood(card: Mapping[str, Any]) -> tuple[ImageGenerator, handover.Trees]:
    """The generator that a card describes, and the shapes of its variables."""
    others = {"exp": str, "config": dict, "classes": list}
    handover.check_entries(card, {"kind": str, KIND: dict}, others)
    handover.expect(card["kind"] == KIND, f"its card tells of {card['kind'][:40]!r}, not of {KIND}")
    generator = handover.make(ImageGenerator, card[KIND], KIND)
    names = card.get("classes", [])
    handover.expect(
        len(names) in (0, generator.classes) and all(isinstance(name, str) for name in names),
        f"its card does not name {generator.classes} classes",
    )
    return generator, jax.eval_shape(generator.init, jax.random.key(0))._asdict()
