"""Encoders as they are handed over: what a run has learned, in a file that says what it is.

An encoder of either kind, of images or of text, maps its inputs and `Variables` to one feature
vector each.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from jax.typing import ArrayLike
from safetensors import SafetensorError, safe_open

from missing_bits.data.tokenizer import Tokenizer
from missing_bits.encoders.images import ImageEncoder
from missing_bits.encoders.text import TextEncoder
from missing_bits.encoders.variables import Variables
from missing_bits.errors import UserError, require

AnyEncoder = ImageEncoder | TextEncoder
_KINDS: dict[str, type[AnyEncoder]] = {"images": ImageEncoder, "text": TextEncoder}


def kind_of(encoder: AnyEncoder) -> str:
    """What an encoder encodes: "images" or "text"."""
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
    tensors = {}
    for kind, tree in {**variables._asdict(), "head": head or {}}.items():
        for module, leaves in tree.items():
            for name, leaf in leaves.items():
                tensors[f"{kind}:{module}:{name}"] = np.asarray(leaf)
    card = {"kind": kind_of(encoder), "encoder": dataclasses.asdict(encoder), **facts}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(safetensors.numpy.save(tensors, metadata={"card": json.dumps(card)}))
    path.with_suffix(".json").write_text(json.dumps(card, indent=2) + "\n")


class Loaded(NamedTuple):
    """An encoder from a run."""

    encoder: AnyEncoder
    variables: Variables
    head: hk.Params
    """Parameters of the head that was saved with it; empty without one."""
    card: dict[str, Any]

    def __call__(self, inputs: ArrayLike) -> jax.Array:
        """Features [B, D] of inputs.

        Args:
          inputs: images [B, H, W, C], uint8 or float in [0, 1], or padded tokens, int [B, L].
        """
        features, _ = self.encoder.apply(self.variables, jnp.asarray(inputs))
        return features


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
        path = _file_in(path, seed)
    trees: dict[str, dict[str, dict[str, np.ndarray]]] = {"params": {}, "state": {}, "head": {}}
    try:
        with safe_open(path, "numpy") as file:
            card = json.loads(file.metadata()["card"])
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                kind, module, leaf = name.split(":")
                trees[kind].setdefault(module, {})[leaf] = file.get_tensor(name)
        encoder = _KINDS[card["kind"]](**_fields(card["encoder"]))
        if isinstance(encoder, TextEncoder):
            _check_tokenizer(path, encoder)
    except FileNotFoundError as error:
        raise UserError(f"There is no file {path}. Name the folder of a finished run.") from error
    except (SafetensorError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged or was not written by this suite: {error}.") from error
    return Loaded(encoder, Variables(trees["params"], trees["state"]), trees["head"], card)


def _check_tokenizer(path: Path, encoder: TextEncoder) -> None:
    """Raises `UserError` for a tokenizer that is damaged or has other tokens than the encoder."""
    size = Tokenizer.from_json(encoder.tokenizer).size
    require(
        size == encoder.vocabulary,
        f"{path} is damaged: its tokenizer has {size} tokens, its encoder {encoder.vocabulary}.",
    )


def _file_in(folder: Path, seed: int | None) -> Path:
    """The encoder's file in the folder of a run: that of a seed, or that of the first."""
    require(
        folder.is_dir(),
        f"{folder} is no folder of a run. Name one that a finished run has left, under runs/.",
    )
    found = sorted(
        (folder / "encoder").glob("seed*.safetensors"),
        key=lambda path: int(path.stem.removeprefix("seed")),
    )
    require(
        bool(found),
        f"{folder} holds no encoder: it is of another kind, or its run has not finished. Finish it "
        "with --run.resume, or name the folder of a finished pretraining.",
    )
    if seed is None:
        return found[0]
    path = folder / "encoder" / f"seed{seed}.safetensors"
    require(
        path in found,
        f"{folder} has no encoder of seed {seed}; it has {', '.join(p.stem for p in found)}.",
    )
    return path


def _fields(written: Mapping[str, Any]) -> dict[str, Any]:
    """An encoder's fields as a card has written them: JSON has lists for tuples."""
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in written.items()
    }


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
