"""How trials are driven, with jobs that write what processes would."""

import json
import signal
import threading

import pytest

from missing_bits.loop.process import Guest
from missing_bits.sweeps.drive import Drive, Stopped
from missing_bits.sweeps.folder import Folder
from missing_bits.sweeps.pruners import halving

CONFIG = {
    "run": {"num_seeds": 1},
    "headline": {"name": "eval/x", "larger_is_better": True},
    "budget": 90,
}


class Job:
    """A job that does what it is told after some looks, or when it is stopped."""

    def __init__(self, executor, name, looks):
        self.executor = executor
        self.name = name
        self.looks = looks
        self.status = None

    def poll(self):
        self.looks -= 1
        if self.status is None and self.looks <= 0:
            self.status = self.executor.finish(self.name)
            self.executor.running -= 1
        return self.status

    def stop(self):
        if self.status is None:
            self.executor.stopped.append(self.name)
            self.executor.running -= 1
            self.status = 143

    def kill(self):
        self.status = -9


class Executor:
    """Jobs that end as they are told: name -> list of statuses, one for each attempt."""

    devices = 1

    def __init__(self, folder, statuses=None, slots=2, scores=None):
        self.folder = folder
        self.slots = slots
        self.statuses = statuses or {}
        self.scores = scores or {}
        self.started = []
        self.stopped = []
        self.running = 0
        self.most = 0

    def start(self, arguments, slot, output, claim):
        name = arguments[-1]
        self.started.append((name, slot))
        self.running += 1
        self.most = max(self.most, self.running)
        path = self.folder.trial_path(name)
        path.mkdir(exist_ok=True)
        (path / "config.json").write_text(json.dumps(CONFIG))
        curve = self.scores.get(name, {})
        rows = [{"step": step, "seed": 0, "eval/x": x} for step, x in curve.items()]
        (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        output.write_text(f"working\nerror: {name} fell\n")
        return Job(self, name, looks=2)

    def finish(self, name):
        left = self.statuses.get(name)
        status = left.pop(0) if left else 0
        if status == 0:
            path = self.folder.trial_path(name)
            (path / "result.json").write_text(json.dumps({"eval/x": 1.0}))
        return status


class Watcher:
    """Keeps what it is told."""

    def __init__(self):
        self.ends = []

    def began(self, work):
        pass

    def ended(self, name, standing, seconds):
        self.ends.append((name, standing.state))

    def looked(self):
        pass


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr("missing_bits.sweeps.drive._PAUSE", 0.001)


def drive(folder, executor, count=5, pruner=None):
    watcher = Watcher()
    names = [f"{number:04d}" for number in range(count)]
    works = {name: [name] for name in names}
    Drive(folder, works, lambda name: ["run", name], executor, pruner, "sweep", watcher).run()
    return watcher


def test_every_trial_is_done_once_with_no_more_at_once_than_there_is_room(tmp_path):
    folder = Folder(tmp_path)
    executor = Executor(folder)
    watcher = drive(folder, executor)
    assert sorted(name for name, _ in executor.started) == [f"{i:04d}" for i in range(5)]
    assert executor.most == 2
    assert {slot for _, slot in executor.started} == {0, 1}
    assert [state for _, state in watcher.ends] == ["finished"] * 5
    again = Executor(folder)
    assert drive(folder, again).ends == []
    assert again.started == []


def test_a_trial_that_fails_says_why_and_the_others_go_on(tmp_path):
    folder = Folder(tmp_path)
    executor = Executor(folder, {"0001": [2]})
    drive(folder, executor, 3)
    standing = folder.standing("0001")
    assert (standing.state, standing.why) == ("failed", "0001 fell")
    ended = json.loads((folder.trial_path("0001") / "ended.json").read_text())
    assert ended["resume"] == "sweep"
    assert folder.standing("0002").state == "finished"
    drive(folder, again := Executor(folder), 3)
    assert again.started == []  # it is not tried again unasked


def test_a_killed_process_is_begun_again_but_not_for_ever(tmp_path):
    folder = Folder(tmp_path)
    killed = -signal.SIGKILL
    executor = Executor(folder, {"0000": [killed, 0], "0001": [killed] * 9})
    drive(folder, executor, 2)
    assert folder.standing("0000").state == "finished"
    assert folder.standing("0001").state == "failed"
    assert "killed by SIGKILL 3 times" in folder.standing("0001").why
    assert [name for name, _ in executor.started].count("0001") == 3


def test_a_trial_that_somebody_stops_is_left_for_the_next_time(tmp_path):
    folder = Folder(tmp_path)
    drive(folder, Executor(folder, {"0000": [143]}), 2)
    assert folder.standing("0000").state == "open"
    drive(folder, again := Executor(folder), 2)
    assert [name for name, _ in again.started] == ["0000"]


def test_several_sweepers_share_a_folder(tmp_path):
    folder = Folder(tmp_path)
    executors = [Executor(folder) for _ in range(2)]
    errors = []

    def work(executor):
        watcher = Watcher()
        names = [f"{number:04d}" for number in range(20)]
        sweeper = Drive(
            folder, {n: [n] for n in names}, lambda n: ["run", n], executor, None, "sweep", watcher
        )
        try:
            sweeper.drive(Guest())  # threads take no signals
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=[executor]) for executor in executors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    started = [name for executor in executors for name, _ in executor.started]
    assert sorted(started) == [f"{i:04d}" for i in range(20)]


def test_what_another_process_works_on_is_waited_for(tmp_path):
    folder = Folder(tmp_path)
    claim = folder.claim("0000")
    executor = Executor(folder)
    timer = threading.Timer(0.2, claim.close)  # it dies
    timer.start()
    drive(folder, executor, 1)
    timer.join()
    assert [name for name, _ in executor.started] == ["0000"]


def test_a_signal_stops_all_and_they_go_on_next_time(tmp_path):
    folder = Folder(tmp_path)
    executor = Executor(folder)
    count = 0

    class Interrupts(Watcher):
        def looked(self):
            nonlocal count
            count += 1
            if count == 2:
                signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    names = [f"{number:04d}" for number in range(9)]
    sweeper = Drive(
        folder, {n: [n] for n in names}, lambda n: ["run", n], executor, None, "sweep", Interrupts()
    )
    with pytest.raises(Stopped) as stopped:
        sweeper.run()
    assert stopped.value.signal == signal.SIGTERM
    assert len(executor.stopped) == 2
    assert signal.getsignal(signal.SIGTERM) is before
    drive(folder, again := Executor(folder), 9)
    done = [name for name, _ in again.started]
    assert len(done) == len(set(done))
    assert all(folder.standing(name).state == "finished" for name in names)


@pytest.mark.parametrize("finishes", [True, False])
def test_pruning_follows_from_curves_even_of_a_trial_that_was_quicker(tmp_path, finishes):
    """Whether the bad trial is caught while it runs or has finished before: the same verdict."""
    folder = Folder(tmp_path)
    scores = {"0000": {10: 5.0, 30: 6.0, 90: 9.0}, "0001": {10: 1.0, 30: 9.0}}
    executor = Executor(folder, scores=scores, slots=1)
    if finishes:
        executor.start = _quick(executor.start)
    drive(folder, executor, 2, halving)
    assert folder.standing("0000").state == "finished"
    pruned = folder.standing("0001")
    assert (pruned.state, pruned.score) == ("pruned", 1.0)
    assert pruned.why == "pruned at step 10 with 1"
    assert folder.pruned_at("0001") == 10
    assert not (folder.trial_path("0001") / "result.json").exists()  # for who reads run folders


def _quick(start):
    def begin(*arguments):
        job = start(*arguments)
        job.looks = 1
        return job

    return begin
