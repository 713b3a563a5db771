"""A real run that was killed, stopped or starved of disk space ends like one that nothing disturbed.

Kills at every event, with every kind of source, are tests of toys (test_runs.py).
"""

import os
import random
import resource
import shlex
import shutil
import signal
import subprocess
import time

import pytest

from missing_bits.loop.process import Owner


def kill_and_resume(runs, command, folder, kills, seed):
    """Kill a run at random moments, resuming it each time; then let it finish. Tell the moments."""
    rng = random.Random(seed)
    moments = []
    while len(moments) < kills:
        begun = (folder / "config.json").exists()
        options = ["--run.resume"] if begun else command[1:]
        run = runs.start(command[0], *options, f"--run.dir={folder}")
        lines = rng.choice([0, 1, 1, 2, 3, 4])
        # Without lines: while it starts.
        seconds = rng.uniform(0, 0.02) if lines else rng.uniform(0, 2)
        run.wait_for_lines(lines)
        time.sleep(seconds)
        run.kill(signal.SIGKILL)
        status = run.wait()
        moments.append((lines, round(seconds, 4), run.rows))
        assert status == -signal.SIGKILL, (
            f"ended before it was killed, moments {moments}\n{run.out}\n{run.err}"
        )
        assert "Traceback" not in run.err, run.err
    run = runs.finish(command[0], f"--run.dir={folder}", "--run.resume")
    assert run.err == ""  # in particular no checkpoint was found damaged
    return moments


def test_sigkill_at_random_moments(runs, tiny, uninterrupted, outcome, tmp_path):
    """Parameters, optimizer, replay, target, counters, environments, rows and evaluation."""
    seed = 20240607
    moments = kill_and_resume(runs, tiny, tmp_path / "run", kills=5, seed=seed)
    assert outcome(tmp_path / "run") == outcome(uninterrupted), f"seed {seed}, moments {moments}"
    assert sum(made > 0 for _, _, made in moments) >= 3, (
        f"most kills must interrupt training: {moments}"
    )


def test_a_signal_saves_and_names_the_command_that_resumes(
    runs, tiny, uninterrupted, outcome, root, tmp_path
):
    folder = tmp_path / "a run's folder"  # whose name the shell must not take apart
    run = runs.start(*tiny, f"--run.dir={folder}")
    run.wait_for_lines(5)
    os.kill(run.pid, signal.SIGTERM)
    assert run.wait() == 128 + signal.SIGTERM, run.err
    assert run.err == ""
    assert not (folder / "result.json").exists()
    said, command = run.out.splitlines()[-2:]
    assert "SIGTERM" in said
    words = shlex.split(command)
    assert words[:2] == ["python", str(root / "run.py")]
    assert f"--run.dir={folder}" in words, "it works from any folder"
    runs.finish(*words[2:])
    assert outcome(folder) == outcome(uninterrupted)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_an_owner_hears_signals_and_a_second_interrupt_stops_at_once(number):
    outside = signal.signal(number, signal.SIG_DFL)  # the tests may run under nohup
    with Owner() as owner:
        os.kill(os.getpid(), number)
        assert owner.received == number
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(number) == signal.SIG_DFL
    signal.signal(number, outside)


def test_under_nohup_a_terminal_that_closes_is_nothing():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with Owner() as owner:
        os.kill(os.getpid(), signal.SIGHUP)
        assert owner.received == 0
    signal.signal(signal.SIGHUP, before)


def refused_and_resumed(run, runs, folder, relieve, uninterrupted, outcome):
    assert run.wait() == 2, run.out + run.err
    lines = run.err.splitlines()
    assert len(lines) == 1, run.err
    assert lines[0].startswith("error: ")
    assert "written" in lines[0]
    assert "--run.resume" in lines[0]
    relieve()
    resumed = runs.finish("--exp=dqn", f"--run.dir={folder}", "--run.resume")
    assert resumed.err == ""  # earlier checkpoints were whole
    # And it went on from one of them.
    assert int(resumed.out.splitlines()[1].split()[0].replace(",", "")) > 20
    assert outcome(folder) == outcome(uninterrupted)


# In bytes: rows of metrics.jsonl no longer fit; checkpoints neither.
@pytest.mark.parametrize("limit", [1_000, 5_000])
def test_writes_refused_in_mid_run(limit, runs, tiny, uninterrupted, outcome, tmp_path):
    """A file-size limit set on the live run stands in for a full disk; it needs no rights."""
    folder = tmp_path / "run"
    run = runs.start(*tiny, f"--run.dir={folder}")
    run.wait_for_lines(8)
    _, hard = resource.prlimit(run.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(run.pid, resource.RLIMIT_FSIZE, (limit, hard))
    refused_and_resumed(run, runs, folder, lambda: None, uninterrupted, outcome)


@pytest.fixture
def small_disk(tmp_path):
    """Return a disk of two megabytes, mounted for the test."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def fill(disk):
    """Leave no room on a disk; return the file that takes it."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while file.write(b"x" * 4096):
                pass
        except OSError:
            pass
    return ballast


def test_a_disk_that_fills_up_in_mid_run(small_disk, runs, tiny, uninterrupted, outcome):
    run = runs.start(*tiny, f"--run.dir={small_disk / 'run'}")
    run.wait_for_lines(8)
    ballast = fill(small_disk)
    refused_and_resumed(run, runs, small_disk / "run", ballast.unlink, uninterrupted, outcome)


def test_a_disk_that_is_full_at_the_start(small_disk, runs, tiny):
    fill(small_disk)
    run = runs.start(*tiny, f"--run.dir={small_disk / 'run'}")
    assert run.wait() == 2
    assert len(run.err.splitlines()) == 1, run.err
    assert "cannot be written" in run.err
