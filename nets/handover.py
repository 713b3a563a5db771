"""Encoders as they are handed over: what a run has learned, in a file that says what it is.

An encoder of either kind, of images or of text, maps its inputs and `Variables` to one feature vector each.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from missing_bits.augment import color
from missing_bits.errors import UserError, require
from missing_bits.nets import text, vision


class Variables(NamedTuple):
    """What an encoder needs besides its inputs."""

    params: Any
    state: Any  # moving averages of batch normalisation


def encoder_of(learned: tuple[Mapping[str, Any], Mapping[str, Any]]) -> Variables:
    """The encoder's part of a method's parameters and statistics, each under its name "encoder"."""
    return Variables(*(part["encoder"] for part in learned))


@dataclass(frozen=True)
class ImageEncoder:
    """An encoder of images with its normalisation: all that its file must say besides its variables."""

    network: str
    """A name that `vision.make` knows."""
    image_shape: tuple[int, int, int]
    """Height, width, channels."""
    mean: tuple[float, ...]
    """Per channel, of pixels in [0, 1]."""
    std: tuple[float, ...]
    """Per channel, of pixels in [0, 1]."""
    bfloat16: bool = False
    """Compute in bfloat16."""
    patch: int = 0
    """Side of a vision transformer's patches, in pixels; 0 for what suits the images."""

    def __post_init__(self) -> None:
        vision.check(self.network, self.image_shape, self.patch)

    @property
    def num_features(self) -> int:
        """D, the width of a feature."""
        variables = jax.eval_shape(self.init, jax.random.key(0))
        return jax.eval_shape(self.apply, variables, jnp.zeros((2, *self.image_shape)))[0].shape[1]

    def init(self, key: jax.Array) -> Variables:
        """Fresh variables."""
        images = jnp.zeros((2, *self.image_shape), jnp.float32)
        return Variables(
            *vision.make(self.network, self.bfloat16, self.patch).init(key, images, True)
        )

    def apply(
        self, variables: Variables, images: jax.Array, is_training: bool = False
    ) -> tuple[jax.Array, Any]:
        """Features of images.

        Args:
          variables: of this encoder.
          images: [B, H, W, C], uint8, or float in [0, 1].
          is_training: whether batch normalisation uses and gathers the batch's statistics.

        Returns:
          Features [B, D], float32, and the new state.
        """
        network = vision.make(self.network, self.bfloat16, self.patch)
        return network.apply(
            variables.params, variables.state, None, self.normalised(images), is_training
        )

    def tokens(self, variables: Variables, images: jax.Array, **masking: jax.Array) -> jax.Array:
        """Tokens of a vision transformer, float32: the class token [B, 1, D], then the patches'.

        Args:
          variables: of this encoder.
          images: as for `apply`.
          masking: `kept`, or `mask` and `mask_token`, as `vision.VisionTransformer.tokens` takes them.
        """
        inputs = (
            self.normalised(images),
            *(masking.get(name) for name in ("kept", "mask", "mask_token")),
        )
        return vision.tokens_of(self.network, self.bfloat16, self.patch)(variables.params, *inputs)

    def normalised(self, images: jax.Array) -> jax.Array:
        """Images as the network gets them: float32 [B, H, W, C], each channel of mean 0 and deviation 1."""
        if images.dtype == jnp.uint8:
            images = images.astype(jnp.float32) / 255
        return color.normalise(images, self.mean, self.std)


@dataclass(frozen=True)
class TextEncoder:
    """An encoder of text with its tokeniser: all that its file must say besides its variables."""

    network: str
    """A name that `text.make` knows."""
    vocabulary: int
    """Number of different tokens."""
    length: int
    """The longest row it is trained on, in tokens."""
    tokenizer: str
    """The JSON that Hugging Face's `tokenizers` reads."""
    dropout: float = 0.0
    """Share that `tokens` drops where it is given keys."""
    bfloat16: bool = False
    """Compute in bfloat16."""

    @property
    def num_features(self) -> int:
        """D, the width of a feature."""
        return self.table(jax.eval_shape(self.init, jax.random.key(0)).params).shape[1]

    def table(self, params: Any) -> jax.Array:
        """The embeddings [V, D] of tokens in this encoder's parameters."""
        return params["text_transformer/embed"]["embeddings"]

    def init(self, key: jax.Array) -> Variables:
        """Fresh variables."""
        row = jnp.zeros((1, self.length), jnp.int32)
        return Variables(self._network.init(key, row, row, None), {})

    def apply(
        self, variables: Variables, tokens: jax.Array, is_training: bool = False
    ) -> tuple[jax.Array, Any]:
        """Features of texts: means over their tokens.

        Args:
          variables: of this encoder.
          tokens: int [B, L], padded at the end with `text.PADDING`.
          is_training: makes no difference.

        Returns:
          Features [B, D], float32, and the state as it was.
        """
        real = (tokens != text.PADDING).astype(jnp.int32)
        each = self.tokens(variables, tokens, real)  # [B, L, D]
        count = jnp.maximum(jnp.sum(real, axis=1, keepdims=True), 1)
        return jnp.sum(each * real[:, :, None], axis=1) / count, variables.state

    def tokens(
        self,
        variables: Variables,
        tokens: jax.Array,
        segments: jax.Array,
        keys: jax.Array | None = None,
    ) -> jax.Array:
        """Encoded tokens [B, L, D], float32, of packed rows; the arguments are those of `text.TextTransformer`."""
        return self._network.apply(variables.params, None, tokens, segments, keys)

    @property
    def _network(self) -> Any:
        return text.make(self.network, self.vocabulary, self.dropout, self.bfloat16)


Encoder = ImageEncoder | TextEncoder
_KINDS: dict[str, type[Encoder]] = {"images": ImageEncoder, "text": TextEncoder}


def kind_of(encoder: Encoder) -> str:
    """What an encoder encodes: "images" or "text"."""
    return next(
        kind for kind, encoder_class in _KINDS.items() if isinstance(encoder, encoder_class)
    )


def save(
    path: Path, encoder: Encoder, variables: Variables, facts: Mapping[str, Any], head: Any = None
) -> None:
    """Writes variables as safetensors, with a card: what is in it, in its header and beside it as JSON.

    Args:
      path: the .safetensors file; its folder is made.
      encoder: what the variables belong to.
      variables: as arrays on the host.
      facts: what else is known: the configuration, the hash of the data, the scores.
      head: Haiku parameters to keep beside the encoder, such as those that guess masked words.
    """
    tensors = {}
    for kind, tree in {**variables._asdict(), "head": head or {}}.items():
        for module, leaves in tree.items():
            tensors |= {
                f"{kind}:{module}:{name}": np.asarray(leaf) for name, leaf in leaves.items()
            }
    card = {"kind": kind_of(encoder), "encoder": dataclasses.asdict(encoder), **facts}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(safetensors.numpy.save(tensors, metadata={"card": json.dumps(card)}))
    path.with_suffix(".json").write_text(json.dumps(card, indent=2) + "\n")


class Loaded(NamedTuple):
    """An encoder from a run."""

    encoder: Encoder
    variables: Variables
    head: dict[str, Any]
    """Parameters of the head that was saved with it; empty without one."""
    card: dict[str, Any]

    def __call__(self, inputs: Any) -> jax.Array:
        """Features [B, D] of images [B, H, W, C], uint8 or float in [0, 1], or of padded tokens int [B, L]."""
        return self.encoder.apply(self.variables, jnp.asarray(inputs))[0]


def load(run: str | Path, seed: int | None = None) -> Loaded:
    """The encoder that a run has left behind.

    Args:
      run: the run's folder, or a .safetensors file out of it.
      seed: which seed's; by default the first.

    Raises:
      UserError: there is none, or the file is damaged.
    """
    path = Path(run)
    if path.suffix != ".safetensors":
        require(
            path.is_dir(),
            f"{path} is no folder of a run. Name one that a finished run has left, under runs/.",
        )
        found = sorted(
            (path / "encoder").glob("seed*.safetensors"),
            key=lambda p: int(p.stem.removeprefix("seed")),
        )
        require(
            bool(found),
            f"{path} holds no encoder: it is of another kind, or its run has not finished. Finish it with "
            "--run.resume, or name the folder of a finished pretraining.",
        )
        path = found[0] if seed is None else path / "encoder" / f"seed{seed}.safetensors"
        require(
            path in found,
            f"{run} has no encoder of seed {seed}; it has {', '.join(p.stem for p in found)}.",
        )
    trees: dict[str, dict[str, dict[str, np.ndarray]]] = {"params": {}, "state": {}, "head": {}}
    try:
        with safe_open(path, "numpy") as file:
            card = json.loads(file.metadata()["card"])
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                kind, module, leaf = name.split(":")
                trees[kind].setdefault(module, {})[leaf] = file.get_tensor(name)
        fields = {
            name: tuple(v) if isinstance(v, list) else v for name, v in card["encoder"].items()
        }
        encoder = _KINDS[card["kind"]](**fields)
    except FileNotFoundError as error:
        raise UserError(f"There is no file {path}. Name the folder of a finished run.") from error
    except (SafetensorError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged or was not written by this suite: {error}.") from error
    return Loaded(encoder, Variables(trees["params"], trees["state"]), trees["head"], card)


def load_for(encoder: ImageEncoder, run: str) -> Variables:
    """The variables that a run has left, for an encoder of the same kind.

    Raises:
      UserError: the run's network or its images are of another kind.
    """
    loaded = load(run)
    require(
        isinstance(loaded.encoder, ImageEncoder),
        f"--init-from={run} holds an encoder of {kind_of(loaded.encoder)}; this run needs one of images.",
    )
    for what in ("network", "image_shape", "patch"):
        have, want = getattr(loaded.encoder, what), getattr(encoder, what)
        require(
            have == want,
            f"--init-from={run} holds an encoder whose {what} is {have}; this run needs {want}.",
        )
    return loaded.variables
