"""Start runs quickly: import what `run.py` needs once, then fork a process for every command line.

Each line of standard input is a JSON object, each is answered by a line:
{"start": arguments, "output": path, "environ": {...}} by the process id, which is also its process
group's; {"status": process id} by the exit status (a signal is negative), or null while it runs.
JAX's modules are loaded before the fork, but no backend and none of its threads is started.
"""

import importlib
import json
import os
import pathlib
import runpy
import sys

HEAVY = """missing_bits.agents.dqn missing_bits.commands.command_line missing_bits.loop.train
    missing_bits.ssl.barlow_twins orbax.checkpoint orbax.checkpoint.checkpoint_managers
    tensorboardX.record_writer matplotlib.figure PIL.Image"""
RUN = str(pathlib.Path(__file__).resolve().parents[2] / "run.py")


def start(arguments: list[str], output: str, environ: dict[str, str]) -> int:
    """Fork a run that writes `output`.out and `output`.err; return its process id."""
    if pid := os.fork():
        os.setpgid(pid, pid)
        return pid
    os.setpgid(0, 0)
    os.environ.update(environ)
    for descriptor, suffix in ((1, ".out"), (2, ".err")):
        os.dup2(os.open(output + suffix, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    sys.argv = [RUN, *arguments]
    runpy.run_path(RUN, run_name="__main__")  # leaves through sys.exit
    raise AssertionError("run.py did not exit")


def status(pid: int) -> int | None:
    """Return the exit status of a run, None while it lives."""
    if pid not in ended:
        found, code = os.waitpid(pid, os.WNOHANG)
        if not found:
            return None
        ended[pid] = os.waitstatus_to_exitcode(code)
    return ended[pid]


for module in HEAVY.split():
    importlib.import_module(module)
ended: dict[int, int] = {}
for line in sys.stdin:
    request = json.loads(line)
    if "start" in request:
        answer = start(request["start"], request["output"], request["environ"])
    else:
        answer = status(request["status"])
    print(json.dumps(answer), flush=True)
