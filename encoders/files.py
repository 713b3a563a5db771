"""Encoders as they are handed over: what a run has learned, in a file that says what it is.

An encoder of any kind, of images or of text, maps its inputs and `Variables` to one feature vector
each.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import haiku as hk
import jax
from jax.typing import ArrayLike

from missing_bits import handover
from missing_bits.data.graphs import GraphSet
from missing_bits.data.tokenizer import Tokenizer
from missing_bits.encoders.causal import CausalEncoder
from missing_bits.encoders.graphs import GraphEncoder
from missing_bits.encoders.images import ImageEncoder
from missing_bits.encoders.text import TextEncoder
from missing_bits.encoders.variables import Variables
from missing_bits.errors import UserError, require

AnyEncoder = ImageEncoder | TextEncoder | CausalEncoder | GraphEncoder
_KINDS: dict[str, type[AnyEncoder]] = {
    "images": ImageEncoder,
    "text": TextEncoder,
    "causal text": CausalEncoder,
    "graphs": GraphEncoder,
}


def kind_of(encoder: AnyEncoder) -> str:
    """What an encoder encodes: "images", "text", "graphs" or, from left to right, "causal text"."""
    return next(kind for kind, of_kind in _KINDS.items() if isinstance(encoder, of_kind))


def save(
    path: Path,
    encoder: AnyEncoder,
    variables: Variables,
    facts: Mapping[str, Any],
    head: hk.Params | None = None,
) -> None:
    """Writes variables as safetensors, with a card that says what is in it.

    The card stands in the file's header and beside it as JSON.

    Args:
      path: the .safetensors file; its folder is made.
      encoder: what the variables belong to.
      variables: as arrays on the host.
      facts: what else is known: the configuration, the hash of the data, the scores.
      head: Haiku parameters to keep beside the encoder, such as those that guess masked words.
    """
    card = {"kind": kind_of(encoder), "encoder": dataclasses.asdict(encoder), **facts}
    handover.save(path, {**variables._asdict(), "head": head or {}}, card)


class Loaded(NamedTuple):
    """An encoder from a run."""

    encoder: AnyEncoder
    variables: Variables
    head: hk.Params
    """Parameters of the head that was saved with it; empty without one."""
    card: dict[str, Any]

    def __call__(self, inputs: str | Sequence[str] | ArrayLike | GraphSet) -> jax.Array:
        """Features [B, D] of inputs.

        Args:
          inputs: images [B, H, W, C], integers from 0 to 255 or floats in [0, 1]; or texts, or
            their padded tokens, int [B, L]; or a set of graphs, whose B nodes get features.

        Raises:
          UserError: they are nothing that this encoder takes.
        """
        features, _ = self.encoder.apply(self.variables, self.encoder.prepare(inputs))
        return features


def load(run: str | Path, seed: int | None = None) -> Loaded:
    """The encoder that a run has left behind.

    Args:
      run: the run's folder, or a .safetensors file out of it.
      seed: which seed's; by default the first.

    Raises:
      UserError: there is none, or the file is damaged or foreign. What it claims is checked before
        its tensors are read.
    """
    path = Path(run)
    if path.suffix != ".safetensors":
        path = handover.file_in(path, "encoder", seed, "a finished pretraining")
    read = handover.load(path, _understood, free=("head",))
    trees = read.trees
    return Loaded(read.what, Variables(trees["params"], trees["state"]), trees["head"], read.card)


def _understood(card: Mapping[str, Any]) -> tuple[AnyEncoder, handover.Trees]:
    """The encoder that a card describes, and the shapes of its variables."""
    needed = {"kind": str, "encoder": dict}
    handover.check_entries(card, needed, {"exp": str, "config": dict})
    kind = card["kind"]
    known = " or ".join(_KINDS)
    handover.expect(kind in _KINDS, f"its card tells of {kind[:40]!r}, not of {known}")
    encoder = handover.make(_KINDS[kind], card["encoder"], "encoder")
    if isinstance(encoder, TextEncoder | CausalEncoder):
        try:
            size = Tokenizer.from_json(encoder.tokenizer).size
        except UserError as error:
            raise handover.Unsound(str(error).rstrip(".")) from error
        handover.expect(
            size == encoder.vocabulary,
            f"its tokenizer has {size} tokens, its encoder {encoder.vocabulary}",
        )
    return encoder, jax.eval_shape(encoder.init, jax.random.key(0))._asdict()


def check_head(loaded: Loaded, like: hk.Params, run: str) -> None:
    """Raises `UserError` unless a head has parameters like these.

    Args:
      loaded: with the head.
      like: arrays, or their shapes.
      run: where it comes from, for the error.
    """
    wanted = {name: leaf.shape for name, leaf in handover.named({"head": like}).items()}
    found = {name: leaf.shape for name, leaf in handover.named({"head": loaded.head}).items()}
    differ = sorted(name for name in wanted | found if wanted.get(name) != found.get(name))
    require(
        not differ,
        f"{run} holds another head than this suite writes: {', '.join(differ)[:120]} differ in "
        "shape or are not in both. Train it anew.",
    )


def load_for(encoder: ImageEncoder, run: str) -> Variables:
    """The variables that a run has left, for an encoder of the same kind.

    Raises:
      UserError: the run's network or its images are of another kind.
    """
    loaded = load(run)
    require(
        isinstance(loaded.encoder, ImageEncoder),
        f"--init-from={run} holds an encoder of {kind_of(loaded.encoder)}; this run needs one of "
        "images.",
    )
    found = loaded.encoder
    for what, have, want in (
        ("network", found.network, encoder.network),
        ("image_shape", found.image_shape, encoder.image_shape),
        ("patch", found.patch, encoder.patch),
    ):
        require(
            have == want,
            f"--init-from={run} holds an encoder whose {what} is {have}; this run needs {want}.",
        )
    return loaded.variables


def start(encoder: ImageEncoder, init_from: str) -> Variables | None:
    """The variables that an encoder starts from: those of `load_for`, or None for fresh ones.

    Args:
      encoder: what they are for.
      init_from: the folder of a run; empty for fresh ones.

    Raises:
      UserError: as `load_for`.
    """
    return load_for(encoder, init_from) if init_from else None
