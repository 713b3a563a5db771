"""One import name, mapped to the root: what the installation and every import must keep true."""

import ast
import os
import pathlib
import subprocess
import sys
import tomllib

import jax
import jax.numpy as jnp
import pytest

import missing_bits


def bare_imports(source: str, rooms: set[str]) -> list[str]:
    """List the imports in `source` that reach a file of the suite by another name than `missing_bits`."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
            if node.level:
                found.append(f"line {node.lineno}: {ast.unparse(node)}")
        else:
            continue
        if any(_is_bare(name, rooms) for name in names):
            found.append(f"line {node.lineno}: {ast.unparse(node)}")
    return found


def _is_bare(name: str, rooms: set[str]) -> bool:
    # `import ssl` alone is the standard library; what lies below `ssl` can only be ours.
    first, _, rest = name.partition(".")
    return bool(rest) if first == "ssl" else first in rooms


def test_packages_are_the_folders_that_hold_code(root, source_files):
    """A folder missing from the list works in an editable install and is lost from a wheel."""
    setuptools = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {".".join(["missing_bits", *file.parent.parts]) for file in source_files}
    assert sorted(setuptools["packages"]) == sorted(folders)
    assert setuptools["package-dir"] == {"missing_bits": "."}


def test_what_is_no_code_is_named_as_data(root, source_files):
    """A template that is not named is found in an editable install and lost from a wheel."""
    setuptools = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {file.parent for file in source_files if file.parent != pathlib.Path()}
    found = {
        ".".join(["missing_bits", *folder.parts]): files
        for folder in folders
        if (
            files := [
                p.name for p in (root / folder).iterdir() if p.is_file() and p.suffix != ".py"
            ]
        )
    }
    assert setuptools["package-data"] == found


def test_only_the_root_has_an_init(all_files):
    """One in ssl/ would hide the standard library's ssl; elsewhere none is needed, so there is none."""
    assert [file for file in all_files if file.name == "__init__.py"] == [
        pathlib.Path("__init__.py")
    ]


def test_requirements_pin_and_install_this_project(root):
    lines = (root / "requirements.txt").read_text().splitlines()
    assert (lines[0], lines[-1]) == ("-c constraints.txt", "-e .")


def test_import_name_is_this_tree(root):
    assert pathlib.Path(missing_bits.__file__) == root / "__init__.py"


def test_standard_ssl_wins_in_the_root(root):
    """`python run.py` puts the root first on the path, where our folder ssl lies; so does `-c` here."""
    code = "import ssl, sysconfig; print(ssl.__file__, sysconfig.get_paths()['stdlib'], sep='\\n')"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    command = [sys.executable, "-c", f"import sys; assert sys.path[0] == ''; {code}"]
    done = subprocess.run(
        command, cwd=root, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    found, standard = done.stdout.splitlines()
    assert pathlib.Path(found) == pathlib.Path(standard) / "ssl.py"


def test_no_bare_imports(root, all_files):
    """`from agents import dqn` would load a second copy of the module: two tables, two caches."""
    rooms = {file.parts[0].removesuffix(".py") for file in all_files} - {"__init__", "ssl"}
    bare = {
        str(file): found
        for file in all_files
        if (found := bare_imports((root / file).read_text(), rooms))
    }
    assert not bare, "import from missing_bits instead"


@pytest.mark.parametrize(
    ("line", "is_bare"),
    [
        ("from agents import dqn", True),
        ("from agents.dqn import DQN", True),
        ("import agents", True),
        ("import run", True),
        ("from . import dqn", True),
        ("def f():\n    import agents.dqn", True),
        ("from ssl.barlow_twins import step", True),
        ("import ssl", False),
        ("from ssl import SSLContext", False),
        ("from missing_bits.agents import dqn", False),
        ("import runpy", False),
    ],
)
def test_bare_imports_are_seen(line, is_bare):
    assert bool(bare_imports(line, {"agents", "run"})) == is_bare


def test_arrays_are_strict_and_four_devices_stand_by():
    """The promise of conftest.py: without it the tests of devices would pass on one device, unseen."""
    if jax.default_backend() == "cpu":
        assert jax.device_count() >= 4
    with pytest.raises(ValueError, match="rank_promotion"):
        jnp.ones([2, 3]) + jnp.ones([3])
