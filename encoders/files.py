"""Encoders as they are handed over: what a run has learned, in a file that says what it is.

An encoder of any kind, of images or of text, maps its inputs and `Variables` to one feature vector
each.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import haiku as hk
import jax
import numpy as np
import safetensors.numpy
from jax.typing import ArrayLike
from safetensors import SafetensorError, safe_open

from missing_bits.data.tokenizer import Tokenizer
from missing_bits.encoders.causal import CausalEncoder
from missing_bits.encoders.images import ImageEncoder
from missing_bits.encoders.text import TextEncoder
from missing_bits.encoders.variables import Variables
from missing_bits.errors import UserError, require

AnyEncoder = ImageEncoder | TextEncoder | CausalEncoder
_KINDS: dict[str, type[AnyEncoder]] = {
    "images": ImageEncoder,
    "text": TextEncoder,
    "causal text": CausalEncoder,
}
_LARGEST = 1 << 31  # of any number that a card may name


def kind_of(encoder: AnyEncoder) -> str:
    """What an encoder encodes: "images", "text" or, from left to right, "causal text"."""
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
    tensors = {
        name: np.asarray(leaf)
        for name, leaf in _named({**variables._asdict(), "head": head or {}}).items()
    }
    card = {"kind": kind_of(encoder), "encoder": dataclasses.asdict(encoder), **facts}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(safetensors.numpy.save(tensors, metadata={"card": json.dumps(card)}))
    path.with_suffix(".json").write_text(json.dumps(card, indent=2) + "\n")


def _named(trees: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """The leaves of {kind: {module: {name: leaf}}} by the names they have in a file."""
    return {
        f"{kind}:{module}:{name}": leaf
        for kind, tree in trees.items()
        for module, leaves in tree.items()
        for name, leaf in leaves.items()
    }


class Loaded(NamedTuple):
    """An encoder from a run."""

    encoder: AnyEncoder
    variables: Variables
    head: hk.Params
    """Parameters of the head that was saved with it; empty without one."""
    card: dict[str, Any]

    def __call__(self, inputs: str | Sequence[str] | ArrayLike) -> jax.Array:
        """Features [B, D] of inputs.

        Args:
          inputs: images [B, H, W, C], integers from 0 to 255 or floats in [0, 1]; or texts, or
            their padded tokens, int [B, L].

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
        path = _file_in(path, seed)
    trees: dict[str, dict[str, dict[str, np.ndarray]]] = {"params": {}, "state": {}, "head": {}}
    try:
        with safe_open(path, "numpy") as file:
            card = _card(file.metadata() or {})
            encoder = _encoder(card)
            _check_tensors(file, jax.eval_shape(encoder.init, jax.random.key(0)))
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                kind, module, leaf = name.split(":")
                tensor = file.get_tensor(name)
                _expect(bool(np.isfinite(tensor).all()), f"{name} holds NaN or infinite numbers")
                trees[kind].setdefault(module, {})[leaf] = tensor
    except FileNotFoundError as error:
        raise UserError(f"There is no file {path}. Name the folder of a finished run.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (SafetensorError, _Unsound) as error:
        raise UserError(f"{path} is damaged or was not written by this suite: {error}.") from error
    return Loaded(encoder, Variables(trees["params"], trees["state"]), trees["head"], card)


class _Unsound(Exception):
    """What is wrong with a file."""


def _expect(condition: bool, otherwise: str) -> None:
    if not condition:
        raise _Unsound(otherwise)


def _card(metadata: Mapping[str, str]) -> dict[str, Any]:
    """What the header says, as far as anybody here relies on it."""
    _expect("card" in metadata, "it has no card")
    try:
        card = json.loads(metadata["card"])
    except (ValueError, RecursionError) as error:
        raise _Unsound(f"its card is no JSON ({type(error).__name__})") from error
    _expect(isinstance(card, dict), "its card is no JSON object")
    for name, kind in {"kind": str, "encoder": dict, "exp": str, "config": dict}.items():
        needed = name in ("kind", "encoder")
        _expect(name in card or not needed, f"its card does not tell {name}")
        fits = name not in card or isinstance(card[name], kind)
        _expect(fits, f"its card has a wrong type for {name}")
    return card


def _encoder(card: Mapping[str, Any]) -> AnyEncoder:
    """The encoder that a card describes."""
    kind = card["kind"]
    _expect(kind in _KINDS, f"its card tells of {kind[:40]!r}, not of {' or '.join(_KINDS)}")
    fields = _fields(_KINDS[kind], card["encoder"], "encoder")
    try:
        encoder = _KINDS[kind](**fields)
        if isinstance(encoder, TextEncoder | CausalEncoder):
            size = Tokenizer.from_json(encoder.tokenizer).size
            _expect(
                size == encoder.vocabulary,
                f"its tokenizer has {size} tokens, its encoder {encoder.vocabulary}",
            )
    except UserError as error:
        raise _Unsound(str(error).rstrip(".")) from error
    return encoder


def _fields(kind: type, written: Mapping[str, Any], what: str) -> dict[str, Any]:
    """The fields of a dataclass as JSON has them, of the types that it says."""
    types = get_type_hints(kind)
    unknown = sorted(written.keys() - types.keys())
    _expect(not unknown, f"its {what} has an unknown {unknown[0][:40]!r}" if unknown else "")
    fields: dict[str, Any] = {}
    for name, value in written.items():
        if dataclasses.is_dataclass(types[name]) and isinstance(value, dict):
            fields[name] = types[name](**_fields(types[name], value, name))
            continue
        _expect(_is_of(value, types[name]), f"its {what}'s {name} has a wrong type or size")
        # JSON has lists for tuples.
        fields[name] = tuple(value) if isinstance(value, list) else value
    needed = [
        field.name
        for field in dataclasses.fields(kind)
        if field.default is dataclasses.MISSING and field.name not in written
    ]
    _expect(not needed, f"its {what} lacks {', '.join(needed)}")
    return fields


def _is_of(value: Any, kind: Any) -> bool:
    """Whether a value from JSON is of a field's type; numbers must be of a sane size."""
    parts = get_args(kind)
    if get_origin(kind) is Literal:
        return value in parts
    if parts:  # a tuple
        if not isinstance(value, list):
            return False
        if parts[1] is ...:
            parts = (parts[0],) * len(value)
        return len(parts) == len(value) and all(map(_is_of, value, parts))
    if kind is bool or isinstance(value, bool):
        return kind is bool and isinstance(value, bool)
    if kind is float:  # JSON writes 1.0 as 1 at times
        return isinstance(value, int | float) and abs(value) < _LARGEST
    return isinstance(value, kind) and (kind is not int or abs(value) < _LARGEST)


def _check_tensors(file: Any, like: Variables) -> None:
    """Holds the names, shapes and types of an open file's tensors against those of an encoder."""
    wanted = _named(like._asdict())
    found = set(file.keys())
    heads = {name for name in found if name.startswith("head:") and name.count(":") == 2}
    for names, what in (
        (wanted.keys() - found, "it lacks the tensor"),
        (found - wanted.keys() - heads, "it holds the unknown tensor"),
    ):
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        _expect(not names, f"{what} {min(names)[:80]}{more}" if names else "")
    for name in sorted(found):
        tensor = file.get_slice(name)
        kind = tensor.get_dtype()
        _expect(kind == "F32", f"{name[:80]} is of type {kind}, not of float32")
        if name in wanted:
            _check_shape(name, tuple(tensor.get_shape()), wanted[name].shape)


def _check_shape(name: str, found: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    _expect(found == wanted, f"{name} has the shape {found}, not {wanted}")


def check_head(loaded: Loaded, like: hk.Params, run: str) -> None:
    """Raises `UserError` unless a head has parameters like these.

    Args:
      loaded: with the head.
      like: arrays, or their shapes.
      run: where it comes from, for the error.
    """
    wanted = {name: leaf.shape for name, leaf in _named({"head": like}).items()}
    found = {name: leaf.shape for name, leaf in _named({"head": loaded.head}).items()}
    differ = sorted(name for name in wanted | found if wanted.get(name) != found.get(name))
    require(
        not differ,
        f"{run} holds another head than this suite writes: {', '.join(differ)[:120]} differ in "
        "shape or are not in both. Train it anew.",
    )


def _file_in(folder: Path, seed: int | None) -> Path:
    """The encoder's file in the folder of a run: that of a seed, or that of the first."""
    require(
        folder.is_dir(),
        f"{folder} is no folder of a run. Name one that a finished run has left, under runs/.",
    )
    seeds = {
        path: path.stem.removeprefix("seed")
        for path in (folder / "encoder").glob("seed*.safetensors")
    }
    found = sorted(  # what a user has put beside them under another name counts for nothing
        (path for path, name in seeds.items() if name.isdecimal()),
        key=lambda path: int(seeds[path]),
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
