"""A run that was killed, stopped, damaged or starved of disk space ends exactly like one that nothing disturbed."""

import json
import os
import pathlib
import random
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest

from missing_bits.loop import train


def kill_and_resume(runs, command, folder, kills, seed):
    """Kill a run `kills` times at random moments, resuming it each time; then let it finish. Tell the moments."""
    rng, moments = random.Random(seed), []
    while len(moments) < kills:
        begun = (folder / "config.json").exists()
        run = runs.start(
            command[0], *(["--run.resume"] if begun else command[1:]), f"--run.dir={folder}"
        )
        lines = rng.choice([0, 1, 1, 2, 3, 4])
        seconds = (
            rng.uniform(0, 0.02) if lines else rng.uniform(0, 2)
        )  # without lines: while it starts
        run.wait_for_lines(lines)
        time.sleep(seconds)
        run.kill(signal.SIGKILL)
        status = run.wait()
        moments.append((lines, round(seconds, 4), run.out.count("\n")))
        assert status == -signal.SIGKILL, (
            f"ended before it was killed, moments {moments}\n{run.out}\n{run.err}"
        )
        assert "Traceback" not in run.err, run.err
    run = runs.finish(command[0], f"--run.dir={folder}", "--run.resume")
    assert run.err == ""  # in particular no checkpoint was found damaged
    return moments


def test_sigkill_at_random_moments(runs, tiny, uninterrupted, outcome, tmp_path):
    """Parameters, optimizer, replay, target, counters, environments (the digest), rows and evaluation are the same."""
    seed = 20240607
    moments = kill_and_resume(runs, tiny, tmp_path / "run", kills=12, seed=seed)
    assert outcome(tmp_path / "run") == outcome(uninterrupted), f"seed {seed}, moments {moments}"
    assert sum(made > 0 for _, _, made in moments) >= 6, (
        f"most kills must interrupt training: {moments}"
    )


def test_sigkill_with_environments_on_the_device(runs, tiny, outcome, tmp_path):
    command, seed = [*tiny, "--env=phys2d/CartPole-v1"], 7
    runs.finish(*command, f"--run.dir={tmp_path / 'whole'}")
    moments = kill_and_resume(runs, command, tmp_path / "run", kills=4, seed=seed)
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole"), (
        f"seed {seed}, moments {moments}"
    )


def test_sigkill_while_images_are_fetched_ahead(runs, outcome, tmp_path):
    """The data's order, random keys, batch statistics, optimizer and the encoder handed over are the same."""
    sizes = ["--updates=60", "--batch-size=16", "--projector-sizes", "16", "16"]
    periods = ["--run.log-period=2", "--run.eval-period=30", "--run.checkpoint-period=6"]
    command = ["--exp=barlow_twins", "--data=digits", *sizes, *periods]
    runs.finish(*command, f"--run.dir={tmp_path / 'whole'}")
    moments = kill_and_resume(runs, command, tmp_path / "run", kills=3, seed=11)
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole"), f"moments {moments}"
    encoders = [
        (tmp_path / run / "encoder" / "seed0.safetensors").read_bytes() for run in ("whole", "run")
    ]
    assert encoders[0] == encoders[1]


def test_sigkill_of_a_language_model(runs, outcome, tmp_path):
    """The order of rows, masks, dropout, optimizer, encoder and head handed over are the same."""
    sizes = ["--network=bert_tiny", "--length=32", "--batch-size=8", "--updates=40"]
    periods = ["--run.log-period=2", "--run.eval-period=20", "--run.checkpoint-period=6"]
    command = ["--exp=masked_language", "--data=topics", *sizes, *periods]
    runs.finish(*command, f"--run.dir={tmp_path / 'whole'}")
    moments = kill_and_resume(runs, command, tmp_path / "run", kills=2, seed=3)
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole"), f"moments {moments}"
    encoders = [
        (tmp_path / run / "encoder" / "seed0.safetensors").read_bytes() for run in ("whole", "run")
    ]
    assert encoders[0] == encoders[1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_saves_and_names_the_command_that_resumes(
    number, runs, tiny, uninterrupted, outcome, root, tmp_path
):
    folder = tmp_path / "a run's folder"  # whose name the shell must not take apart
    run = runs.start(*tiny, f"--run.dir={folder}")
    run.wait_for_lines(5)
    os.kill(run.pid, number)
    assert run.wait() == 128 + number, run.err
    assert run.err == ""
    assert not (folder / "result.json").exists()
    *_, said, command = run.out.splitlines()
    assert signal.Signals(number).name in said
    python, *arguments = shlex.split(command)
    assert python == "python"
    subprocess.run([sys.executable, *arguments], cwd=root, check=True, stdout=subprocess.DEVNULL)
    assert outcome(folder) == outcome(uninterrupted)


def test_a_second_interrupt_stops_at_once():
    with train._Signals() as signals:
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.received == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_killed_between_the_last_checkpoint_and_the_result(runs, uninterrupted, outcome, tmp_path):
    folder = shutil.copytree(uninterrupted, tmp_path / "run")
    for name in ("result.json", "learning_curve.png", "episode.gif"):
        (folder / name).unlink()
    runs.finish("--exp=dqn", f"--run.dir={folder}", "--run.resume")
    assert outcome(folder) == outcome(uninterrupted)
    assert {"learning_curve.png", "episode.gif"} <= {path.name for path in folder.iterdir()}


def test_resuming_a_finished_run_changes_nothing(runs, uninterrupted, hashes, tmp_path):
    folder = shutil.copytree(uninterrupted, tmp_path / "run")
    before = hashes(folder)
    run = runs.finish("--exp=dqn", f"--run.dir={folder}", "--run.resume")
    assert "finished" in run.out
    after = hashes(folder)
    assert {name: after[name] for name in before} == before


def damage_newest(folder, how):
    newest = max((folder / "checkpoints").iterdir(), key=lambda path: int(path.name))
    file = max(
        (path for path in newest.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size
    )
    if how == "truncated":
        os.truncate(file, file.stat().st_size // 2)
    else:
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 0xFF
        file.write_bytes(data)
    return newest


@pytest.mark.parametrize("all_of_them", [False, True])
def test_damaged_checkpoints_fall_back_to_the_same_end(
    all_of_them, runs, uninterrupted, outcome, tmp_path
):
    """To the one before, or to the start where none is whole."""
    folder = shutil.copytree(uninterrupted, tmp_path / "run")
    (folder / "result.json").unlink()
    kept = len(list((folder / "checkpoints").iterdir()))
    assert kept >= 2
    for how in ["truncated", "flipped", "truncated"][: kept if all_of_them else 1]:
        newest = damage_newest(folder, how)
        if all_of_them:
            newest.rename(folder / newest.name)  # out of sight of `max`
    for path in [p for p in folder.iterdir() if p.name.isdigit()]:
        path.rename(folder / "checkpoints" / path.name)
    run = runs.finish("--exp=dqn", f"--run.dir={folder}", "--run.resume")
    warnings = run.err.splitlines()
    assert len(warnings) == (kept if all_of_them else 1)
    assert all(
        line.startswith("warning: The checkpoint at update ") and "damaged" in line
        for line in warnings
    )
    assert outcome(folder) == outcome(uninterrupted)


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
    assert int(resumed.out.split()[0].replace(",", "")) > 20  # and it went on from one of them
    assert outcome(folder) == outcome(uninterrupted)


@pytest.mark.parametrize(
    "limit", [1_000, 5_000]
)  # bytes: rows of metrics.jsonl no longer fit; checkpoints neither
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


def test_a_disk_that_fills_up_in_mid_run(small_disk, runs, tiny, uninterrupted, outcome):
    run = runs.start(*tiny, f"--run.dir={small_disk / 'run'}")
    run.wait_for_lines(8)
    ballast = small_disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while file.write(b"x" * 4096):
                pass
        except OSError:
            pass
    refused_and_resumed(run, runs, small_disk / "run", ballast.unlink, uninterrupted, outcome)


def test_a_disk_that_is_full_at_the_start(small_disk, runs, tiny):
    with (small_disk / "ballast").open("wb", buffering=0) as file:
        file.truncate(0)
        try:
            while file.write(b"x" * 4096):
                pass
        except OSError:
            pass
    run = runs.start(*tiny, f"--run.dir={small_disk / 'run'}")
    assert run.wait() == 2
    assert len(run.err.splitlines()) == 1, run.err
    assert "cannot be written" in run.err


@pytest.mark.parametrize("env", ["CartPole-v1", "phys2d/CartPole-v1"])
def test_evaluating_and_saving_leave_training_as_it_is(env, runs, tiny, tmp_path):
    """However often a run is evaluated, logged and saved, it learns the same, to the last bit."""
    digests = set()
    for period in (20, 400):
        folder = tmp_path / str(period)
        periods = [f"--run.{name}-period={period}" for name in ("eval", "log", "checkpoint")]
        runs.finish(*tiny, f"--env={env}", "--env-steps=400", *periods, f"--run.dir={folder}")
        digests.add(json.loads((folder / "result.json").read_text())["digest"])
    assert len(digests) == 1
    assert (
        pathlib.Path(folder / "metrics.jsonl").read_text().count("\n") == 2
    )  # one row, one evaluation
