"""A policy that is written and read again acts alike; other files are refused in a line."""

import dataclasses
import json
import subprocess
import sys

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from missing_bits import experiments, options
from missing_bits.agents import policies
from missing_bits.agents.dqn import DQN, TINY
from missing_bits.errors import UserError

MEMBERS = [name for name, row in experiments.EXPERIMENTS.items() if row.where.endswith(":DQN")]
CARTPOLE = {"env": "jax/CartPole-v1"}
VECTORS = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
PICTURES = np.random.default_rng(0).integers(0, 2, (64, 10, 10, 4), np.uint8)


def agent_of(member, settings):
    found = experiments.find(member)
    config = found.config()
    tiny = {**TINY, **settings}
    if config.munchausen:
        tiny["n_step"] = 1
    config = options.replace(config, tiny)
    return DQN(config, DQN.resources(config))


def far_apart(params):
    """Parameters like these with which no two actions are worth nearly the same."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), params)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of plain DQN, but for the training: a folder with policies of two seeds."""
    folder = tmp_path_factory.mktemp("run")
    agent = agent_of("dqn", CARTPOLE)
    for seed in (3, 10):
        params = far_apart(agent.init(jax.random.key(seed)).params)
        agent.hand_over(params, folder / "policy" / f"seed{seed}.safetensors", {"seed": seed})
    return folder


@pytest.mark.parametrize("member", MEMBERS)
def test_every_member_acts_as_it_was_judged(member, tmp_path):
    """By the best mean value of its own network, without noise and at even quantiles."""
    agent = agent_of(member, CARTPOLE)
    params = far_apart(agent.init(jax.random.key(1)).params)
    agent.hand_over(params, tmp_path / "policy" / "seed0.safetensors", {"exp": member})
    loaded = policies.load(tmp_path)
    raw = agent.network.apply(params, None, VECTORS, agent.head.taus(None, len(VECTORS)))
    expected = np.argmax(np.asarray(agent.head.mean(raw)), axis=-1)
    assert set(expected) == {0, 1}
    actions = loaded(VECTORS)
    assert actions.dtype == jnp.int32
    np.testing.assert_array_equal(actions, expected)
    judged, _ = policies.player(agent.policy).act(params, (), jnp.asarray(VECTORS), None)
    np.testing.assert_array_equal(judged, expected)
    assert loaded.card["exp"] == member
    assert loaded.policy == agent.policy


def test_pictures_and_bounds_are_kept(tmp_path):
    """MountainCar's velocities are below 0.07: without their bounds a network is blind to them."""
    agent = agent_of("dqn", {"env": "jax/Breakout-v1"})
    assert agent.policy.low == (0.0,)
    assert agent.policy.high == (1.0,)
    assert agent.policy.observation_dtype == "uint8"
    params = far_apart(agent.init(jax.random.key(1)).params)
    agent.hand_over(params, tmp_path / "seed0.safetensors", {})
    loaded = policies.load(tmp_path / "seed0.safetensors")
    expected = np.argmax(agent.network.apply(params, None, PICTURES, None)[..., 0], axis=-1)
    np.testing.assert_array_equal(loaded(PICTURES), expected)
    np.testing.assert_array_equal(loaded(PICTURES.astype(int)), expected)
    assert loaded.params["conv2_d"]["w"].shape == (3, 3, 4, 16)

    car = agent_of("dqn", {"env": "jax/MountainCar-v0"}).policy
    np.testing.assert_allclose(car.low, [-1.2, -0.07], rtol=1e-6)
    np.testing.assert_allclose(car.high, [0.6, 0.07], rtol=1e-6)
    params = car.init(jax.random.key(0))
    low, high = np.float32([car.low, car.high])
    middle = car.network().apply(params, None, (low + high)[None] / 2, None)
    edge = car.network().apply(params, None, high[None], None)
    plain = dataclasses.replace(car, low=(None,), high=(None,)).network()
    np.testing.assert_allclose(middle, plain.apply(params, None, np.zeros((1, 2)), None), atol=1e-6)
    np.testing.assert_allclose(edge, plain.apply(params, None, np.ones((1, 2)), None), atol=1e-6)


def test_bounds_of_which_some_are_missing():
    """Float32's largest number stands for none, as for the network."""
    largest = np.finfo(np.float32).max
    low = np.float32([-4.8, -largest, -np.inf])
    policy = policies.of_network(gym.spaces.Box(low, -low), 2, hidden_sizes=(4,))
    assert policy.low == (pytest.approx(-4.8), None, None)
    assert policy.high == (pytest.approx(4.8), None, None)
    assert json.loads(json.dumps(dataclasses.asdict(policy)))["low"][1:] == [None, None]


def test_vectors_stay_as_they_are_where_that_is_asked_for():
    """Acrobot's velocities reach 28 but seldom: scaled by that a network hardly sees them."""
    scaled = agent_of("dqn", {"env": "jax/MountainCar-v0"})
    plain = agent_of("dqn", {"env": "jax/MountainCar-v0", "scaled": False})
    assert scaled.policy.low != (None,)
    assert plain.policy.low == plain.policy.high == (None,)
    params = plain.policy.init(jax.random.key(0))
    car = np.float32([[-0.5, 0.01]])
    low, high = np.float32(scaled.policy.low), np.float32(scaled.policy.high)
    q_plain, q_scaled = (
        agent.policy.network().apply(params, None, x, None)
        for agent, x in ((plain, (2 * car - low - high) / (high - low)), (scaled, car))
    )
    np.testing.assert_allclose(q_plain, q_scaled, rtol=1e-5, atol=1e-6)


def test_images_are_always_scaled():
    space = gym.spaces.Box(0, 255, (8, 8, 1), np.uint8)
    policy = policies.of_network(space, 2, scaled=False, hidden_sizes=(4,))
    assert (policy.low, policy.high) == ((0.0,), (255.0,))


@pytest.mark.parametrize(("seed", "loaded_seed"), [(None, 3), (3, 3), (10, 10)])
def test_seeds_and_the_card(run, seed, loaded_seed):
    loaded = policies.load(run, seed)
    assert loaded.card["seed"] == loaded_seed
    beside = run / "policy" / f"seed{loaded_seed}.json"
    assert json.loads(beside.read_text()) == loaded.card
    assert loaded.card["policy"]["num_actions"] == 2


def told(path):
    """Return the one line with which a file is refused."""
    with pytest.raises(UserError) as error:
        policies.load(path)
    line = str(error.value)
    assert line.startswith(f"{path} is damaged or was not written by this version of the suite: ")
    assert "\n" not in line
    return line


def changed(run, path, card=None, tensors=None):
    """Write a policy's file anew with another card and other tensors; None removes one."""
    source = run / "policy" / "seed3.safetensors"
    parts = safetensors.numpy.load_file(source) | (tensors or {})
    parts = {name: part for name, part in parts.items() if part is not None}
    said = json.dumps({**policies.load(source).card, **(card or {})})
    path.write_bytes(safetensors.numpy.save(parts, metadata={"card": said}))
    return path


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("observation_shape", []),
        ("observation_shape", [5]),
        ("observation_shape", [2, 2]),
        ("observation_shape", [1 << 30]),
        ("observation_shape", [1 << 20, 1 << 20, 1 << 20]),
        ("observation_shape", [-4]),
        ("observation_shape", [-2, -2, 1]),
        ("observation_shape", "4"),
        ("observation_dtype", "object"),
        ("observation_dtype", None),
        ("low", [0.0, 1.0]),
        ("low", []),
        ("low", [float("nan")] * 4),
        ("low", [9.0]),  # above the upper bounds of some
        ("high", [[1.0]]),
        ("observation_shape", [4] + [1] * 99),
        ("hidden_sizes", [1] * 20_000),
        ("num_actions", 0),
        ("num_actions", 3),
        ("num_actions", 1 << 30),
        ("num_actions", 2.0),
        ("hidden_sizes", [16]),
        ("hidden_sizes", [16, -16]),
        ("hidden_sizes", [16, 1 << 29]),
        ("head", "pickle"),
        ("head", "implicit"),
        ("quantiles", 1 << 30),
        ("atoms", 1 << 30),
        ("value_low", 200.0),
        ("dueling", True),
        ("noisy", 0.5),
        ("noisy", -1.0),
        ("noisy", 2e9),
        ("value_high", 2e9),
        ("run", "rm"),
    ],
)
def test_what_a_card_claims_is_held_against_what_may_be(run, tmp_path, field, value):
    card = policies.load(run).card["policy"] | {field: value}
    told(changed(run, tmp_path / "other.safetensors", {"policy": card}))


@pytest.mark.parametrize(
    ("card", "said"),
    [
        ({"kind": "images"}, "its card tells of 'images', not of q_network"),
        ({"kind": 3}, "its card has a wrong type for kind"),
        ({"policy": []}, "its card has a wrong type for policy"),
        ({"policy": {}}, "its policy lacks observation_shape, observation_dtype, low, high, num"),
        ({"protocol": "CartPole-v1"}, "its card has a wrong type for protocol"),
    ],
)
def test_cards_of_another_kind(run, tmp_path, card, said):
    assert said in told(changed(run, tmp_path / "other.safetensors", card))


@pytest.mark.parametrize(
    ("name", "tensor", "said"),
    [
        ("params:linear:w", None, "it lacks the tensor params:linear:w"),
        ("params:linear:w", np.ones((4, 17), "f"), "has the shape (4, 17), not (4, 16)"),
        ("params:linear:w", np.ones((4, 16), "d"), "is of type F64, not of float32"),
        ("params:linear:w", np.full((4, 16), np.nan, "f"), "holds NaN or infinite numbers"),
        ("params:more:w", np.ones(1, "f"), "it holds the unknown tensor params:more:w"),
        ("a\n:\x1b[2J:w", np.ones(1, "f"), "it holds the unknown tensor 'a\\n:\\x1b[2J:w'"),
    ],
)
def test_tensors_are_held_against_the_network(run, tmp_path, name, tensor, said):
    assert said in told(changed(run, tmp_path / "other.safetensors", tensors={name: tensor}))


def test_observations_of_an_environment_that_fit_no_network_are_told_as_such():
    for shape in ((0,), (), (4, 36, 36, 3)):
        with pytest.raises(UserError, match=r"Observations of shape .* fit no network: it takes"):
            policies.of_network(gym.spaces.Box(-1, 1, shape), 2, hidden_sizes=(4,))


def test_missing_and_torn_files(run, tmp_path):
    with pytest.raises(UserError, match=r"holds no policy: .* Finish it with --run\.resume"):
        policies.load(tmp_path)
    with pytest.raises(UserError, match="has no policy of seed 4; it has seed3, seed10"):
        policies.load(run, 4)
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes((run / "policy" / "seed3.safetensors").read_bytes()[:500])
    told(torn)


@pytest.mark.parametrize(
    ("observations", "said"),
    [
        (VECTORS[0], "Give a single one as observation[None]"),
        (VECTORS[:, :3], "are of shape (64, 3); this policy takes (observations, 4)"),
        (VECTORS.astype(str), "are of type <U"),
        (VECTORS.astype(complex), "are of type complex"),
        (np.where(VECTORS > 1, np.nan, VECTORS), "hold NaN or infinite numbers"),
        (np.where(VECTORS > 1, 1e39, VECTORS.astype(float)), "or some beyond float32"),
        ([[1, 2, 3, 4], [1, 2]], "are of different shapes"),
    ],
)
def test_observations_that_are_none_are_refused(run, observations, said):
    with pytest.raises(UserError) as error:
        policies.load(run)(observations)
    assert said in str(error.value)


def test_bytes_are_bytes():
    policy = agent_of("dqn", {"env": "jax/Breakout-v1"}).policy
    assert policy.prepare(PICTURES).dtype == jnp.uint8
    with pytest.raises(UserError, match=r"of type float64; .* gives uint8"):
        policy.prepare(PICTURES / 1)
    with pytest.raises(UserError, match="integers from 0 to 256"):
        policy.prepare(PICTURES.astype(int) * 256)


USE = """
import sys

import jax
import numpy as np

exported = jax.export.deserialize(open(sys.argv[1], "rb").read())
assert "missing_bits" not in sys.modules
observations = np.load(sys.argv[2])
for size in (1, 7, len(observations)):
    print(*np.asarray(exported.call(observations[:size])))
print(*exported.platforms)
"""


@pytest.mark.parametrize("env", ["jax/CartPole-v1", "jax/Breakout-v1"])
def test_an_exported_policy_acts_alike_without_this_suite(env, tmp_path):
    """In a process of its own, elsewhere, for any number of observations."""
    agent = agent_of("rainbow", {"env": env})
    params = far_apart(agent.init(jax.random.key(1)).params)
    loaded = policies.Loaded(agent.policy, params, {})
    observations = VECTORS if "CartPole" in env else PICTURES
    (tmp_path / "policy.bin").write_bytes(policies.export(loaded))
    np.save(tmp_path / "observations.npy", observations)
    command = [sys.executable, "-I", "-c", USE, "policy.bin", "observations.npy"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    *actions, platforms = done.stdout.splitlines()
    assert platforms == "cpu cuda tpu"
    expected = np.asarray(loaded(observations))
    assert len(set(expected)) > 1
    for size, line in zip((1, 7, 64), actions, strict=True):
        assert [int(action) for action in line.split()] == expected[:size].tolist()
