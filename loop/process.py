"""What a run may do to the process it runs in: nothing as a guest, or what serves it as the owner.

`run.py` owns its process. A notebook, a test or a program that calls `loop.train.train` does not
lend its signals, environment variables, warnings, logging or `jax.config`.
"""

import ctypes
import os
import signal
import warnings
from pathlib import Path
from typing import Self

import jax

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's mallopt, in malloc.h


class Guest:
    """Somebody else's process: nothing in it is touched, and nothing asks the run to stop."""

    received = 0  # the signal that asks to stop, 0 for none

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def before_computing(self, devices: int, keep_programs: bool) -> None:
        """To be called before JAX computes anything."""

    def knows_size(self, small: bool) -> None:
        """To be called once it is known whether updates are small."""


class Owner(Guest):
    """The run's own process, from the command line to the end.

    SIGINT, SIGTERM and SIGHUP (a terminal that closes) become a request to stop at the next update;
    a second SIGINT stops at once.
    """

    def __enter__(self) -> Self:
        stopping = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup
            stopping.append(signal.SIGHUP)
        self._before = {number: signal.signal(number, self._note) for number in stopping}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: object) -> None:
        self.received = number
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def before_computing(self, devices: int, keep_programs: bool) -> None:
        """Sets JAX up for a run: `prepare_cpu`, few threads, compiled programs kept on disk.

        Sharing a small program among threads takes longer than running it; XLA reads NPROC when it
        first computes, which making some environments already does: hence the variable stands
        before, and is taken back if updates turn out not to be small.
        """
        prepare_cpu()
        if keep_programs:
            keep_compiled_programs()
        self._limited = "NPROC" not in os.environ
        if self._limited:
            os.environ["NPROC"] = str(devices)

    def knows_size(self, small: bool) -> None:
        """Gives XLA all threads again where updates are not small."""
        if self._limited and not small:
            del os.environ["NPROC"]


def prepare_cpu() -> None:
    """Sets JAX up for one update after another on a CPU: answers at once, and memory that stays.

    The loop waits for every small answer anyway: handing it to another thread doubles its time. And
    glibc gives the memory of an update back to the system once it is freed, which then has to make
    the same pages again for the next one; another C library is left as it is.
    """
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, -1)  # never
        mallopt(_MMAP_THRESHOLD, 2**30)  # what is larger, as a replay, is mapped on its own


def keep_compiled_programs() -> None:
    """Turns on JAX's persistent compilation cache, unless the environment names one already."""
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    jax.config.update("jax_compilation_cache_dir", str(home / "missing_bits" / "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    # A process killed while it wrote an entry leaves it torn; JAX then compiles anew, and the user
    # need not know.
    warnings.filterwarnings("ignore", "Error reading persistent compilation cache entry")
