"""What the benchmarks share: the peers' virtual environments, the facts beside every figure."""

import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent

PINS = {  # in peers/
    "dqn": "requirements.txt",
    "gymnax": "requirements-gymnax.txt",
    "vision": "requirements-vision.txt",
    "torch": "requirements-torch.txt",
    "graphs": "requirements-graphs.txt",
}


def call(command: list, folder: Path = ROOT, **environment: str) -> str:
    """Run a command in a folder, by default the repository root, and return its stdout.

    Raises:
      SystemExit: it failed; with the end of what it printed.
    """
    command = [str(word) for word in command]
    done = subprocess.run(
        command, cwd=folder, env=os.environ | environment, capture_output=True, text=True
    )
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-20:])
        raise SystemExit(f"{' '.join(command)}\nleft with status {done.returncode}:\n{tail}")
    return done.stdout


def peers_python(peers: str, folder: Path | None = None, base: str = sys.executable) -> Path:
    """Return the interpreter of some peers' virtual environment.

    It is made when first needed, and anew when their pins have changed.

    Args:
      peers: which: a key of PINS.
      folder: where the virtual environment is, or will be; by default `.peers/` and the key.
      base: the Python that makes it.
    """
    folder = folder or HERE / ".peers" / peers
    requirements = HERE / "peers" / PINS[peers]
    python = folder / "bin" / "python"
    stamp = folder / "installed.txt"
    if not stamp.exists() or stamp.read_text() != requirements.read_text():
        print(f"installing the peers into {folder}", file=sys.stderr)
        call([base, "-m", "venv", folder])
        call([python, "-m", "pip", "install", "--quiet", "-r", requirements])
        stamp.write_text(requirements.read_text())
    return python


def machine_facts() -> dict:
    """Return what a reader needs to know of the machine and of how busy it is."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.machine()}",
        "load_average_before": os.getloadavg()[0],
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS", "unset"),
    }


def versions(python: str | Path, packages: list[str]) -> dict:
    """Return the versions of an interpreter and of some packages it has."""
    code = (
        "import importlib.metadata as m, json, platform\n"
        f"found = {{p: m.version(p) for p in {packages!r}}}\n"
        "print(json.dumps({'python': platform.python_version()} | found))"
    )
    return json.loads(call([python, "-c", code]))


def summary(rates: list[float]) -> dict:
    """Return the median and the extremes of some rates."""
    return {"median": statistics.median(rates), "min": min(rates), "max": max(rates), "all": rates}
