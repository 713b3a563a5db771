"""What a trial's process gets of the machine."""

import pathlib
import time

import pytest

from missing_bits.errors import UserError
from missing_bits.sweeps import machine
from missing_bits.sweeps.machine import Hardware, LocalProcesses

DOOR = pathlib.Path("run.py")


def local(platform, devices=1, most=99, parallel=0, each=1):
    return LocalProcesses(DOOR, Hardware(platform, devices, None), most, parallel, each)


def test_jax_is_asked_what_there_is():
    import jax

    assert machine.probe()[:2] == (jax.default_backend(), jax.local_device_count())


def test_jax_that_does_not_start_is_told(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "abacus")
    with pytest.raises(UserError, match="JAX finds no device"):
        machine.probe()


def test_cores_are_shared(monkeypatch):
    monkeypatch.setattr(machine, "cores", lambda: 8)
    assert local("cpu").slots == 8
    assert local("cpu", most=3).slots == 3
    assert local("cpu", each=4).slots == 2
    assert local("cpu", parallel=2).environment(1, {})["NPROC"] == "4"
    assert local("cpu", parallel=1).environment(0, {"A": "b"}) == {"A": "b"}  # all is its own
    split = local("cpu", each=2).environment(0, {"XLA_FLAGS": f"--a {machine._COUNT}=4"})
    assert split["XLA_FLAGS"].split() == ["--a", f"{machine._COUNT}=2"]


def test_every_slot_sees_its_own_devices():
    gpus = local("gpu", 4, each=2)
    assert gpus.slots == 2
    assert gpus.environment(0, {})["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert gpus.environment(1, {})["CUDA_VISIBLE_DEVICES"] == "2,3"
    some = {"CUDA_VISIBLE_DEVICES": "5,7,GPU-ab,1"}
    assert gpus.environment(1, some)["CUDA_VISIBLE_DEVICES"] == "GPU-ab,1"
    assert "XLA_PYTHON_CLIENT_MEM_FRACTION" not in gpus.environment(0, {})
    shared = local("gpu", 1, parallel=3).environment(2, {})
    assert shared["CUDA_VISIBLE_DEVICES"] == "0"
    assert shared["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.30"
    chip = local("tpu", 4).environment(3, {})
    assert chip["TPU_VISIBLE_CHIPS"] == "3"
    assert chip["TPU_CHIPS_PER_PROCESS_BOUNDS"] == "1,1,1"
    with pytest.raises(UserError, match="there are 2 of gpu"):
        local("gpu", 2, each=3)


def test_a_process_is_begun_stopped_and_its_output_kept(tmp_path):
    script = tmp_path / "run.py"
    script.write_text("import sys, time\nprint(sys.argv[1:], flush=True)\ntime.sleep(60)\n")
    executor = LocalProcesses(script, Hardware("cpu", 1, None), 1, 1, 1)
    with (tmp_path / "claim").open("w") as claim:
        job = executor.start(["--a", "b c"], 0, tmp_path / "log", claim)
    while not (tmp_path / "log").read_text():
        time.sleep(0.01)
    assert job.poll() is None
    job.stop()
    while job.poll() is None:
        time.sleep(0.01)
    assert job.poll() == -15
    assert (tmp_path / "log").read_text() == "['--a', 'b c']\n"
