"""What every test runs under: four virtual CPU devices, strict array ranks, one compilation cache.

The environment variables stand before the first import of jax, and processes that tests start inherit
them. Each is a default: what the caller has set wins, and the platform is whatever JAX finds.
"""

import os
import pathlib

DEVICES = "--xla_force_host_platform_device_count=4"
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {DEVICES}".strip()
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE / "missing_bits" / "tests"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")

ROOT = pathlib.Path(__file__).resolve().parent.parent
APART = {"tests", "benchmarks", "docs"}  # may hold Python files, belong to no package
WRITTEN = {"build", "dist", "runs"}  # what installing and training leave at the root


def _may_hold_code(path: pathlib.Path) -> bool:
    """Tell whether a path is a folder that is not hidden, written by a tool, or a virtual environment."""
    if not path.is_dir() or path.name.startswith((".", "__")) or path.suffix == ".egg-info":
        return False
    return not (path.parent == ROOT and path.name in WRITTEN) and not (path / "pyvenv.cfg").exists()


def _python_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """List the Python files in a folder and below it, as absolute paths."""
    files = sorted(folder.glob("*.py"))
    for below in sorted(folder.iterdir()):
        if _may_hold_code(below):
            files += _python_files(below)
    return files


@pytest.fixture(scope="session")
def root() -> pathlib.Path:
    """Return the root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def all_files() -> list[pathlib.Path]:
    """Return every Python file of the repository, tests and benchmarks too, relative to the root."""
    return [file.relative_to(ROOT) for file in _python_files(ROOT)]


@pytest.fixture(scope="session")
def source_files(all_files: list[pathlib.Path]) -> list[pathlib.Path]:
    """Return the Python files of the package `missing_bits`, relative to the root."""
    return [file for file in all_files if file.parts[0] not in APART]
