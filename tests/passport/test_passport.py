"""A passport for every experiment: what the loop and users rely on, from `TINY` of its module.

    pytest tests/passport -k barlow_twins
    PYTHONPATH=. pytest tests/passport --exp=my_package.my_module:MyMethod

A method is compiled three times: for one row, for two devices that share a row, and for four rows
on two devices, which have resources of their own, made of poisoned numbers. Each run makes twelve
updates.

Floats are summed in another order in each program, so the runs differ in last bits, and two things
make much of them: Adam's first steps, which are signs, and the corners of ReLUs. Methods with an
`Optimizer` therefore move by LARS here, with settings that move parameters by about one percent,
and `TINY` should name a smooth network. Differences are measured against how far a parameter has
moved.
"""

import collections
import dataclasses
import functools
import gc
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from missing_bits import experiments, options
from missing_bits.agents import policies
from missing_bits.encoders import files
from missing_bits.encoders.images import ImageEncoder
from missing_bits.generative import generators
from missing_bits.loop.checkpoint import Checkpoints, digest
from missing_bits.loop.experiment import Acting, Generating, HandingOver, Pretraining
from missing_bits.pictures import features
from missing_bits.tests.loop.drive import Drive, Everything

UPDATES = 12
FEW = 3  # updates before a run is saved
GENTLE = {"name": "lars", "learning_rate": 0.3, "vector_scale": 1e-3}


@dataclasses.dataclass(frozen=True)
class Case:
    """What a passport is issued for."""

    exp: str
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """That differ from `TINY`."""
    rests: str = "$^"
    """The names of leaves of what is learned that do not move, as a pattern."""
    inert: tuple[str, ...] = ()
    """Numbers that these settings do not meet."""
    marked: tuple[str, ...] = ("optimizer.learning-rate",)
    """Numbers that rows must be able to differ in: the step size, weights in the loss."""


_UNMET = ("max-gradient-norm",)
_OF_OTHERS = (
    *_UNMET,
    *("priority-exponent", "priority-correction", "munchausen-temperature", "munchausen-scale"),
)
SHARED = {
    "double_dqn": "dqn",
    "dueling_dqn": "rainbow",
    "prioritized_dqn": "rainbow",
    "noisy_dqn": "rainbow",
    "c51": "rainbow",
    "qr_dqn": "iqn",
    "lstm": "sequences",
    "gru": "sequences",
    "qrnn": "mamba",
    "s4": "mamba",
    "gcn": "graphs",
    "gat": "graphs",
    "graph_network": "graphs",
}
"""Rows that are parts of another: that one's passport is theirs."""
CASES = {
    "dqn": Case("dqn", marked=("learning-rate", "discount", "target-tau"), inert=_OF_OTHERS),
    "dqn on the device": Case(
        "dqn",
        {"env": "jax/CartPole-v1"},
        marked=("learning-rate", "discount", "target-tau"),
        inert=_OF_OTHERS,
    ),
    "rainbow": Case(
        "rainbow",
        {"env": "jax/CartPole-v1", "explore_exponent": 2.0},
        marked=("learning-rate", "discount", "priority-exponent", "priority-correction"),
        inert=(*_UNMET, "munchausen-temperature", "munchausen-scale"),
    ),
    "iqn": Case("iqn", {"env": "jax/CartPole-v1"}, marked=("learning-rate",), inert=_OF_OTHERS),
    "munchausen_dqn": Case(
        "munchausen_dqn",
        {"env": "jax/CartPole-v1", "n_step": 1},
        marked=("learning-rate", "munchausen-temperature", "munchausen-scale"),
        inert=(*_UNMET, "priority-exponent", "priority-correction"),
    ),
    "barlow_twins": Case(
        "barlow_twins", marked=("optimizer.learning-rate", "off-diagonal", "loss-scale")
    ),
    "ibot": Case("ibot", marked=("optimizer.learning-rate", "patch-weight")),
    "mae": Case("mae"),
    "simmim": Case("simmim"),
    "bert": Case("bert", {"data": "short documents"}),
    "gpt": Case("gpt", {"data": "short documents"}),
    "infomax": Case("infomax"),
    "autoencoder": Case("autoencoder"),
    "denoiser": Case("denoiser", {"network": "full_resolution"}),
    # Free bits count only where a latent's divergence, over all devices, is below them.
    "vae": Case("vae", {"free_bits": 0.5}, marked=("optimizer.learning-rate", "beta", "free-bits")),
    "gan": Case(
        "gan",
        {
            "conditional": True,
            "discriminator_norm": "spectral",
            "augmentation": ("translation", "cutout"),
        },
        inert=("gradient-penalty",),
        marked=("optimizer.learning-rate", "r1-weight", "r1-end", "discriminator-rate"),
    ),
    "finetune": Case(
        "finetune",
        {"init_from": "an encoder"},
        inert=("lora-alpha",),
        marked=("optimizer.learning-rate", "classifier-rate"),
    ),
    "lora": Case(
        "lora",
        {"init_from": "an encoder"},
        rests=r"^\.frozen",
        marked=("optimizer.learning-rate", "classifier-rate", "lora-alpha"),
    ),
    "classify": Case("classify", marked=("optimizer.learning-rate", "label-smoothing")),
    "sequences": Case("sequences"),
    "graphs": Case("graphs", marked=("optimizer.learning-rate", "l2")),
    "graphs by samples": Case(
        "graphs",
        {"network": "sage", "layers": 1, "fanout": (2,), "batch_size": 2},
        marked=("optimizer.learning-rate", "l2"),
    ),
    "gin": Case(
        "gin",
        {"data": "cycles", "made_nodes": 60, "made_noise": 1, "layers": 1},
        marked=("optimizer.learning-rate", "l2"),
    ),
    # Its biases of steps, about -5, are moved by less than they are rounded here.
    "mamba": Case(
        "mamba",
        {"task": "adding", "length": 6, "network": "mamba"},
        rests="step_bias",
    ),
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One passport for each case, or for the method that is named on the command line."""
    if "passport" in metafunc.fixturenames:
        exp = metafunc.config.getoption("--exp")
        cases = {exp: CASES.get(exp, Case(exp, marked=()))} if exp else CASES
        metafunc.parametrize("passport", cases.values(), ids=list(cases), indirect=True)


class Passport:
    """A method under its settings; what is asked for is made once.

    Args:
      case: of the method.
      given: the values of settings that stand for a file: its path.
    """

    def __init__(self, case: Case, given: Mapping[str, str]) -> None:
        found = experiments.find(case.exp)
        self.case = case
        self.method = found.method
        config_class = found.module.Config
        settings = {name: given.get(value, value) for name, value in case.settings.items()}
        config = found.config()
        config = options.replace(config, {**found.module.TINY, **settings})
        self.by_lars = "optimizer.name" in options.names(config_class)
        if self.by_lars:
            config = options.replace(config, {"optimizer": GENTLE})
        options.check(config)
        self.method.check(config)
        self.config = config
        self.numbers = options.numbers(config)
        self.traced: collections.Counter[str] = collections.Counter()
        self._where = ""
        self._programs: dict[Any, Any] = {}
        self._batches: dict[int, Any] = {}

    @functools.cached_property
    def resources(self) -> Any:
        return self.method.resources(self.config)

    @functools.cached_property
    def poisoned(self) -> Any:
        """Resources that met no number of any row."""
        nothing = np.full_like(self.numbers, np.nan)
        return self.method.resources(options.with_numbers(self.config, nothing))

    def with_numbers(self, numbers: np.ndarray) -> Any:
        """The configuration with other numbers of a row."""
        return options.with_numbers(self.config, numbers.tolist())

    @functools.cached_property
    def other(self) -> Any:
        """The configuration with all numbers changed a little."""
        return self.with_numbers(self.numbers * np.float32(0.7))

    def drive(self, *seeds: int, configs: Any = None, devices: int = 1) -> Drive:
        """Rows before their first update, with the batches that each seed has alone."""
        drive = Drive(
            self.method,
            configs or self.config,
            list(seeds),
            devices,
            self.resources if len(seeds) == 1 else self.poisoned,
            programs=self._programs,
            room=UPDATES,
        )
        if drive.on_host:
            rows = [self._batches_of(seed) for seed in seeds]
            drive.batches = jax.tree.map(lambda *row: np.concatenate(row, axis=1), *rows)
        return drive

    def _batches_of(self, seed: int) -> Any:
        """What a seed alone learns from; agents of the host act by their first parameters."""
        if seed not in self._batches:
            drive = Drive(
                self.method, self.config, [seed], 1, self.resources, programs=self._programs
            )
            self._batches[seed] = drive.take(UPDATES)
            drive.source.close()
        return self._batches[seed]

    def count_traces(self, function: Any) -> Any:
        """The method's `step`, counted."""

        def step(method: Any, *arguments: Any) -> Any:
            self.traced[self._where] += 1
            return function(method, *arguments)

        return step

    def run(self, name: str, drive: Drive, *counts: int) -> Drive:
        """Makes updates, whose traces are counted under a name."""
        self._where = name
        drive.advance(*counts)
        self._where = ""
        return drive

    @functools.cache  # noqa: B019 - a passport ends with its module
    def solo(self, seed: int, other: bool = False) -> Drive:
        """A row alone."""
        config = self.other if other else self.config
        return self.run("solo", self.drive(seed, configs=config), UPDATES)

    @functools.cached_property
    def shared(self) -> Drive:
        """Two devices that share a row."""
        return self.run("shared", self.drive(0, devices=2), UPDATES)

    @functools.cached_property
    def rows(self) -> Drive:
        """Four rows on two devices, the last two with other numbers."""
        configs = [self.config, self.config, self.other, self.other]
        return self.run("rows", self.drive(0, 1, 0, 1, configs=configs, devices=2), UPDATES)

    @functools.cached_property
    def first(self) -> list[Any]:
        """What the rows of `rows` have learned before the first update."""
        configs = [self.config, self.config, self.other, self.other]
        return self.drive(0, 1, 0, 1, configs=configs, devices=2).learned


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The paths that settings stand for: an encoder, and text of which rows have much or little."""
    run = tmp_path_factory.mktemp("run")
    encoder = ImageEncoder("vit_nano", (16, 16, 1), (0.3,), (0.35,))
    variables = jax.device_get(jax.jit(encoder.init)(jax.random.key(9)))
    config = {"images": {"data": "digits", "data_dir": "", "image_size": 0}}
    facts = {"exp": "test", "config": config}
    files.save(run / "encoder" / "seed0.safetensors", encoder, variables, facts)
    texts = tmp_path_factory.mktemp("texts")
    words = ["one", "two", "three", "four", "five", "six", "seven"]
    for number in range(260):
        # In some rows half of all tokens are ends, which are not to be guessed.
        (texts / f"{number:03}.txt").write_text(" ".join(words[: 1 if number < 200 else 7]))
    return {"an encoder": str(run), "short documents": f"txt:{texts}"}


@pytest.fixture(scope="module")
def passport(request: pytest.FixtureRequest, given: dict[str, str]):
    """The passport of a method; what it compiled is dropped with it."""
    made = Passport(request.param, given)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(made.method, "step", made.count_traces(made.method.step))
        yield made
    made.solo.cache_clear()
    del made
    jax.clear_caches()
    gc.collect()


def float_leaves(tree: Any) -> dict[str, np.ndarray]:
    """Leaves by name, as float64."""
    found = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): np.asarray(leaf, np.float64) for path, leaf in found}


def assert_moved_alike(learned: Any, wanted: Any, first: Any, share: float = 0.02) -> None:
    """Each leaf has moved to the same place, but for a share of its way.

    Leaves that moved almost nowhere, by gradients that are zero but for last bits, are measured
    against the way of the others.
    """
    begun, here, there = map(float_leaves, (first, learned, wanted))
    assert all(np.isfinite(leaf).all() for leaf in here.values()), "not finite"
    way = {name: rms(there[name] - begun[name]) for name in there}
    least = 1e-3 * max(way.values())
    off = {name: rms(here[name] - there[name]) / max(way[name], least, 1e-7) for name in there}
    worst = max(off, key=off.get)
    assert off[worst] < share, f"{worst} is off by {off[worst]:.2%} of its way, {way[worst]:.2g}"


def rms(x: np.ndarray) -> float:
    """The root of the mean square."""
    return float(np.sqrt(np.mean(np.square(x)))) if x.size else 0.0


def assert_same_sums(here: Any, there: Any) -> None:
    """Windows of metrics agree."""
    assert here.keys() == there.keys()
    for name, mean in there.items():
        assert float(here[name].count) == pytest.approx(float(mean.count)), name
        scale = max(float(mean.count), 1.0)
        assert float(here[name].total) == pytest.approx(
            float(mean.total), rel=2e-3, abs=1e-4 * scale
        ), name


def test_every_experiment_has_a_passport():
    assert {case.exp for case in CASES.values()} | SHARED.keys() == set(experiments.EXPERIMENTS)
    assert set(SHARED.values()) <= CASES.keys()


def test_updates_are_finite_and_move_everything_that_is_learned(passport):
    drive = passport.solo(0)
    for name, leaf in float_leaves((drive.running, drive.window)).items():
        assert np.isfinite(leaf).all(), name
    assert any(mean.count > 0 for mean in drive.sums[0].values()), "nothing is logged"
    begun = float_leaves(passport.first[0])
    moved = {
        name for name, leaf in float_leaves(drive.learned[0]).items() if (leaf != begun[name]).any()
    }
    rests = begun.keys() - moved
    assert {name for name in rests if not re.search(passport.case.rests, name)} == set()
    assert moved


def test_a_state_keeps_its_structure_shapes_and_types(passport):
    before = passport.drive(0).running
    after = passport.solo(0).running
    assert jax.tree.structure(before) == jax.tree.structure(after)
    for (path, old), new in zip(
        jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after), strict=True
    ):
        name = jax.tree_util.keystr(path)
        assert (old.shape, old.dtype) == (new.shape, new.dtype), name


def test_calls_may_split_updates_anywhere_bit_for_bit(passport):
    apart = passport.run("solo", passport.drive(0), 1, UPDATES - 1)
    whole = passport.solo(0)
    assert digest(jax.device_get((apart.running, apart.window))) == digest(
        jax.device_get((whole.running, whole.window))
    )


def test_saved_and_restored_it_continues_bit_for_bit(passport, tmp_path):
    """Through a checkpoint on disk."""
    drive = passport.run("solo", passport.drive(0), FEW)
    saved = Everything(*jax.device_get((drive.everything.running, drive.window)), None, {})
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(FEW, saved, {}, None)
    read = checkpoints.load("last")
    checkpoints.close()
    again = passport.drive(0)
    restored = jax.tree.unflatten(jax.tree.structure(saved), read.leaves)
    again.running = again.layout.put(again.experiment, restored.running)
    again.window = again.layout.put_all(restored.window)
    again.update = FEW
    passport.run("solo", again, UPDATES - FEW)
    whole = passport.solo(0)
    assert digest(jax.device_get((again.running, again.window))) == digest(
        jax.device_get((whole.running, whole.window))
    )


def test_two_devices_that_share_a_row_agree_with_one(passport):
    """Statistics, gradients and draws are over both; what they own is their own."""
    whole = passport.solo(0)
    shared = passport.shared
    assert_moved_alike(shared.learned[0], whole.learned[0], passport.first[0])
    assert_same_sums(shared.sums[0], whole.sums[0])
    for name, part in jax.device_get(shared.running.state)._asdict().items():
        if name not in shared.experiment.plan.owned:
            assert all((leaf == leaf[:1]).all() for leaf in jax.tree.leaves(part)), (
                f"{name} differs between devices: name it in Plan.owned, or reduce over devices"
            )


@pytest.mark.parametrize("row", range(4))
def test_a_row_equals_its_solo_run(passport, row):
    """Another seed, other numbers, or both; resources have met no number."""
    whole = passport.solo(row % 2, other=row >= 2)
    assert_moved_alike(passport.rows.learned[row], whole.learned[0], passport.first[row])
    assert_same_sums(passport.rows.sums[row], whole.sums[0])


def test_rows_differ(passport):
    """Seeds from their first parameters on, numbers after the updates."""
    assert len({digest(learned) for learned in passport.rows.learned}) == 4
    first = [digest(learned) for learned in passport.first]
    fixed = passport.case.rests != "$^"
    assert fixed or first[0] != first[1]


def test_a_row_has_its_true_configuration(passport):
    rows = passport.rows.family.rows
    assert [row.config for row in (rows[0], rows[2])] == [passport.config, passport.other]
    assert rows[0] is rows[1]
    assert rows[2] is rows[3]


def test_step_is_traced_as_often_for_many_rows_as_for_one(passport):
    """Once for names of metrics, once for the program; other seeds, numbers, counts add none."""
    passport.solo(0)
    passport.solo(1)
    passport.solo(0, other=True)
    assert passport.shared
    assert passport.rows
    assert passport.traced["rows"] <= passport.traced["solo"]
    assert passport.traced["shared"] <= passport.traced["solo"]
    before = passport.traced["solo"]
    passport.run("solo", passport.drive(2), 5, UPDATES - 5)
    assert passport.traced["solo"] <= before + 1


def test_rows_may_differ_in_step_size_and_weights(passport):
    marked = options.number_names(type(passport.config))
    assert set(passport.case.marked) <= set(marked)
    assert any("learning-rate" in name or "step-size" in name for name in marked)


def test_every_number_alone_changes_a_run(passport):
    """Except those that these settings do not meet."""
    inert = {*passport.case.inert, *(["optimizer.squares"] if passport.by_lars else [])}
    found = {}
    names = [f"{name}" for name, size in sized_numbers(passport.config) for _ in range(size)]
    whole = digest(jax.device_get((passport.solo(0).running, passport.solo(0).window)))
    for i, name in enumerate(names):
        numbers = passport.numbers.copy()
        numbers[i] = numbers[i] * 0.7 or 0.1
        drive = passport.drive(0, configs=passport.with_numbers(numbers))
        passport.run("solo", drive, UPDATES)
        changed = digest(jax.device_get((drive.running, drive.window)))
        found[name] = found.get(name, True) and changed != whole
    assert {name for name, changes in found.items() if not changes} - inert == set()


def sized_numbers(config: Any) -> list[tuple[str, int]]:
    """The options that hold numbers of rows, each with how many."""
    flat = options.flat(options.to_json(config), type(config))
    return [
        (name, len(flat[name]) if isinstance(flat[name], list) else 1)
        for name in options.number_names(type(config))
    ]


@pytest.mark.filterwarnings("ignore:The features have collapsed")  # twelve updates were made
@pytest.mark.filterwarnings("ignore:The posterior has collapsed")
def test_it_is_judged_and_drawn(passport, tmp_path, monkeypatch):
    """A map of few features takes a moment."""
    monkeypatch.setattr(features, "_POINTS", 40)
    drive = passport.rows
    evaluation = drive.experiment.evaluation
    scores = evaluation.scores(drive.learned[0], drive.layout.evaluation_key(0, UPDATES), True)
    assert evaluation.headline.name in scores
    assert all(np.isfinite(value) for value in scores.values())
    assert all(name.startswith("eval/") for name in scores)
    evaluation.pictures(drive.learned[0], 0, tmp_path)
    drawn = list(tmp_path.iterdir())
    for path in drawn:
        if path.suffix in (".png", ".gif"):
            with Image.open(path) as picture:
                picture.verify()
        else:
            assert path.read_text()
    assert drawn or not isinstance(drive.experiment, Acting | Pretraining)


def test_what_it_hands_over_can_be_loaded(passport, tmp_path):
    drive = passport.solo(0)
    if not isinstance(drive.experiment, HandingOver):
        pytest.skip("hands nothing over")
    path = tmp_path / "seed0.safetensors"
    if isinstance(drive.experiment, Generating):
        drive.experiment.hand_over(drive.learned[0], path, {"exp": passport.case.exp})
        loaded = generators.load(path)
        assert loaded.generator == drive.experiment.generator
        assert np.isfinite(loaded.sample(jax.random.key(0), 3).images).all()
        return
    if not isinstance(drive.experiment, Pretraining):
        drive.experiment.hand_over(drive.learned[0], path, {"exp": passport.case.exp})
        policy = policies.load(path)
        assert policy.card["exp"] == passport.case.exp
        jax.tree.map(np.testing.assert_array_equal, policy.params, drive.learned[0])
        return
    assert re.fullmatch(r"[0-9a-f]{64}", drive.experiment.data_digest)
    drive.experiment.hand_over(drive.learned[0], path, {"exp": passport.case.exp})
    loaded = files.load(path)
    assert loaded.card["exp"] == passport.case.exp
    leaves = jax.tree.leaves(loaded.variables)
    assert leaves
    learned = {digest(np.asarray(leaf)) for leaf in jax.tree.leaves(drive.learned[0])}
    if passport.case.exp != "lora":  # which adds to weights
        assert {digest(np.asarray(leaf)) for leaf in leaves} <= learned
