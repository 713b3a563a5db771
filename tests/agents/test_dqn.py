"""DQN's loss by hand, its exploration, its cadence, and that it learns known values."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from missing_bits import memory, options
from missing_bits.agents import exploration
from missing_bits.agents.dqn import DQN, TINY, Config
from missing_bits.errors import UserError
from missing_bits.loop.checkpoint import digest
from missing_bits.replay.uniform import Transitions
from missing_bits.tests.agents import probes
from missing_bits.tests.loop.drive import Drive

SMALL = {"env": "phys2d/CartPole-v1", "hidden_sizes": (), "n_step": 1}


def make(**settings):
    """The agent as the loop makes it."""
    config = options.make(Config, **settings)
    options.check(config)
    DQN.check(config)
    return DQN(config, DQN.resources(config))


# Two transitions; the last one is terminal. Observations are one-hot: a linear network is a table.
BATCH = Transitions(
    s_tm1=np.eye(4, dtype=np.float32)[[0, 1]],
    a_tm1=np.array([0, 1]),
    r_t=np.array([1.0, -3.0], np.float32),
    discount_t=np.array([0.9, 0.0], np.float32),
    s_t=np.eye(4, dtype=np.float32)[[2, 3]],
)
ONLINE = np.array([[1.0, 2.0], [0.5, 0.0], [4.0, 3.0], [9.0, 9.0]], np.float32)  # [state, action]
TARGET = np.array([[0.0, 0.0], [0.0, 0.0], [1.0, 5.0], [7.0, 7.0]], np.float32)


def table(values):
    return {"mlp/~/linear_0": {"w": jnp.asarray(values), "b": jnp.zeros(2)}}


class LossTest(chex.TestCase):
    @chex.all_variants()
    def test_plain_squared(self):
        # max target Q(2) = 5: errors 1 + 0.9 * 5 - 1 = 4.5 and -3 - 0 = -3;
        # (4.5^2 + 3^2) / 2 / 2 = 7.3125.
        self._check(double=False, huber=False, expected=7.3125)

    @chex.all_variants()
    def test_plain_huber(self):
        # |error| - 1/2 beyond 1: (4.0 + 2.5) / 2 = 3.25.
        self._check(double=False, huber=True, expected=3.25)

    @chex.all_variants()
    def test_double_squared(self):
        # The online network prefers action 0 in state 2, which the target values 1: the error is
        # 1 + 0.9 - 1 = 0.9. (0.9^2 + 3^2) / 2 / 2 = 2.4525.
        self._check(double=True, huber=False, expected=2.4525)

    @chex.all_variants()
    def test_double_huber(self):
        # (0.9^2 / 2 + 2.5) / 2 = 1.4525.
        self._check(double=True, huber=True, expected=1.4525)

    def _check(self, double, huber, expected):
        agent = make(**SMALL, double=double, huber=huber)
        loss, value = self.variant(agent.loss)(table(ONLINE), table(TARGET), BATCH)
        np.testing.assert_allclose(loss, expected, rtol=1e-6)
        np.testing.assert_allclose(value, 0.5, rtol=1e-6)  # (Q(0, 0) + Q(1, 1)) / 2 = (1 + 0) / 2


def test_no_gradient_reaches_the_target():
    agent = make(**SMALL, double=True)
    grads = jax.grad(lambda target: agent.loss(table(ONLINE), target, BATCH)[0])(table(TARGET))
    assert not np.any(grads["mlp/~/linear_0"]["w"])
    grads = jax.grad(lambda online: agent.loss(online, table(TARGET), BATCH)[0])(table(ONLINE))
    assert np.any(grads["mlp/~/linear_0"]["w"][:2])
    assert not np.any(grads["mlp/~/linear_0"]["w"][2:])  # s_t: the selector passes no gradient


def test_epsilon_falls_linearly_and_stays():
    agent = make(**SMALL, epsilon_final=0.1, epsilon_decay_steps=100)
    # 1 - 0.9 * 50 / 100 = 0.55
    values = [float(agent.epsilon(steps)) for steps in (0, 50, 100, 500)]
    np.testing.assert_allclose(values, [1.0, 0.55, 0.1, 0.1], rtol=1e-6)


def test_exploration_is_drawn_per_environment_at_its_rate():
    agent = make(**SMALL, epsilon_final=0.5, epsilon_decay_steps=1)
    # Action 0 is greedy everywhere: action 1 comes from exploration alone, at a rate of 0.5 / 2.
    envs = 20_000
    observation = np.tile(np.float32([1, 0, 0, 0]), (envs, 1))
    prefers_0 = table(TARGET - [[0.0, 1.0]])
    reset = np.zeros(envs, bool)
    acted = agent.act(prefers_0, (), observation, reset, jnp.int32(10), jax.random.key(0))
    sigma = np.sqrt(0.25 * 0.75 / envs)
    assert abs(np.mean(acted.action) - 0.25) < 4 * sigma
    assert acted.memory == acted.extras == ()


def test_a_probability_that_decays():
    assert float(exploration.linear_decay(jnp.int32(25), 100, 0.2)) == pytest.approx(0.8)


CADENCE = {
    "hidden_sizes": (8,),
    "train_period": 4,
    "target_period": 10,
    "n_step": 1,
    "learning_starts": 36,
    "batch_size": 8,
    "replay_capacity": 200,
    "env_steps": 200,
    "env": "phys2d/CartPole-v1",
}


@pytest.fixture(scope="module")
def programs():
    """Compiled once for each number of environments."""
    return {1: {}, 3: {}, 8: {}}


@pytest.mark.parametrize("num_envs", [1, 3, 8])
@pytest.mark.parametrize("tau", [1.0, 0.25])
def test_the_target_moves_exactly_when_its_period_has_passed(num_envs, tau, programs):
    """Updates every 4 steps, target every 10: after 12, 20, 32, 40, ... steps, for any number."""
    config = options.make(Config, num_envs=num_envs, target_tau=tau, **CADENCE)
    drive = Drive(DQN, config, [0], programs=programs[num_envs])
    moved = []
    for i in range(30):
        before = jax.device_get(drive.running.state.target_params)
        state = jax.device_get(drive.advance(1).running.state)
        expected = jax.tree.map(lambda p, t: tau * p + (1 - tau) * t, state.params, before)
        if differ(before, state.target_params):
            moved.append(4 * (i + 1))
            chex.assert_trees_all_close(state.target_params, expected, rtol=1e-5, atol=1e-7)
    assert moved == [40, 52, 60, 72, 80, 92, 100, 112, 120]


@pytest.mark.parametrize(("period", "moves"), [(2, [5] * 6), (4, [2, 3] * 3), (10, [1] * 6)])
def test_a_target_whose_period_is_shorter_than_that_of_updates_moves_as_often(period, moves):
    """Updates every 10 steps; k moves by a quarter at once leave 0.75^k of the target."""
    settings = CADENCE | {"train_period": 10, "target_period": period, "learning_starts": 40}
    config = options.make(Config, num_envs=1, target_tau=0.25, **settings)
    drive = Drive(DQN, config, [0])
    drive.advance(4)
    for count in moves:
        before = jax.device_get(drive.running.state.target_params)
        state = jax.device_get(drive.advance(1).running.state)
        kept = 0.75**count
        expected = jax.tree.map(lambda p, t, k=kept: (1 - k) * p + k * t, state.params, before)
        chex.assert_trees_all_close(state.target_params, expected, rtol=1e-5, atol=1e-7)


def differ(a, b):
    """Whether two trees differ anywhere."""
    return any(jax.tree.leaves(jax.tree.map(lambda x, y: bool((x != y).any()), a, b)))


def test_nothing_is_learned_before_learning_starts(programs):
    """And there is no loss, nor is it 0: learning starts at 36 environment steps, update 9."""
    drive = Drive(DQN, options.make(Config, num_envs=8, **CADENCE), [0], programs=programs[8])
    first = drive.learned[0]
    drive.advance(8)
    chex.assert_trees_all_equal(first, drive.learned[0])
    assert float(drive.sums[0]["train/loss"].count) == 0
    drive.advance(1)
    assert differ(first, drive.learned[0])
    assert float(drive.sums[0]["train/loss"].count) == 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"batch_size": 60_000}, "--batch-size is 60000; it must lie between 1 and 50000"),
        ({"num_envs": 0}, "--num-envs is 0; it must be at least 1"),
        ({"learning_rate": -1.0}, "--learning-rate is -1.0; it must be above 0"),
        ({"discount": 1.5}, "--discount is 1.5; it must lie between 0 and 1"),
        ({"hidden_sizes": (32, 0)}, "--hidden-sizes is 0"),
        ({"learning_starts": 5, "num_envs": 8}, "--learning-starts is 5"),
        ({"vectorization": "fast"}, "--vectorization=fast"),
        ({"vectorization": "async"}, "JAX-native"),
    ],
)
def test_settings_that_cannot_run_are_refused(settings, words):
    with pytest.raises(UserError, match=words):
        make(**{"env": "phys2d/CartPole-v1"} | settings)


def test_a_replay_that_no_memory_holds_is_refused_before_anything_is_made(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 1_000_000)
    with pytest.raises(UserError, match="--replay-capacity=90000 takes"):
        make(env="phys2d/CartPole-v1", replay_capacity=90_000).source([0])


@pytest.fixture(scope="module", params=[1, 3])
def values_found(request):
    """The function that gives the values, at each step of an episode of a kind, after learning."""
    settings = {
        "env": probes.ENV,
        "num_envs": 16,
        "env_steps": 64_000,
        "train_period": 32,
        "target_period": 32,
        "target_tau": 0.1,
        "learning_starts": 200,
        "learning_rate": 5e-3,
        "discount": probes.DISCOUNT,
        "n_step": request.param,
        "hidden_sizes": (64,),
        "batch_size": 128,
        "replay_capacity": 8_000,
        "epsilon_final": 0.5,  # the values of both actions are asked for
    }
    drive = Drive(DQN, options.make(Config, **settings), [0])
    drive.advance(2_000)
    apply = drive.experiment.network.apply
    return lambda kind: apply(drive.learned[0], probes.observations(kind))


@pytest.mark.parametrize("kind", probes.KINDS)
def test_it_finds_known_values(kind, values_found):
    """To 5 %, with returns of one step and of three."""
    np.testing.assert_allclose(values_found(kind), probes.VALUES[kind], rtol=0.05)


@pytest.mark.parametrize("env", ["CartPole-v1", "phys2d/CartPole-v1"])
def test_evaluation_has_environments_of_its_own(env):
    """However often it is evaluated, training learns the same, to the last bit."""
    config = options.make(Config, **TINY | {"env": env})
    programs = {}
    quiet = Drive(DQN, config, [0], programs=programs)
    judged = Drive(DQN, config, [0], programs=programs)
    for i in range(10):
        quiet.advance(1)
        judged.advance(1)
        key = judged.layout.evaluation_key(0, i)
        judged.experiment.evaluation.scores(judged.learned[0], key, False)
    assert digest(judged.everything) == digest(quiet.everything)


def test_it_learns_cartpole():
    """About 9.4 is what a constant action earns, 22 a random one (docs/results/)."""
    config = options.make(
        Config, env="phys2d/CartPole-v1", num_envs=4, env_steps=10_000, eval_episodes=16
    )
    drive = Drive(DQN, config, [0])
    drive.advance(5_000)
    key = drive.layout.evaluation_key(0, 5_000)
    scores = drive.experiment.evaluation.scores(drive.learned[0], key, True)
    assert scores["eval/return_mean"] > 200
