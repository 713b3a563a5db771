"""What a run sets up in its own process."""

import subprocess
import sys
from pathlib import Path

import pytest

# Takes, fills and frees 64 MB again and again; tells the pages that the system makes in the last turn.
_TURNS = """
import ctypes, resource
import jax
{before}
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
for _ in range(3):
    begun = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    memory = libc.malloc(ctypes.c_size_t(2**26))
    ctypes.memset(memory, 1, 2**26)
    libc.free(ctypes.c_void_p(memory))
    made = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - begun
print(made)
"""
_PREPARE = "from missing_bits.loop.process import prepare_cpu; prepare_cpu()"


def pages_made(before):
    """Pages of the last of three turns, in a process of its own."""
    command = [sys.executable, "-c", _TURNS.format(before=before)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout)


def makes_small_pages():
    """Whether the system makes memory in pages of 4 KB, unless it is asked for larger ones."""
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return setting.is_file() and "[always]" not in setting.read_text()


@pytest.mark.skipif(not makes_small_pages(), reason="few pages are made in any case")
def test_memory_that_was_freed_stays_for_the_next_update():
    assert pages_made(_PREPARE) < 50
    assert pages_made("") > 1_000, "or there is no need for it"
