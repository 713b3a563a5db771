"""What every test runs under: four virtual CPU devices, strict array ranks, a compilation cache.

The environment variables stand before the first import of jax, and processes that tests start
inherit them. Each is a default: what the caller has set wins, and the platform is whatever JAX
finds.
"""

import hashlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

DEVICES = "--xla_force_host_platform_device_count=4"
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {DEVICES}".strip()
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE / "missing_bits" / "tests"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

import jax  # noqa: E402
import pytest  # noqa: E402

from missing_bits import options  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
# Tests compile more than they compute; `optimized` below is for those that compute.
jax.config.update("jax_disable_most_optimizations", True)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --exp, for the passport of a method from outside the repository."""
    parser.addoption(
        "--exp", help="tests/passport: the method to test, as my_package.my_module:MyMethod"
    )


ROOT = pathlib.Path(__file__).resolve().parent.parent
APART = {"tests", "benchmarks", "docs"}  # may hold Python files, belong to no package
WRITTEN = {"build", "dist", "runs"}  # what installing and training leave at the root


def _may_hold_code(path: pathlib.Path) -> bool:
    """Tell whether a path is a folder, but none of a tool, a virtual environment or hidden."""
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
    """Return every Python file of the repository, tests too, relative to the root."""
    return [file.relative_to(ROOT) for file in _python_files(ROOT)]


@pytest.fixture(scope="session")
def source_files(all_files: list[pathlib.Path]) -> list[pathlib.Path]:
    """Return the Python files of the package `missing_bits`, relative to the root."""
    return [file for file in all_files if file.parts[0] not in APART]


# Runs in processes of their own, cheap enough to be killed by the dozen.

TINY = """--exp=dqn --num-envs=2 --env-steps=1200 --batch-size=8 --hidden-sizes 8
    --learning-starts=60 --replay-capacity=500 --target-period=50 --eval-episodes=2
    --run.log-period=20 --run.eval-period=120 --run.checkpoint-period=60"""
# What jax_disable_most_optimizations does above.
HASTY = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
PATIENCE = 300  # seconds until a run that should have done something is given up


class Run:
    """A live or ended run. Its output goes to files beside its folder."""

    def __init__(self, ask, pid: int, output: str) -> None:
        self._ask, self.pid = ask, pid
        self._out, self._err = pathlib.Path(output + ".out"), pathlib.Path(output + ".err")

    @property
    def out(self) -> str:
        return self._out.read_text() if self._out.exists() else ""

    @property
    def err(self) -> str:
        return self._err.read_text() if self._err.exists() else ""

    @property
    def rows(self) -> int:
        """How many lines are written after the first one, which says that the run gets ready."""
        return max(0, self.out.count("\n") - 1)

    @property
    def status(self) -> int | None:
        """The exit status, a signal's negative number, or None while the run lives."""
        return self._ask({"status": self.pid})

    def wait(self) -> int:
        self.wait_until(lambda: self.status is not None)
        return self.status

    def wait_until(self, condition) -> None:
        """Return when the condition holds or the run has ended."""
        given_up = time.monotonic() + PATIENCE
        while not condition() and self.status is None:
            assert time.monotonic() < given_up, (
                f"nothing happened in {PATIENCE} s\n{self.out}\n{self.err}"
            )
            time.sleep(0.002)

    def wait_for_lines(self, lines: int) -> None:
        """Return when so many rows of metrics are written (a line each) or the run has ended."""
        self.wait_until(lambda: self.rows >= lines)

    def kill(self, number: int) -> None:
        """Send a signal to the run and all that it has started."""
        if self.status is None:
            os.killpg(self.pid, number)


class Runs:
    """Starts `run.py` in forks of one process that has done the imports."""

    def __init__(self, folder: pathlib.Path, cache: pathlib.Path) -> None:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
        environ["XLA_FLAGS"] += f" {HASTY}"
        self._driver = subprocess.Popen(
            [sys.executable, ROOT / "tests" / "loop" / "fork_runs.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environ | {"XDG_CACHE_HOME": str(cache)},
        )
        self._folder = folder
        self._started: list[Run] = []

    def start(self, *arguments: object, **environ: str) -> Run:
        output = str(self._folder / f"output{len(self._started)}")
        request = {"start": [str(a) for a in arguments], "output": output, "environ": environ}
        run = Run(self._ask, self._ask(request), output)
        self._started.append(run)
        return run

    def finish(self, *arguments: object, **environ: str) -> Run:
        """Run to the end and insist on success."""
        run = self.start(*arguments, **environ)
        assert run.wait() == 0, run.err
        return run

    def close(self) -> None:
        for run in self._started:
            run.kill(signal.SIGKILL)
        self._driver.stdin.close()
        self._driver.wait()
        self._driver.stdout.close()

    def _ask(self, request):
        self._driver.stdin.write(json.dumps(request) + "\n")
        self._driver.stdin.flush()
        return json.loads(self._driver.stdout.readline())


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """Return what starts runs: `start(*arguments)` and `finish(*arguments)`."""
    runs = Runs(
        tmp_path_factory.mktemp("output"), pathlib.Path(os.environ["JAX_COMPILATION_CACHE_DIR"])
    )
    yield runs
    runs.close()


@pytest.fixture(scope="session")
def tiny() -> list[str]:
    """Return the command line of a run of a second, but for its folder."""
    return TINY.split()


@pytest.fixture(scope="session")
def uninterrupted(runs, tmp_path_factory) -> pathlib.Path:
    """Return the folder of a tiny run that nothing disturbed. Copy it before changing it."""
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    runs.finish(*TINY.split(), f"--run.dir={folder}")
    return folder


@pytest.fixture(scope="session")
def outcome():
    """Return the function that tells all of a finished run that does not depend on the clock."""

    def outcome(folder: pathlib.Path) -> dict:
        result = json.loads((folder / "result.json").read_text())
        told = ("eval/", "baseline/", "digest", "data_digest", "env_steps", "updates")
        kept = {name: value for name, value in result.items() if name.startswith(told)}
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        rows = [
            {name: value for name, value in row.items() if not name.startswith("time/")}
            for row in rows
        ]
        return {"rows": rows, **kept}

    return outcome


@pytest.fixture(scope="session")
def hashes():
    """Return the function that maps each file below a folder to the hash of its content."""

    def hashes(folder: pathlib.Path) -> dict[str, str]:
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return {
            str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in files
        }

    return hashes


@pytest.fixture(scope="session")
def build():
    """Return the function that builds a method of a class as the loop does."""

    def build(method, config):
        options.check(config)
        method.check(config)
        return method(config, method.resources(config))

    return build


@pytest.fixture(scope="session")
def trained():
    """Return the function that tells what a method has learned after some updates."""

    def trained(method, updates):
        step = jax.jit(method.step)
        state = jax.jit(method.init)(jax.random.key(0))
        source = method.source([0])
        for update in range(updates):
            batch = jax.tree.map(lambda leaf: leaf[0], source.next(None, update))
            state, _ = step(state, batch, jax.random.key(update))
        source.close()
        return jax.device_get(method.learned(state))

    return trained


@pytest.fixture
def optimized():
    """Compile with all optimizations: for the tests that compute more than they compile."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(scope="module", autouse=True)
def _forget_compiled():
    """Drop what a module compiled: a thousand tests' may be more than a process can hold."""
    yield
    jax.clear_caches()
