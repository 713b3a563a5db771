"""What a user's own environments do by accident: it trains, or one line says what is wrong."""

import json

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from missing_bits import options, run
from missing_bits.agents.dqn import DQN, Config
from missing_bits.envs import wrappers
from missing_bits.envs.environments import Envs, FunctionalEnvironments, HostEnvironments
from missing_bits.envs.gymnasium_envs import Recipe, make_vector
from missing_bits.envs.steps import Acted, Player
from missing_bits.errors import UserError
from missing_bits.eval import episodes
from missing_bits.tests.envs import hostile
from missing_bits.tests.loop.drive import Drive

LEFT = Player(lambda n: (), lambda learned, memory, seen, reset: (np.zeros(len(seen), int), memory))


def id_of(name):
    """Return the id of a hostile environment."""
    return f"{hostile.__name__}:hostile/{name}-v0"


def find(name, **settings):
    """Find environments as an agent does: settings are checked first."""
    envs = Envs(env=id_of(name), **settings)
    envs.check("")
    return envs.find(1)


def lefts(observation, resets, due, counts):
    """Take the first action, always."""
    return Acted(np.zeros(observation.shape[:2], np.int32))


def steps_of(name, count=12, **settings):
    """Make steps in one environment; return (s_tm1, r_t, s_t) of all."""
    source = find(name, **settings).source([0])
    try:
        made = [source.next(lefts, update) for update in range(count)]
    finally:
        source.close()
    return [np.stack([getattr(step, f)[0, 0, 0] for step in made]) for f in ("s_tm1", "r_t", "s_t")]


def complaint(action):
    """Return the one line in which something is refused."""
    with pytest.raises(UserError) as raised:
        action()
    assert "\n" not in str(raised.value)
    return str(raised.value)


REFUSED = {
    "NoLicense": "cannot be made: RuntimeError: no license file found",
    "NoLibrary": "cannot be made: ImportError: libGL.so.1: cannot open",
    "NoPackage": "needs packages that are not installed. Install them: pip install simulator",
    "NoModule": "cannot be made: ModuleNotFoundError: No module named 'simulator'",
    "Exits": "cannot be made: SystemExit: usage: simulator",
    "NoSpace": "its observation_space is None; it must be one of gymnasium.spaces",
    "NoReset": "no episode can begin: ValueError: reset failed",
    "OldApi": "keyword argument 'seed'. It must be defined as reset(self, *, seed=None, options",
    "NoOptions": "keyword argument 'options'. It must be defined as reset(self, *, seed=None",
    "OldReset": "reset returned array([0., 0., 0.], dtype=float32); it must return two values",
    "OldStep": "it must return observation, reward, terminated, truncated, info",
    "Scalars": "(3,), float32), but an observation has shape () and dtype float32",
    "OneAxisMore": "(3,), float32), but an observation has shape (1, 3) and dtype float32",
    "OneFeatureMore": "(3,), float32), but an observation has shape (4,) and dtype float32",
    "Fractions": "(3,), uint8), but an observation has shape (3,) and dtype float32",
    "NotBytes": "but an observation is array([ 0, 128, 300]), which uint8 does not hold",
    "NoReward": "a reward is None; it must be a number",
    "TwoRewards": "a reward is array([1., 1.]); it must be a number",
    "NoNumber": "a reward is nan; it must be a finite number",
    "ActionsChange": "its action_space changed from Discrete(2) to Discrete(3)",
    "ObservationsChange": "its observation_space changed from Box(0.0, 100.0, (3,), float32) to",
    "ChannelsFirst": "look like [channels, height, width]. --wrappers channels_last transposes",
    "Gray": "--wrappers channels_last makes images",
    "Stack": "--wrappers channels_last makes images",
    "FunctionalShape": "(3,), float32), but an observation has shape (4,) and dtype float32",
    "FunctionalFractions": "(3,), uint8), but an observation has shape (3,) and dtype float32",
    "FunctionalRaises": "cannot be stepped in JAX: TracerBoolConversionError",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_breaks_a_rule_from_the_start_is_refused_in_one_line(name):
    said = complaint(lambda: find(name))
    assert said.startswith(f"--env={id_of(name)}")
    assert REFUSED[name] in said


LATE = {
    "Raises": "a step failed: ValueError: the simulator lost its connection, 100% of it",
    "NotFinite": "an observation is not finite: array([ 7., nan, 7.], dtype=float32)",
    "LateReward": "a reward is inf; it must be a finite number",
    "LateShape": "(3,), float32), but an observation has shape (2,) and dtype float32",
}


@pytest.mark.parametrize("name", LATE)
@pytest.mark.parametrize("vectorization", ["serial", "async"])
def test_what_breaks_a_rule_in_mid_run_is_named(name, vectorization):
    """Workers too, and nothing but that line is written; the tenth action is never reached."""
    said = complaint(lambda: steps_of(name, vectorization=vectorization))
    assert said.startswith(f"--env={id_of(name)}: ")
    assert LATE[name] in said


def test_a_process_that_is_gone_is_named():
    said = complaint(lambda: steps_of("Dies", vectorization="async", num_envs=2, count=40))
    assert said.startswith(f"--env={id_of('Dies')}: a process that steps it ended")


def test_what_fails_in_an_evaluation_is_named():
    said = complaint(lambda: find("Raises").returns(LEFT, None, 3, jax.random.key(0)))
    assert LATE["Raises"] in said


def test_what_fails_in_an_evaluation_on_the_device_is_named():
    """There, a step cannot stop the program: the sums are looked at."""
    left = LEFT._replace(act=lambda learned, memory, seen, reset: (jnp.zeros(3, int), memory))
    envs = find("FunctionalReward", eval_steps=20)
    said = complaint(lambda: envs.returns(left, None, 3, jax.random.key(0)))
    assert "FunctionalReward-v0: rewards of an episode sum up to [-inf]; each must be" in said


def test_an_environment_that_does_not_close_costs_a_warning():
    with pytest.warns(UserWarning, match=r"Stubborn-v0 could not be closed: .*it will not close"):
        s_tm1, _, _ = steps_of("Stubborn")
    assert len(s_tm1) == 12


COUNTED = np.arange(12) % hostile.LENGTH


CONVERTED = ["Lists", "Doubles", "Buffer", "Said", "Negative", *hostile.DTYPES]
IN_PROCESSES = ["Lists", "Said", "Negative", "Flags"]  # not all: processes are slow to start


@pytest.mark.parametrize(
    ("name", "vectorization"),
    [*((name, "serial") for name in CONVERTED), *((name, "async") for name in IN_PROCESSES)],
)
def test_what_can_be_converted_is(name, vectorization):
    s_tm1, r_t, s_t = steps_of(name, vectorization=vectorization)
    counted = COUNTED > 0 if name == "Flags" else COUNTED
    np.testing.assert_array_equal(s_tm1, np.tile(counted[:, None], 3))
    np.testing.assert_array_equal(s_t[:-1][COUNTED[:-1] < 9], s_tm1[1:][COUNTED[1:] > 0])
    np.testing.assert_array_equal(r_t, 1)


@pytest.mark.parametrize("name", hostile.REWARDS)
def test_rewards_of_any_kind_of_number_are_numbers(name):
    np.testing.assert_array_equal(steps_of(name)[1], 1)


@pytest.mark.parametrize("vectorization", ["serial", "async"])
def test_integers_wider_than_jax_holds_are_not_cut_off(vectorization):
    s_tm1, _, _ = steps_of("Wide", vectorization=vectorization)
    assert s_tm1.dtype == np.float32
    np.testing.assert_array_equal(s_tm1[:, 0], hostile.LARGE + COUNTED * 2.0**30)
    assert float(jnp.asarray(s_tm1[0])[0]) == hostile.LARGE


def test_bounds_that_do_not_hold_are_told_and_trained_on():
    with pytest.warns(UserWarning, match=r"Outside-v0: observations leave .*2.0 lies outside \[-1"):
        s_tm1, _, _ = steps_of("Outside")
    np.testing.assert_array_equal(s_tm1[:, 0], COUNTED)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Unseeded", r"Unseeded-v0: a reset without a seed begins anew from elsewhere, so that"),
        ("NotSeeded", r"NotSeeded-v0: the same seed and actions led to other observations or rew"),
    ],
)
def test_episodes_that_do_not_come_again_are_told_and_trained_on(name, said):
    with pytest.warns(UserWarning, match=said):
        s_tm1, _, _ = steps_of(name)
    assert len(s_tm1) == 12


def test_episodes_that_come_again_are_drawn_from_the_seed():
    """Nothing is said of them, though each is another and they share a buffer."""
    s_tm1, r_t, _ = steps_of("Seeded", count=hostile.LENGTH)
    assert len(np.unique(s_tm1[:, 0])) == len(np.unique(r_t)) == hostile.LENGTH


@pytest.mark.parametrize(
    ("name", "shape"),
    [("ChannelsFirst", (40, 48, 3)), ("Gray", (40, 48, 1)), ("Stack", (40, 48, 12))],
)
def test_channels_last_makes_images_of_what_was_refused(name, shape):
    envs = find(name, wrappers=("channels_last",))
    assert envs.observation_space == gym.spaces.Box(0, 255, shape, np.uint8)
    assert envs.source([0]).next(lefts, 0).s_t.shape == (1, 1, 1, *shape)


def test_channels_last_moves_every_pixel_where_it_belongs():
    def turned(pixels):
        class Still(gym.Env):
            observation_space = gym.spaces.Box(0, 255, pixels.shape, np.uint8)

            def reset(self, *, seed=None, options=None):
                return pixels, {}

        return wrappers.channels_last(Still()).reset()[0]

    pixels = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
    frames = turned(pixels)
    np.testing.assert_array_equal(frames[..., :3], pixels[0])
    np.testing.assert_array_equal(frames[..., 3:], pixels[1])
    np.testing.assert_array_equal(turned(pixels[0].transpose(2, 0, 1)), pixels[0])
    np.testing.assert_array_equal(turned(pixels[0, ..., 0])[..., 0], pixels[0, ..., 0])


# The environment's own vector class.

VECTORS = {
    "VectorRaises": "a step failed: ValueError: lost its connection",
    "VectorReward": "rewards are [nan nan]; each must be a finite number",
    "VectorNotFinite": "an observation is not finite",
    "VectorEnds": "terminated is False and truncated False; both must be 2 booleans",
    "VectorShape": "but 2 observations have shape (2, 4) and dtype float32",
    "VectorSpaces": "has the action_space Discrete(3), its environment Discrete(2, start=5)",
}


@pytest.mark.parametrize("name", VECTORS)
def test_a_vector_class_that_breaks_a_rule_is_named(name):
    said = complaint(lambda: steps_of(name, vectorization="native", num_envs=2, count=40))
    assert said.startswith(f"--vectorization=native: the vector class of {id_of(name)}")
    assert VECTORS[name] in said


def test_a_vector_class_gets_its_own_actions():
    """It asserts that they are 5 or 6."""
    s_tm1, r_t, _ = steps_of("Vector", vectorization="native", num_envs=2)
    assert (len(s_tm1), r_t[0]) == (12, 1)


def test_wrappers_of_a_registration_are_not_left_out():
    np.testing.assert_array_equal(steps_of("WrappedVector")[1], 2)
    said = complaint(lambda: make_vector(Recipe(id_of("WrappedVector")), 2, 0, "train", "native"))
    assert "is registered with wrappers, which its vector class does not fit. Use" in said
    assert isinstance(find("WrappedFunctional"), HostEnvironments)
    s_tm1, r_t, _ = steps_of("WrappedFunctional")
    np.testing.assert_array_equal(r_t, -2)
    np.testing.assert_array_equal(s_tm1[:, 0], COUNTED)


@pytest.mark.parametrize("name", ["Functional", "FunctionalArray"])
def test_a_functional_environment_has_the_time_limit_of_its_registration_and_no_other(name):
    envs = find(name)
    assert isinstance(envs, FunctionalEnvironments)
    source = envs.source([0])
    act = lambda *seen: Acted(jnp.zeros(1, jnp.int32))  # noqa: E731
    update = jax.jit(lambda state: source.next(state, act, jax.random.key(0))[:2])
    state = source.init(lambda n: (), jax.random.key(0))
    state = state._replace(envs=state.envs._replace(elapsed=jnp.full(1, 10**6)))
    state, steps = update(state)
    assert not steps.truncated.any()
    assert steps.r_t.ravel() == -1
    assert state.envs.elapsed == 10**6 + 1


# Rendering.


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("NoDisplay", "render failed: RuntimeError: no display"),
        ("NoPicture", "render() returned None"),
        ("FloatPicture", "an array of shape (20, 30, 3) and dtype float32"),
        ("NoRenderMode", "TypeError: .*render_mode"),
        ("Raises", None),
        ("GrayPicture", None),
    ],
)
def test_what_cannot_be_drawn_costs_a_warning(name, said, tmp_path):
    envs = find(name)
    pictures = episodes.evaluation(envs, LEFT, 1).pictures
    if said is None:
        pictures(None, 0, tmp_path)
        assert (tmp_path / "episode.gif").exists() == (name == "GrayPicture")
        return
    said = said.replace("(", r"\(").replace(")", r"\)")
    with pytest.warns(UserWarning, match=rf"No GIF of an episode of .*{name}-v0: .*{said}"):
        pictures(None, 0, tmp_path)
    assert not list(tmp_path.iterdir())


# Whole runs.

TINY = [
    "--exp=dqn",
    "--env-steps=120",
    "--batch-size=8",
    "--hidden-sizes",
    "8",
    "--learning-starts=20",
    "--replay-capacity=200",
    "--eval-episodes=2",
    "--run.eval-period=1000",
]


def test_a_run_whose_environment_cannot_be_drawn_is_finished(tmp_path):
    with pytest.warns(UserWarning, match="No GIF of an episode"):
        status = run.main([*TINY, f"--env={id_of('NoDisplay')}", f"--run.dir={tmp_path / 'run'}"])
    assert status == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["eval/return_mean"] == hostile.LENGTH


def test_a_run_whose_environment_fails_ends_in_a_line(tmp_path, capfd):
    status = run.main([*TINY, f"--env={id_of('Raises')}", f"--run.dir={tmp_path / 'run'}"])
    assert status == 2
    said = capfd.readouterr().err
    assert said.startswith(f"error: --env={id_of('Raises')}: a step failed: ValueError: the sim")
    assert "connection, 100% of it. Continue with: " in said
    assert "Traceback" not in said


def test_signs_are_read_in_the_numbers_that_their_bounds_declare():
    """Bytes of 0 and 1: a network that takes them for dark pixels is blind, and earns 0.5."""
    settings = {
        "env": id_of("Signs"),
        "env_steps": 400,
        "num_envs": 4,
        "hidden_sizes": (16,),
        "batch_size": 32,
        "replay_capacity": 1_000,
        "learning_starts": 40,
        "learning_rate": 5e-3,
        "train_period": 4,
        "target_period": 4,
        "n_step": 1,
        "epsilon_decay_steps": 200,
    }
    drive = Drive(DQN, options.make(Config, **settings), [0])
    for _ in range(100):
        drive.advance(1)
    key = drive.layout.evaluation_key(0, 100)
    scores = drive.experiment.evaluation.scores(drive.learned[0], key, True)
    assert scores["eval/return_mean"] >= 0.9
