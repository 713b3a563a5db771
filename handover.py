"""Files that hand over what was learned: safetensors, with a card in the header that says what.

A file is input like any other: what its card claims is checked, and held against the shapes of its
tensors, before a tensor is read. Nothing in it is executed.

Tensors are leaves of trees {kind: {module: {name: leaf}}}, such as parameters of Haiku.
"""

import dataclasses
import json
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from missing_bits.errors import UserError, require

T = TypeVar("T")
Trees = Mapping[str, Mapping[str, Mapping[str, Any]]]

_LARGEST = 1 << 31  # of any number that a card may name


class Unsound(Exception):
    """What is wrong with a file."""


class Read(NamedTuple, Generic[T]):
    """What a file holds."""

    card: dict[str, Any]
    what: T
    """What the card describes."""
    trees: dict[str, dict[str, dict[str, np.ndarray]]]


def named(trees: Trees) -> dict[str, Any]:
    """The leaves of trees by the names they have in a file."""
    return {
        f"{kind}:{module}:{name}": leaf
        for kind, tree in trees.items()
        for module, leaves in tree.items()
        for name, leaf in leaves.items()
    }


def save(path: Path, trees: Trees, card: Mapping[str, Any]) -> None:
    """Writes trees under their card, which stands in the file's header and beside it as JSON.

    Args:
      path: the .safetensors file; its folder is made.
      trees: of arrays on the host.
      card: JSON.
    """
    tensors = {name: np.asarray(leaf) for name, leaf in named(trees).items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(safetensors.numpy.save(tensors, metadata={"card": json.dumps(card)}))
    write_card(path, card)


def write_card(path: Path, card: Mapping[str, Any]) -> None:
    """Writes a card as JSON beside a file."""
    path.with_suffix(".json").write_text(json.dumps(card, indent=2) + "\n")


def load(
    path: Path, understand: Callable[[dict[str, Any]], tuple[T, Trees]], free: tuple[str, ...] = ()
) -> Read[T]:
    """Reads a file that `save` wrote.

    Args:
      path: of the file.
      understand: maps its card to what that describes and the shapes of its trees, as `eval_shape`
        gives them; raises `Unsound` for a card that makes no sense.
      free: kinds of trees that may hold anything.

    Raises:
      UserError: there is no such file, or it is damaged or foreign.
    """
    try:
        with safe_open(path, "numpy") as file:
            card = _card(file.metadata() or {})
            what, like = understand(card)
            _check_tensors(file, named(like), free)
            trees: dict[str, dict[str, dict[str, np.ndarray]]]
            trees = {kind: {} for kind in (*like, *free)}
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                kind, module, leaf = name.split(":")
                tensor = file.get_tensor(name)
                expect(bool(np.isfinite(tensor).all()), f"{name} holds NaN or infinite numbers")
                trees[kind].setdefault(module, {})[leaf] = tensor
    except FileNotFoundError as error:
        raise UserError(f"There is no file {path}. Name the folder of a finished run.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (SafetensorError, Unsound) as error:
        raise UserError(
            f"{path} is damaged or was not written by this version of the suite: {error}."
        ) from error
    return Read(card, what, trees)


def kind(path: Path) -> str:
    """The kind of what a file holds, as its card says; empty where it says none."""
    try:
        with safe_open(path, "numpy") as file:
            return str(_card(file.metadata() or {}).get("kind", ""))
    except (OSError, SafetensorError, Unsound):
        return ""


def expect(condition: bool, otherwise: str) -> None:
    """Raises `Unsound(otherwise)` unless `condition` holds."""
    if not condition:
        raise Unsound(otherwise)


def _card(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The card in a file's header."""
    expect("card" in metadata, "it has no card")
    try:
        card = json.loads(metadata["card"])
    except (ValueError, RecursionError) as error:
        raise Unsound(f"its card is no JSON ({type(error).__name__})") from error
    expect(isinstance(card, dict), "its card is no JSON object")
    return card


def check_entries(
    card: Mapping[str, Any], needed: Mapping[str, type], others: Mapping[str, type]
) -> None:
    """Raises `Unsound` unless a card has what is needed, and nothing of a wrong type.

    Args:
      card: of a file.
      needed: entries and their types.
      others: entries that may be missing.
    """
    for name, kind in {**needed, **others}.items():
        expect(name in card or name not in needed, f"its card does not tell {name}")
        fits = name not in card or isinstance(card[name], kind)
        expect(fits, f"its card has a wrong type for {name}")


def make(kind: type[T], written: Mapping[str, Any], what: str) -> T:
    """A dataclass from its fields as JSON.

    Args:
      kind: the dataclass; it raises `UserError` for fields that make no sense.
      written: the fields.
      what: it is called in messages.

    Raises:
      Unsound: the fields are not those of the dataclass, or it refuses them.
    """
    fields = _fields(kind, written, what)
    try:
        return kind(**fields)
    except UserError as error:
        raise Unsound(str(error).rstrip(".")) from error


def _fields(kind: type, written: Mapping[str, Any], what: str) -> dict[str, Any]:
    """The fields of a dataclass as JSON has them, those of dataclasses within it too."""
    hints = get_type_hints(kind)
    unknown = sorted(written.keys() - hints.keys())
    expect(not unknown, f"its {what} has an unknown {unknown[0][:40]!r}" if unknown else "")
    fields: dict[str, Any] = {}
    for name, value in written.items():
        if dataclasses.is_dataclass(hints[name]) and isinstance(value, dict):
            fields[name] = hints[name](**_fields(hints[name], value, name))
            continue
        expect(is_of(value, hints[name]), f"its {what}'s {name} has a wrong type or size")
        # JSON has lists for tuples.
        fields[name] = tuple(value) if isinstance(value, list) else value
    needed = [
        field.name
        for field in dataclasses.fields(kind)
        if field.default is field.default_factory and field.name not in written  # none of both
    ]
    expect(not needed, f"its {what} lacks {', '.join(needed)}")
    return fields


def is_of(value: Any, kind: Any) -> bool:
    """Whether a value from JSON is of a field's type; numbers must be of a sane size."""
    parts = get_args(kind)
    if isinstance(kind, types.UnionType):
        return any(is_of(value, part) for part in parts)
    if get_origin(kind) is Literal:
        return value in parts
    if parts:  # a tuple
        if not isinstance(value, list):
            return False
        if parts[1] is ...:
            parts = (parts[0],) * len(value)
        return len(parts) == len(value) and all(map(is_of, value, parts))
    if kind is bool or isinstance(value, bool):
        return kind is bool and isinstance(value, bool)
    if kind is float:  # JSON writes 1.0 as 1 at times
        return isinstance(value, int | float) and abs(value) < _LARGEST
    return isinstance(value, kind) and (kind is not int or abs(value) < _LARGEST)


def _check_tensors(file: Any, wanted: Mapping[str, Any], free: tuple[str, ...]) -> None:
    """Holds the names, shapes and types of an open file's tensors against those that are wanted."""
    found = set(file.keys())
    others = {name for name in found if name.count(":") == 2 and name.split(":")[0] in free}
    for names, what in (
        (wanted.keys() - found, "it lacks the tensor"),
        (found - wanted.keys() - others, "it holds the unknown tensor"),
    ):
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        expect(not names, f"{what} {_shown(min(names))}{more}" if names else "")
    for name in sorted(found):
        tensor = file.get_slice(name)
        kind = tensor.get_dtype()
        expect(kind == "F32", f"{_shown(name)} is of type {kind}, not of float32")
        if name in wanted:
            shape = tuple(tensor.get_shape())
            like = wanted[name].shape
            expect(shape == like, f"{name} has the shape {shape}, not {like}")


def _shown(name: str) -> str:
    """A tensor's name in a message of one line, whatever the file calls it."""
    return name[:80] if name.isprintable() else repr(name[:80])


def file_in(folder: Path, what: str, seed: int | None, whose: str) -> Path:
    """The file of a seed in the folder of a run, or that of the first seed.

    Args:
      folder: of the run.
      what: was handed over, which is the name of the folder in it, such as "encoder".
      seed: None for the first.
      whose: kind of run leaves one, for messages.

    Raises:
      UserError: there is none.
    """
    require(
        folder.is_dir(),
        f"{folder} is no folder of a run. Name one that a finished run has left, under runs/.",
    )
    seeds = {
        path: path.stem.removeprefix("seed") for path in (folder / what).glob("seed*.safetensors")
    }
    found = sorted(  # what a user has put beside them under another name counts for nothing
        (path for path, name in seeds.items() if name.isdecimal()),
        key=lambda path: int(seeds[path]),
    )
    require(
        bool(found),
        f"{folder} holds no {what}: it is of another kind, or its run has not finished. Finish it "
        f"with --run.resume, or name the folder of {whose}.",
    )
    if seed is None:
        return found[0]
    path = folder / what / f"seed{seed}.safetensors"
    require(
        path in found,
        f"{folder} has no {what} of seed {seed}; it has {', '.join(p.stem for p in found)}.",
    )
    return path
