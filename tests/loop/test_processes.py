"""Real runs that share a folder of compiled programs: nothing is compiled twice, whatever dies."""

import json
import signal

import pytest

COMMANDS = {
    "dqn": """--exp=dqn --env=jax/CartPole-v1 --env-steps=72 --num-envs=4 --hidden-sizes 16 16
        --batch-size=16 --replay-capacity=400 --learning-starts=30 --train-period=6 --n-step=3
        --eval-episodes=2""",
    "barlow_twins": """--exp=barlow_twins --data=digits --network=vit_nano --updates=30
        --batch-size=16 --projector-sizes 32 32 --probe-images=100 --run.log-period=2
        --run.eval-period=30 --run.checkpoint-period=6""",
}
OTHER = {
    "dqn": ["--learning-rate=1e-3", "--discount=0.9"],
    "barlow_twins": ["--optimizer.learning-rate=1e-3", "--off-diagonal=0.01"],
}


class Cold:
    """A run of an experiment with an empty cache, and what comes after it."""

    def __init__(self, exp, runs, folder):
        self.exp = exp
        self.runs = runs
        self.first = folder / "first"
        self.home = folder / "home"
        self._cache = folder / "cache"
        self._environ = {"XDG_CACHE_HOME": str(self._cache), "HOME": str(self.home)}
        self.finish(*self.command, f"--run.dir={self.first}")
        self.kept = self.entries()

    @property
    def command(self):
        return COMMANDS[self.exp].split()

    def start(self, *arguments):
        """Start a run that finds the programs."""
        return self.runs.start(*arguments, **self._environ)

    def finish(self, *arguments):
        """Run to the end with the programs."""
        return self.runs.finish(*arguments, **self._environ)

    def entries(self):
        """The compiled programs that are kept."""
        return {path.name for path in (self._cache / "missing_bits" / "jax").glob("*-cache")}


@pytest.fixture(scope="module")
def cold(runs, tmp_path_factory):
    """Return the function that makes the first run of an experiment, once."""
    made = {}

    def cold(exp):
        if exp not in made:
            made[exp] = Cold(exp, runs, tmp_path_factory.mktemp(exp))
        return made[exp]

    return cold


def digest_of(folder):
    return json.loads((folder / "result.json").read_text())["digest"]


@pytest.mark.parametrize("exp", COMMANDS)
def test_a_second_process_with_other_numbers_and_another_seed_compiles_nothing(exp, cold, tmp_path):
    """Not for evaluation and pictures either: all that a run compiles is kept."""
    cold = cold(exp)
    assert len(cold.kept) > 5
    cold.finish(*cold.command, *OTHER[exp], "--run.seed=7", f"--run.dir={tmp_path / 'second'}")
    assert cold.entries() - cold.kept == set()
    assert digest_of(cold.first) != digest_of(tmp_path / "second")
    assert not list(cold.home.rglob("*jax*"))


def test_sigkill_while_images_are_fetched_ahead(cold, outcome, tmp_path):
    """The data's order, keys, batch statistics, optimizer and the encoder that is handed over."""
    cold = cold("barlow_twins")
    folder = tmp_path / "run"
    run = cold.start(*cold.command, f"--run.dir={folder}")
    run.wait_for_lines(5)
    run.kill(signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL, run.err
    assert run.rows < 15, "the kill must interrupt training"
    resumed = cold.finish("--exp=barlow_twins", f"--run.dir={folder}", "--run.resume")
    assert resumed.err == ""
    assert outcome(folder) == outcome(cold.first)
    encoders = [run / "encoder" / "seed0.safetensors" for run in (cold.first, folder)]
    assert encoders[0].read_bytes() == encoders[1].read_bytes()
    assert cold.entries() - cold.kept == set()


def test_compiled_programs_are_not_kept_where_that_is_unwanted(runs, tmp_path):
    cache = tmp_path / "cache"
    environ = {"XDG_CACHE_HOME": str(cache), "HOME": str(tmp_path / "home")}
    command = [*COMMANDS["dqn"].split(), "--run.no-compilation-cache"]
    runs.finish(*command, f"--run.dir={tmp_path / 'run'}", **environ)
    assert not cache.exists()
    assert not list((tmp_path / "home").rglob("*jax*"))
