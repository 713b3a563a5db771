"""The house's floors: a folder imports only from floors below it.

The imports are read from the files' text (ast), those inside functions too. What reaches a method is
therefore only the table in run.py, whose entries are strings.
"""

import ast
import pathlib

import pytest

# From the top. A room is a folder or a file at the root; a floor's rooms may not import each other.
FLOORS = (
    ("run",),
    ("commands",),
    ("results",),
    ("experiments", "sweeps"),
    ("loop",),
    ("agents", "ssl", "generative", "supervised"),
    ("eval",),
    ("pictures",),
    ("encoders", "replay"),
    ("envs", "data"),
    ("nets",),
    ("losses", "augment", "optimizers"),
    ("handover", "memory", "options"),
    ("collectives", "errors", "metrics", "notes", "numeric", "plan"),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
METHODS = {"agents", "ssl", "generative", "supervised"}


def imported_rooms(source: str) -> dict[str, int]:
    """Map each room that `source` imports from missing_bits to the line of its first import."""
    rooms: dict[str, int] = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            paths = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            paths = [[*(node.module or "").split("."), alias.name] for alias in node.names]
        else:
            continue
        for path in paths:
            # `import missing_bits` alone and dunders such as missing_bits.__version__ reach no room.
            if path[0] == "missing_bits" and len(path) > 1 and not path[1].startswith("__"):
                rooms.setdefault(path[1], node.lineno)
    return rooms


def objection(importer: str, imported: str) -> str | None:
    """Say what is wrong with one room importing another, or return None."""
    for room in (importer, imported):
        if room not in FLOOR:
            return f"{room} stands on no floor: name its floor in docs and in FLOORS"
    if importer == imported:
        return None
    if importer == "loop" and imported in METHODS:
        return "loop/ knows methods only through the Protocol; they meet in run.py"
    if FLOOR[imported] == FLOOR[importer]:
        return f"{importer} and {imported} stand on the same floor"
    if FLOOR[imported] < FLOOR[importer]:
        return f"{imported} stands above {importer}"
    return None


def test_every_room_stands_on_a_floor(source_files):
    rooms = {file.parts[0].removesuffix(".py") for file in source_files} - {"__init__"}
    assert rooms <= FLOOR.keys()


def test_imports_go_down(root, source_files):
    wrong = []
    for file in source_files:
        room = file.parts[0].removesuffix(".py")
        for imported, line in imported_rooms((root / file).read_text()).items():
            # The package's own __init__.py is what every import passes through: it may reach no room.
            problem = (
                "the root imports no room" if room == "__init__" else objection(room, imported)
            )
            if problem:
                wrong.append(f"{file}:{line}: imports {imported}: {problem}")
    assert not wrong, "\n" + "\n".join(wrong)


@pytest.mark.parametrize(
    ("importer", "imported", "allowed"),
    [
        ("run", "loop", True),
        ("run", "agents", True),
        ("loop", "eval", True),
        ("loop", "agents", False),
        ("loop", "ssl", False),
        ("agents", "loop", False),
        ("agents", "agents", True),
        ("agents", "ssl", False),
        ("agents", "replay", True),
        ("eval", "agents", False),
        ("envs", "data", False),
        ("nets", "errors", True),
        ("augment", "losses", False),
        ("nets", "replay", False),
        ("kitchen", "nets", False),
        ("nets", "kitchen", False),
    ],
)
def test_floors_object_where_they_should(importer, imported, allowed):
    assert (objection(importer, imported) is None) == allowed


def test_imports_are_seen_in_all_their_forms():
    source = """
import missing_bits
import missing_bits.nets.mlp as mlp
from missing_bits import __version__, errors
from missing_bits.replay import uniform
import jax.numpy as jnp

def late():
    from missing_bits.loop import train
"""
    assert imported_rooms(source) == {"nets": 3, "errors": 4, "replay": 5, "loop": 9}


def test_files_are_found(source_files):
    """A walk that finds nothing would pass every test above."""
    assert pathlib.Path("__init__.py") in source_files
    assert not any(file.parts[0] == "tests" for file in source_files)
