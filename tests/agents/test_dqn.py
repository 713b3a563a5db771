"""DQN's loss by hand, its exploration, its cadence, and that it learns known values."""

import dataclasses
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from missing_bits import experiments, memory, options
from missing_bits.agents import exploration
from missing_bits.agents.dqn import DQN, TINY, Config
from missing_bits.envs.games.cartpole import CartPole
from missing_bits.envs.steps import Steps
from missing_bits.errors import UserError
from missing_bits.loop.checkpoint import digest
from missing_bits.loop.config import RunConfig
from missing_bits.loop.train import train
from missing_bits.replay import kinds, prioritized
from missing_bits.replay.prioritized import Sample
from missing_bits.replay.uniform import Transitions
from missing_bits.tests.agents import probes
from missing_bits.tests.loop.drive import Drive

SMALL = {"env": "jax/CartPole-v1", "hidden_sizes": (), "n_step": 1}


def make(**settings):
    """The agent as the loop makes it."""
    config = options.make(Config, **settings)
    options.check(config)
    DQN.check(config)
    return DQN(config, DQN.resources(config))


# Two transitions; the last one is terminal. Observations are one-hot once bounded features are
# scaled to [-1, 1]: a linear network is a table.
ONE_HOT = np.diag(
    np.where(np.isinf(CartPole.observation_space.high), 1, CartPole.observation_space.high)
).astype(np.float32)
BATCH = Transitions(
    s_tm1=ONE_HOT[[0, 1]],
    a_tm1=np.array([0, 1]),
    r_t=np.array([1.0, -3.0], np.float32),
    discount_t=np.array([0.9, 0.0], np.float32),
    s_t=ONE_HOT[[2, 3]],
)
ONLINE = np.array([[1.0, 2.0], [0.5, 0.0], [4.0, 3.0], [9.0, 9.0]], np.float32)  # [state, action]
TARGET = np.array([[0.0, 0.0], [0.0, 0.0], [1.0, 5.0], [7.0, 7.0]], np.float32)


def table(values):
    return {"linear": {"w": jnp.asarray(values), "b": jnp.zeros(2)}}


def drawn(batch):
    """A batch as a uniform replay gives it."""
    nowhere = jnp.zeros(len(batch.r_t), jnp.int32)
    return Sample(batch, jnp.ones(len(batch.r_t)), nowhere, nowhere)


KEYS = [jax.random.key(0)] * 3


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
        loss, seen = self.variant(agent.loss)(table(ONLINE), table(TARGET), KEYS, drawn(BATCH))
        np.testing.assert_allclose(loss, expected, rtol=1e-6)
        np.testing.assert_allclose(
            seen.q_value, 0.5, rtol=1e-6
        )  # (Q(0, 0) + Q(1, 1)) / 2 = (1 + 0) / 2


def test_munchausen_rewards_the_first_of_several_steps():
    """In states 0 and 1 the target is even: log 1/2 is added, halved. What follows state 0 is worth
    log(e^1 + e^5) = 5.018150; nothing follows state 1. Errors 1 - 0.346574 + 0.9 * 5.018150 - 1 =
    4.169761 and -3 - 0.346574 - 0 = -3.346574; (4.169761^2 + 3.346574^2) / 2 / 2 = 7.146615."""
    soft = {"munchausen": True, "munchausen_temperature": 1.0, "munchausen_scale": 0.5}
    agent = make(**(SMALL | {"n_step": 3}), double=False, **soft)
    loss, _ = agent.loss(table(ONLINE), table(TARGET), KEYS, drawn(BATCH))
    np.testing.assert_allclose(loss, 7.146615, rtol=1e-6)


@pytest.mark.parametrize("astray", [{"double": True}, {"double": False, "head": "categorical"}])
def test_munchausen_goes_with_its_own_policy_alone(astray):
    with pytest.raises(UserError, match="does not go with --"):
        make(**SMALL, munchausen=True, **astray)


def test_losses_count_by_their_weights():
    """Errors are 4.5 and -3, as above: (0.5 * 4.5^2 / 2 + 0.25 * 3^2 / 2) / 2 = 3.09375."""
    agent = make(**SMALL, double=False)
    weighed = drawn(BATCH)._replace(weights=jnp.array([0.5, 0.25]))
    loss, seen = agent.loss(table(ONLINE), table(TARGET), KEYS, weighed)
    assert float(loss) == pytest.approx(3.09375)
    np.testing.assert_allclose(seen.surprise, [4.5, 3.0])  # of the errors alone


def test_no_gradient_reaches_the_target():
    agent = make(**SMALL, double=True)
    grads = jax.grad(lambda target: agent.loss(table(ONLINE), target, KEYS, drawn(BATCH))[0])(
        table(TARGET)
    )
    assert not np.any(grads["linear"]["w"])
    grads = jax.grad(lambda online: agent.loss(online, table(TARGET), KEYS, drawn(BATCH))[0])(
        table(ONLINE)
    )
    assert np.any(grads["linear"]["w"][:2])
    assert not np.any(grads["linear"]["w"][2:])  # s_t: the selector passes no gradient


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
    "env": "jax/CartPole-v1",
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
        (
            {"n_step": 10**5},
            "at least 400002 \\(--num-envs=4 times --n-step=100000, and --train-per",
        ),
        ({"head": "categorical", "atoms": -5}, "--atoms is -5; it must lie between 2 and 65536"),
        ({"head": "quantile", "quantiles": 10**7}, "--quantiles is 10000000; it must lie between"),
        ({"noisy": -1.0}, "--noisy is -1.0; it must lie between 0 and 1000"),
        ({"value_high": 3e9}, "must lie within 1,000,000,000 of 0"),  # else no file would hold it
        ({"priority_exponent": 20.0}, "--priority-exponent is 20.0; it must lie between 0 and 1"),
        ({"vectorization": "fast"}, "--vectorization=fast"),
        ({"vectorization": "async"}, "JAX-native"),
        ({"behind": True}, "--behind is for host environments"),
    ],
)
def test_settings_that_cannot_run_are_refused(settings, words):
    with pytest.raises(UserError, match=words):
        make(**{"env": "jax/CartPole-v1"} | settings)


def test_a_replay_that_no_memory_holds_is_refused_before_anything_is_made(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 1_000_000)
    with pytest.raises(UserError, match="--replay-capacity=90000 takes"):
        make(env="jax/CartPole-v1", replay_capacity=90_000).source([0])


def test_priorities_take_memory_too(monkeypatch):
    """A row of CartPole takes 25 bytes, its priority 4 more: 2.3 MB and 2.6 MB for 90,000."""
    monkeypatch.setattr(memory, "available", lambda: 2_400_000)
    settings = {"env": "jax/CartPole-v1", "replay_capacity": 90_000}
    make(**settings).source([0])
    with pytest.raises(UserError, match="--replay-capacity=90000 takes"):
        make(**settings, prioritized=True).source([0])


PROBED = {
    "env": probes.ENV,
    "num_envs": 16,
    "env_steps": 64_000,
    "train_period": 32,
    "target_period": 32,
    "target_tau": 0.1,
    "learning_starts": 200,
    "learning_rate": 5e-3,
    "discount": probes.DISCOUNT,
    "hidden_sizes": (64,),
    "batch_size": 128,
    "replay_capacity": 8_000,
    "epsilon_final": 0.5,  # the values of both actions are asked for
}


@pytest.fixture(scope="module", params=[1, 3])
def values_found(request):
    """The function that gives the values, at each step of an episode of a kind, after learning."""
    settings = PROBED | {"n_step": request.param}
    drive = Drive(DQN, options.make(Config, **settings), [0])
    drive.advance(2_000)
    return lambda kind: values_of(drive, probes.observations(kind))


def values_of(drive, observations):
    """What an agent makes of observations when it is judged, [B, A]."""
    agent = drive.experiment
    taus = agent.head.taus(None, len(observations))
    return agent.head.mean(agent.network.apply(drive.learned[0], None, observations, taus))


@pytest.mark.parametrize("kind", probes.KINDS)
def test_it_finds_known_values(kind, values_found):
    """To 5 %, with returns of one step and of three."""
    np.testing.assert_allclose(values_found(kind), probes.VALUES[kind], rtol=0.05)


MEMBERS = {
    "dueling_dqn": {"dueling": True},
    "prioritized_dqn": {"prioritized": True},
    "noisy_dqn": {"noisy": 0.1},
    "c51": {"head": "categorical", "value_low": -2.0, "value_high": 6.0, "atoms": 41},
    "qr_dqn": {"head": "quantile", "quantiles": 8},
    "iqn": {"head": "implicit", "quantiles": 8},
    "munchausen_dqn": {
        **{"munchausen": True, "double": False, "munchausen_scale": 0.0},
        "n_step": 3,
    },
    "rainbow": {
        **{"head": "categorical", "value_low": -2.0, "value_high": 6.0, "atoms": 41},
        **{"dueling": True, "prioritized": True, "noisy": 0.1, "n_step": 3},
    },
}


def test_no_member_is_left_out():
    """`dqn`, which is double, is the one that finds known values above."""
    rows = experiments.EXPERIMENTS.items()
    family = {name for name, row in rows if row.where.endswith("agents.dqn:DQN")}
    assert family == {"dqn", "double_dqn", *MEMBERS}


@pytest.mark.parametrize("member", MEMBERS)
def test_members_find_known_values_too(member):
    """To 10 %. Munchausen's own reward is left out: with it, values are those of another task."""
    settings = {**PROBED, "n_step": 1, **MEMBERS[member]}
    drive = Drive(DQN, options.make(Config, **settings), [0])
    drive.advance(2_000)
    for kind in probes.KINDS:
        found = values_of(drive, probes.observations(kind))
        np.testing.assert_allclose(found, probes.VALUES[kind], rtol=0.1, atol=0.03, err_msg=kind)


# Any two settings of any two flags come together in one of these rows.
HEADS = ("scalar", "categorical", "quantile", "implicit")
FLAGS = ("double", "dueling", "prioritized", "noisy", "n_step", "explore_exponent")
COVERING = [
    ("scalar", 0, 0, 0, 0, 0, 0),
    ("scalar", 1, 1, 1, 1, 1, 1),
    ("scalar", 0, 1, 0, 1, 1, 0),
    ("categorical", 0, 0, 1, 1, 0, 1),
    ("categorical", 1, 1, 0, 0, 1, 0),
    ("categorical", 1, 0, 1, 0, 1, 1),
    ("quantile", 0, 1, 1, 0, 1, 1),
    ("quantile", 1, 0, 0, 1, 0, 0),
    ("quantile", 1, 1, 0, 0, 0, 1),
    ("implicit", 1, 1, 1, 0, 0, 0),
    ("implicit", 0, 0, 0, 1, 1, 1),
    ("implicit", 0, 0, 1, 0, 0, 0),
]


def test_the_rows_cover_all_pairs():
    for first, second in itertools.combinations(range(1 + len(FLAGS)), 2):
        pairs = {(row[first], row[second]) for row in COVERING}
        assert len(pairs) == (2 * len(HEADS) if first == 0 else 4), (first, second)


@pytest.mark.parametrize("row", COVERING, ids=str)
def test_parts_switch_on_one_by_one_and_an_update_moves_parameters(row):
    on = {"noisy": 0.5, "n_step": 3, "explore_exponent": 2.0}
    off = {"noisy": 0.0, "n_step": 1, "explore_exponent": 0.0}
    flags = {
        name: on.get(name, True) if value else off.get(name, False)
        for name, value in zip(FLAGS, row[1:], strict=True)
    }
    settings = TINY | {"env": "jax/CartPole-v1", "head": row[0], "quantiles": 4} | flags
    drive = Drive(DQN, options.make(Config, **settings), [0])
    before = drive.learned[0]
    drive.advance(12)
    for name, (old, new) in _pairs(before, drive.learned[0]).items():
        assert np.isfinite(new).all(), name
        assert (old != new).any(), name


def _pairs(before, after):
    """Leaves of two trees, by name."""
    found = jax.tree_util.tree_leaves_with_path(before)
    return {
        jax.tree_util.keystr(path): (old, new)
        for (path, old), new in zip(found, jax.tree.leaves(after), strict=True)
    }


def test_double_chooses_by_the_online_mean_and_values_by_the_targets_distribution():
    """Two atoms, -1 and 1. Online prefers action 0 in state 2, where the target says -1."""
    agent = make(**SMALL, double=True, head="categorical", value_low=-1.0, value_high=1.0, atoms=2)
    big = 50.0  # logits that make a distribution certain
    online = np.zeros((4, 2, 2), np.float32)
    online[2, 0] = [-big, big]  # worth 1
    online[2, 1] = [big, -big]  # worth -1
    target = np.zeros((4, 2, 2), np.float32)
    target[2, 0] = [big, -big]  # worth -1
    target[2, 1] = [-big, big]  # worth 1
    batch = BATCH._replace(
        r_t=np.zeros(2, np.float32), discount_t=np.ones(2, np.float32), s_t=BATCH.s_t[[0, 0]]
    )

    def params(raw):
        return {"linear": {"w": jnp.asarray(raw.reshape(4, 4)), "b": jnp.zeros(4)}}

    def loss(double):
        agent.config = dataclasses.replace(agent.config, double=double)
        return agent.loss(params(online), params(target), KEYS, drawn(batch))[0]

    # Predictions are even, so that any certain target costs log 2; what differs is which atom.
    grads = jax.grad(lambda p: agent.loss(p, params(target), KEYS, drawn(batch))[0])(params(online))
    # The target is the atom -1: its logit must rise, so its gradient is negative.
    of_taken = np.asarray(grads["linear"]["w"]).reshape(4, 2, 2)[0, 0]
    assert of_taken[0] < 0 < of_taken[1]
    assert float(loss(True)) == pytest.approx(np.log(2), rel=1e-4)
    agent.config = dataclasses.replace(agent.config, double=False)
    grads = jax.grad(lambda p: agent.loss(p, params(target), KEYS, drawn(batch))[0])(params(online))
    of_taken = np.asarray(grads["linear"]["w"]).reshape(4, 2, 2)[0, 0]
    assert of_taken[1] < 0 < of_taken[0]


@pytest.mark.parametrize(
    "settings", [{"noisy": 0.5}, {"head": "implicit", "quantiles": 4}], ids=str
)
def test_prediction_target_and_choice_draw_for_themselves(settings):
    agent = make(**SMALL, double=True, **settings)
    params = agent.network.init(jax.random.key(0), BATCH.s_t, agent.head.taus(None, 2))
    keys = jax.random.split(jax.random.key(1), 3)
    told = [agent._judge(params, key, BATCH.s_t).raw for key in (*keys, keys[0])]
    np.testing.assert_array_equal(told[0], told[3])
    assert (told[0] != told[1]).any()
    assert (told[1] != told[2]).any()
    losses = []
    for i in range(3):  # another key for one of the three alone
        others = [*keys[:i], jax.random.key(2), *keys[i + 1 :]]
        losses.append(float(agent.loss(params, params, others, drawn(BATCH))[0]))
    losses.append(float(agent.loss(params, params, keys, drawn(BATCH))[0]))
    # Where two actions change places by another draw, so does the loss; by the others, always.
    assert len({*losses[:2], losses[3]}) == 3


def test_an_update_draws_with_four_keys_of_its_own():
    """The sample, prediction, target and choice; the next update has others."""
    agent = make(**SMALL, noisy=0.5)
    keys = [agent._keys(jax.random.fold_in(jax.random.key(0), i), 4) for i in range(2)]
    words = np.concatenate([jax.random.key_data(of_update) for of_update in keys])
    assert len(np.unique(words, axis=0)) == 8


def test_acting_draws_fresh_noise_at_every_step_and_judging_none():
    """Noise as large as ten times the weights turns greedy actions over."""
    agent = make(**SMALL, noisy=10.0, epsilon_final=0.0)
    params = agent.network.init(jax.random.key(0), BATCH.s_t, None)
    late = jnp.int32(10**9)
    keys = jax.random.split(jax.random.key(1), 50)
    act = jax.jit(lambda key: agent.act(params, (), BATCH.s_t[:1], None, late, key).action[0])
    acted = [int(act(key)) for key in keys]
    assert set(acted) == {0, 1}
    assert acted == [int(act(key)) for key in keys], "the keys decide"
    still = np.argmax(agent.network.apply(params, None, BATCH.s_t, None)[..., 0], axis=-1)
    for _ in range(3):
        np.testing.assert_array_equal(agent.policy.apply(params, BATCH.s_t), still)


def test_the_correction_of_priorities_becomes_whole_at_the_end():
    """Linearly, from its setting at the first step to 1 at the last of the budget."""
    config = options.make(Config, **TINY | {"env": "jax/CartPole-v1", "prioritized": True})
    kind = kinds.by_priority(1, 0.9, 0.5, 0.4)
    replay = kind.init(1, 40, (), jnp.float32)
    flags = jnp.zeros((1, 8), bool)
    numbers = jnp.arange(8.0)[None]
    steps = Steps(numbers, numbers.astype(jnp.int32), numbers, flags, flags, numbers, ~flags)
    replay = kind.insert(replay, steps)
    key = jax.random.key(0)
    first = kind.sample(replay, key, 16, jnp.float32(0))
    replay = kind.reprioritize(replay, first, jnp.arange(16.0), jnp.bool_(True))
    for share, beta in ((0.0, 0.4), (0.5, 0.7), (1.0, 1.0)):
        weights = kind.sample(replay, key, 16, jnp.float32(share)).weights
        expected = prioritized.sample(replay, key, 16, 1, 0.9, beta).weights
        np.testing.assert_allclose(weights, expected, rtol=1e-6)
        assert len(np.unique(weights)) > 1
    shares = []
    agent = DQN(config, DQN.resources(config))

    def spied(replay, key, batch_size, share):
        shares.append(float(share))
        raise KeyboardInterrupt

    agent.replay = agent.replay._replace(insert=lambda replay, steps: replay, sample=spied)
    state = agent.init(key)
    for updates in (0, 5, 11):  # of 12, six of 72 environment steps each
        with pytest.raises(KeyboardInterrupt):
            agent.step(state._replace(updates=jnp.int32(updates)), None, key)
    assert shares == pytest.approx([1 / 12, 0.5, 1.0])


def test_updates_give_what_they_drew_new_priorities():
    config = options.make(Config, **TINY | {"env": "jax/CartPole-v1", "prioritized": True})
    drive = Drive(DQN, config, [0])
    drive.advance(12)
    priority = np.asarray(jax.device_get(drive.running.state.replay.priority))
    assert len(np.unique(priority[priority > 0])) > 10


def test_the_agents_random_actions_last_until_an_episode_ends():
    """Action 0 is greedy, and action 1 goes on, but for the second, whose episode has just begun."""
    agent = make(**SMALL, explore_exponent=2.0, epsilon_final=0.0)
    prefers_0 = table(TARGET - [[0.0, 9.0]])
    goes_on = exploration.Persisting(jnp.array([1, 1]), jnp.array([5, 5]))
    reset = jnp.array([False, True])
    late = jnp.int32(10**9)
    acted = agent.act(prefers_0, goes_on, BATCH.s_t, reset, late, KEYS[0])
    np.testing.assert_array_equal(acted.action, [1, 0])
    np.testing.assert_array_equal(acted.memory.left, [4, 0])


def test_random_actions_last_as_zeta_says():
    """Durations of 20,000 environments: shares of n^-2; an episode's end ends them."""
    envs = 20_000
    greedy = jnp.full(envs, 3, jnp.int32)
    none = exploration.no_persisting(envs)
    quiet = jnp.zeros(envs, bool)
    explore = jax.jit(exploration.persistent_epsilon_greedy, static_argnums=2)
    key = jax.random.key(0)
    action, persisting = explore(key, greedy, 3, jnp.float32(1.0), none, quiet, 2.0)
    assert set(np.unique(action)) == {0, 1, 2}
    left = np.asarray(persisting.left)
    whole = np.sum(np.arange(1, 10_001.0) ** -2)
    for n in (1, 2, 3):
        assert (left + 1 == n).mean() == pytest.approx(n**-2.0 / whole, abs=0.015)
    assert left.max() > 100
    again, after = explore(key, greedy, 3, jnp.float32(0.0), persisting, quiet, 2.0)
    goes_on = left > 0
    np.testing.assert_array_equal(again[goes_on], action[goes_on])
    np.testing.assert_array_equal(after.left[goes_on], left[goes_on] - 1)
    assert (np.asarray(again)[~goes_on] == 3).all()
    ended, _ = explore(key, greedy, 3, jnp.float32(0.0), persisting, ~quiet, 2.0)
    assert (np.asarray(ended) == 3).all()


@pytest.mark.parametrize("env", ["CartPole-v1", "jax/CartPole-v1"])
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
        Config, env="jax/CartPole-v1", num_envs=4, env_steps=10_000, eval_episodes=16
    )
    drive = Drive(DQN, config, [0])
    drive.advance(5_000)
    key = drive.layout.evaluation_key(0, 5_000)
    scores = drive.experiment.evaluation.scores(drive.learned[0], key, True)
    assert scores["eval/return_mean"] > 200


@pytest.mark.parametrize("behind", [False, True])
def test_updates_of_one_vector_step_are_made_in_one_call(behind, outcome, tmp_path):
    """Bit for bit, wherever rows and checkpoints cut calls short; fewer calls than updates."""
    sizes = {"num_envs": 4, "train_period": 2, "target_period": 2, "behind": behind}
    config = options.make(Config, **TINY | sizes)
    found = []
    for name, periods in {
        "in pairs": {"log_period": 48, "checkpoint_period": 72},
        "one by one": {"log_period": 48, "checkpoint_period": 72, "inner_steps": 1},
        "cut short": {"log_period": 48, "checkpoint_period": 14},
    }.items():
        run = RunConfig(dir=str(tmp_path / name), eval_period=72, **periods)
        result = train(DQN, config, run)
        found.append((outcome(result.folder), digest(result.learned)))
    assert found[0] == found[1] == found[2]
