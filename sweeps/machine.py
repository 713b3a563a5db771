"""What trials run on: processes of this machine, each with its share of devices and threads.

`Executor` is what the sweep knows; a cluster would be another one.
"""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, TextIO

from missing_bits.errors import UserError, require

_PROBE = """
import json, jax
here = jax.local_devices()
memory = (here[0].memory_stats() or {}).get("bytes_limit")
print(json.dumps([here[0].platform, len(here), memory]))
"""
_THREADS = ("NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_COUNT = "--xla_force_host_platform_device_count"


class Job(Protocol):
    """A trial that runs."""

    def poll(self) -> int | None:
        """The exit status; None while it runs. A negative one is the signal that killed it."""

    def stop(self) -> None:
        """Asks it to save and stop."""

    def kill(self) -> None:
        """Ends it at once."""


class Executor(Protocol):
    """Where trials run."""

    slots: int
    """How many may run at once."""
    devices: int
    """Devices of each."""

    def start(self, arguments: Sequence[str], slot: int, output: Path, claim: TextIO) -> Job:
        """Starts `run.py` with arguments in a slot; the job holds the claim too."""


class Hardware(NamedTuple):
    """What JAX finds here."""

    platform: str
    """ "cpu", "gpu" or "tpu"."""
    devices: int
    memory: int | None
    """Bytes of a device; None where it shares that of the machine."""


def probe() -> Hardware:
    """What JAX finds here, asked in a process of its own: one that asks takes memory of devices.

    Raises:
      UserError: JAX does not start.
    """
    asked = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, text=True)
    try:
        return Hardware(*json.loads(asked.stdout.splitlines()[-1]))
    except (ValueError, IndexError, TypeError) as error:
        said = (asked.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UserError(f"JAX finds no device: {said}") from error


class LocalProcesses:
    """Trials as processes of this machine.

    Args:
      door: `run.py`.
      hardware: what there is.
      most: how many could run at once.
      max_parallel: trials at once; 0 for as many as there is room for: one for every share of
        devices, or one for every core without an accelerator.
      devices_per_trial: devices of each; without an accelerator the CPU is split.

    Raises:
      UserError: a trial is to have more devices than there are.
    """

    def __init__(
        self,
        door: Path,
        hardware: Hardware,
        most: int,
        max_parallel: int,
        devices_per_trial: int,
    ) -> None:
        on_cpu = hardware.platform == "cpu"
        require(
            on_cpu or devices_per_trial <= hardware.devices,
            f"--devices-per-trial={devices_per_trial}, but there are {hardware.devices} of "
            f"{hardware.platform}: give at most that many.",
        )
        room = cores() if on_cpu else hardware.devices
        self._shares = max(1, room // devices_per_trial)
        self.slots = min(most, max_parallel or self._shares)
        self.devices = devices_per_trial
        self._door = door
        self._platform = hardware.platform

    def environment(self, slot: int, inherited: Mapping[str, str]) -> dict[str, str]:
        """The variables that give a slot its share of the machine.

        Args:
          slot: from 0.
          inherited: the variables of this process.
        """
        found = dict(inherited)
        threads = str(max(1, cores() // self.slots))
        for name in _THREADS if self.slots > 1 else ():
            found.setdefault(name, threads)
        if self._platform == "cpu":
            if self.devices > 1:
                flags = re.sub(rf"{_COUNT}=\d+", "", found.get("XLA_FLAGS", ""))
                found["XLA_FLAGS"] = f"{flags} {_COUNT}={self.devices}".strip()
            return found
        share = slot % self._shares
        mine = range(share * self.devices, (share + 1) * self.devices)
        variable = "TPU_VISIBLE_CHIPS" if self._platform == "tpu" else "CUDA_VISIBLE_DEVICES"
        visible = [name for name in found.get(variable, "").split(",") if name]
        found[variable] = ",".join(visible[i] if visible else str(i) for i in mine)
        if self._platform == "tpu":
            found["TPU_PROCESS_BOUNDS"] = "1,1,1"
            found["TPU_CHIPS_PER_PROCESS_BOUNDS"] = f"1,{self.devices},1"
        sharing = -(-self.slots // self._shares)  # trials on the same devices
        if self._platform == "gpu" and sharing > 1:
            found.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", f"{0.9 / sharing:.2f}")
        return found

    def start(self, arguments: Sequence[str], slot: int, output: Path, claim: TextIO) -> Job:
        """Starts `run.py` with arguments in a slot; its output is appended to a file."""
        with output.open("a") as file:
            process = subprocess.Popen(
                [sys.executable, str(self._door), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=self.environment(slot, os.environ),
                pass_fds=[claim.fileno()],
                start_new_session=True,  # Ctrl-C is for the sweep, which then asks its trials
            )
        return _Process(process)


class _Process:
    """A trial in a process of its own."""

    def __init__(self, process: subprocess.Popen) -> None:
        self._process = process

    def poll(self) -> int | None:
        return self._process.poll()

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self._process.kill()


def cores() -> int:
    """How many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
