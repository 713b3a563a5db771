"""iBOT: the loss by hand, what it ignores, the teacher and its centers, schedules, learning."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from missing_bits import collectives, options
from missing_bits.augment import masking
from missing_bits.augment.views import Views
from missing_bits.data.images import ImageSet, Split
from missing_bits.data.load import Images
from missing_bits.encoders import files
from missing_bits.errors import UserError
from missing_bits.metrics import Mean
from missing_bits.ssl import ibot
from missing_bits.ssl.ibot import IBOT, Config, Networks, distributions, moved_centers

objective = jax.jit(ibot.objective)
AS_THEY_ARE = Views(
    crop_scale=(1.0, 1.0),
    crop_ratio=(1.0, 1.0),
    flip=0.0,
    jitter=0.0,
    gray=0.0,
    solarize=(0.0, 0.0),
)
TINY = options.make(
    Config,
    data="digits",
    network="vit_nano",
    updates=10,
    batch_size=16,
    prototypes=6,
    head_hidden=8,
    head_bottleneck=4,
    views=ibot.PRESETS["digits"]["views"],
    optimizer={"warmup": 0.0},
)


@pytest.fixture(scope="module")
def resources():
    """What all small methods on digits share."""
    return IBOT.resources(TINY)


@pytest.fixture(scope="module")
def make(resources):
    """The function that makes a small method, with some settings changed."""
    return lambda **changed: IBOT(options.replace(TINY, changed), resources)


@pytest.fixture(scope="module")
def method(make):
    """Its teacher becomes the student at update 0 and stays as it is when the budget is spent."""
    return make(momentum=0.0)


@pytest.fixture(scope="module")
def init(method):
    return jax.jit(method.init)


@pytest.fixture(scope="module")
def step(method):
    return jax.jit(method.step)


@pytest.fixture(scope="module")
def start(method, init):
    """A state whose student and teacher differ, and a batch."""
    source = method.source([0])
    batch = jax.tree.map(lambda x: x[0], source.next(None, 0))
    source.close()
    state = init(jax.random.key(0))
    return state._replace(teacher=init(jax.random.key(1)).teacher), batch


def random_terms(seed, patches=5, prototypes=4):
    """Logits, targets [4, 1 + 5, 4] and masks [4, 5]."""
    rng = np.random.default_rng(seed)
    logits, teacher = rng.normal(size=(2, 4, 1 + patches, prototypes)).astype(np.float32)
    mask = rng.random((4, patches)) < rng.random((4, 1))
    return jnp.asarray(logits), jax.nn.softmax(jnp.asarray(teacher) * 3), jnp.asarray(mask)


def test_loss_by_hand():
    """One image, two patches, two prototypes; logits are the temperature times log p.

    Class tokens: p_a = (3/4, 1/4) against q_b = (0, 1) costs log 4, p_b = (1/2, 1/2) against q_a
    costs log 2. Patches: view a has both masked, (1/4, 3/4) against (1, 0) and (1/2, 1/2) against
    (1/2, 1/2), which cost log 4 and log 2; view b has none. Hence (log 4 + log 2) / 2 and ((log 4 +
    log 2) / 2 + 0) / 2.
    """
    p = jnp.array(
        [[[3 / 4, 1 / 4], [1 / 4, 3 / 4], [1 / 2, 1 / 2]], [[1 / 2, 1 / 2], [0.9, 0.1], [0.9, 0.1]]]
    )
    q = jnp.array([[[1.0, 0.0], [1.0, 0.0], [0.5, 0.5]], [[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]]])
    mask = jnp.array([[True, True], [False, False]])
    class_loss, patch_loss = objective(0.1 * jnp.log(p), q, mask, 0.1)
    assert class_loss == pytest.approx(1.5 * np.log(2), rel=1e-5)
    assert patch_loss == pytest.approx(0.75 * np.log(2), rel=1e-5)


def test_loss_pairs_the_views_of_one_image():
    """Three images whose views agree, and the same with the second views in another order."""
    q = jnp.tile(
        jax.nn.one_hot(jnp.array([0, 1, 2]), 3)[:, None], (2, 2, 1)
    )  # [6, 2, 3], all a, then all b
    none = jnp.zeros((6, 1), bool)
    assert objective(q, q, none, 0.01)[0] < 1e-6
    assert objective(q, q[jnp.array([0, 1, 2, 5, 3, 4])], none, 0.01)[0] > 1


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_only_masked_patches_count(seed):
    """What teacher or student say of visible patches changes nothing; of masked ones, it does."""
    logits, targets, mask = random_terms(seed)
    others, other_targets, _ = random_terms(seed + 1)
    keep = jnp.concatenate([jnp.ones((4, 1), bool), mask], axis=1)[:, :, None]
    base = objective(logits, targets, mask, 0.1)
    changed = objective(
        jnp.where(keep, logits, others), jnp.where(keep, targets, other_targets), mask, 0.1
    )
    chex.assert_trees_all_equal(changed, base)
    if mask.any():
        of_masked = jnp.where(mask[:, :, None], other_targets[:, 1:], targets[:, 1:])
        assert objective(logits, targets.at[:, 1:].set(of_masked), mask, 0.1)[1] != base[1]


def test_views_without_masks_have_no_patch_loss_and_finite_gradients():
    logits, targets, mask = random_terms(0)
    none = jnp.zeros_like(mask)
    assert objective(logits, targets, none, 0.1)[1] == 0
    gradient = jax.grad(lambda x: sum(objective(x, targets, none, 0.1)))(logits)
    assert bool(jnp.isfinite(gradient).all())
    assert bool((gradient[:, 0] != 0).all())
    assert not gradient[:, 1:].any()


def test_no_gradient_reaches_the_teacher():
    logits, teacher, mask = random_terms(0)

    def loss(teacher, logits):
        return sum(objective(logits, distributions(teacher, jnp.zeros((2, 4)), 0.05), mask, 0.1))

    of_teacher, of_student = jax.grad(loss, (0, 1))(teacher, logits)
    assert not of_teacher.any()
    assert of_student.any()


def test_distributions_by_hand():
    """(log 8 - log 2) / 2 = log 2 for the class token, log 4 / 2 for the patch: odds of 2 to 1."""
    logits = jnp.log(jnp.array([[[8.0, 1.0], [1.0, 16.0]]]))
    centers = jnp.log(jnp.array([[2.0, 1.0], [1.0, 4.0]]))
    np.testing.assert_allclose(
        distributions(logits, centers, 2.0), [[[2 / 3, 1 / 3], [1 / 3, 2 / 3]]], rtol=1e-6
    )


def test_centers_by_hand():
    """Means are (1 + 3) / 2 = 2 and (10 + 20 + 30 + 40) / 4 = 25; a tenth is new."""
    logits = jnp.array([[[1.0], [10.0], [20.0]], [[3.0], [30.0], [40.0]]])
    new = moved_centers(jnp.array([[5.0], [5.0]]), logits, 0.9)
    np.testing.assert_allclose(new, [[0.9 * 5 + 0.1 * 2], [0.9 * 5 + 0.1 * 25]], rtol=1e-6)


@pytest.mark.parametrize("devices", [2, 4])
def test_centers_are_of_the_batch_of_all_devices(devices):
    logits = jax.random.normal(jax.random.key(0), (8, 6, 4)) + jnp.arange(8.0).reshape(8, 1, 1)
    centers = jax.random.normal(jax.random.key(1), (2, 4))
    shared = jax.pmap(
        lambda x: moved_centers(centers, x, 0.9), collectives.AXIS, devices=jax.devices()[:devices]
    )(logits.reshape(devices, -1, 6, 4))  # fmt: skip
    expected = moved_centers(centers, logits, 0.9)
    np.testing.assert_allclose(shared, jnp.broadcast_to(expected, shared.shape), rtol=1e-5)


def test_centers_move_after_the_loss_has_used_the_old_ones(method, step, start):
    """The first update uses zeros and makes a tenth of the means of them, the second uses these."""
    state, batch = start

    @jax.jit
    def expected(state, centers, key):
        x, mask = method.draw(jax.random.split(key, 16), batch.images)
        logits = method.see(state.teacher, x).logits
        targets = distributions(logits, centers, method.temperature(state.updates))
        entropy = -jnp.mean(jnp.sum(targets[:, 0] * jnp.log(targets[:, 0] + 1e-30), axis=1))
        means = jnp.stack([logits[:, 0].mean(0), logits[:, 1:].mean((0, 1))])
        return (
            method.loss(state.params, x, mask, targets)[0],
            entropy,
            0.9 * centers + 0.1 * means,
            mask,
        )

    centers = jnp.zeros((2, 6))
    for update in range(2):
        key = jax.random.key(update)
        loss, entropy, centers, mask = expected(state, centers, key)
        state, metrics = step(state, batch, key)
        assert metrics["train/loss"] == pytest.approx(float(loss), rel=1e-4)
        assert metrics["train/teacher_entropy"] == pytest.approx(float(entropy), rel=1e-4)
        np.testing.assert_allclose(state.centers, centers, rtol=1e-4, atol=1e-6)
        assert (mask[:16] != mask[16:]).any()  # each view has its own


def test_patches_count_as_much_as_their_weight(make, start):
    """With a weight of 0 masked patches change the loss no more, though they are still told."""
    state, _ = start
    x = jax.random.uniform(jax.random.key(0), (2, 16, 16, 1))
    mask = jnp.zeros((2, 16), bool).at[:, 5].set(True)
    targets = jnp.full((2, 1 + 16, 6), 1 / 6)
    loss = jax.jit(lambda weight: make(patch_weight=weight).loss(state.params, x, mask, targets))
    for weight in (0.0, 0.5, 2.0):
        found, terms = loss(weight)
        assert terms.of_patches > 0
        assert found == pytest.approx(float(terms.of_class + weight * terms.of_patches), rel=1e-6)


@pytest.mark.parametrize(("probability", "count"), [(0.0, 0), (1.0, 1)])
def test_a_loss_of_patches_exists_where_patches_are_masked(make, start, probability, count):
    """Without any it is not 0: it is absent."""
    state, batch = start
    step = make(mask_probability=probability).step
    shapes = jax.eval_shape(step, state, batch, jax.random.key(0))[1]
    assert isinstance(shapes["train/patch_loss"], Mean)
    found = jax.jit(step)(state, batch, jax.random.key(0))[1]["train/patch_loss"]
    assert found.count == count
    assert (found.total > 0) == bool(count)


def test_teacher_at_the_ends_of_its_momentum_bit_for_bit(step, start):
    state, batch = start
    after, _ = step(state, batch, jax.random.key(0))  # momentum 0
    chex.assert_trees_all_equal(after.teacher, after.params.networks)
    assert all(
        jax.tree.leaves(jax.tree.map(lambda a, b: bool((a != b).any()), after.params, state.params))
    )
    after, _ = step(state._replace(updates=jnp.int32(10)), batch, jax.random.key(0))  # momentum 1
    chex.assert_trees_all_equal(after.teacher, state.teacher)
    assert after.updates == 11


def test_between_its_ends_the_teacher_is_the_published_average_of_itself_and_the_new_student(
    step, start
):
    """At half of the budget the momentum is half way from 0 to 1."""
    state, batch = start
    after, _ = step(state._replace(updates=jnp.int32(5)), batch, jax.random.key(0))
    student = after.params.networks
    expected = jax.tree.map(lambda t, s: 0.5 * t + 0.5 * s, state.teacher, student)
    chex.assert_trees_all_close(after.teacher, expected, rtol=1e-5, atol=1e-7)


def test_the_teacher_is_what_is_handed_over(method, start):
    state, _ = start
    chex.assert_trees_all_equal(method.learned(state).params, state.teacher.encoder)
    networks = (state.teacher, state.params.networks)
    of_teacher, of_student = (of.encoder["vision_transformer/embed"]["w"] for of in networks)
    assert (of_teacher != of_student).any()


def test_student_and_teacher_start_alike(init):
    state = init(jax.random.key(2))
    chex.assert_trees_all_equal(state.params.networks, state.teacher)


def test_student_and_teacher_start_from_the_encoder_of_another_run(method, init, tmp_path):
    learned = jax.device_get(method.learned(init(jax.random.key(1))))
    method.hand_over(learned, tmp_path / "encoder" / "seed1.safetensors", {})
    start = files.start(method.encoder, str(tmp_path))
    config = options.replace(TINY, {"init_from": str(tmp_path)})
    second = IBOT(config, method.resources._replace(start=start))
    state = jax.jit(second.init)(jax.random.key(2))
    fresh = init(jax.random.key(2))
    chex.assert_trees_all_equal(state.teacher, Networks(learned.params, fresh.teacher.head))
    chex.assert_trees_all_equal(state.params.networks, state.teacher)
    embeds = [of.teacher.encoder["vision_transformer/embed"]["w"] for of in (state, fresh)]
    assert (embeds[0] != embeds[1]).any()


@pytest.mark.parametrize("budget", [1, 2, 3, 10, 1_000])
@pytest.mark.parametrize("warmup", [0.0, 0.3, 1.0])
def test_temperature_starts_at_the_first_and_ends_at_the_last(make, budget, warmup):
    method = make(updates=budget, teacher_warmup=warmup)
    values = np.array([method.temperature(i) for i in range(min(budget, 20))])
    assert values[0] == np.float32(0.04)
    assert budget == 1 or method.temperature(budget - 1) == np.float32(0.07)
    assert (np.diff(values) >= 0).all()
    if (budget, warmup) == (10, 1.0):  # in nine equal steps
        np.testing.assert_allclose(values, 0.04 + 0.03 * np.arange(10) / 9, rtol=1e-5)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.996, 1.0])
def test_momentum_rises_as_a_cosine_to_one(make, momentum):
    """A third of the way the cosine is 1/2: 3/4 of the distance to 1 is left."""
    schedule = make(updates=30, momentum=momentum).momentum
    assert schedule(0) == pytest.approx(momentum, abs=1e-7)
    assert schedule(10) == pytest.approx(1 - (1 - momentum) * 3 / 4, abs=1e-6)
    assert schedule(30) == 1


def test_masks_come_at_their_rate_and_within_their_shares(method):
    """600 views of 16 patches: half are masked, but for three deviations of sqrt(600) / 2."""
    mask = jax.jit(jax.vmap(method.mask))(jax.random.split(jax.random.key(0), 600))
    assert mask.shape == (600, 16)
    counts = np.asarray(mask.sum(1))
    assert abs((counts > 0).sum() - 300) < 3 * np.sqrt(600) / 2
    # Sides are rounded: half of 16 patches, at an aspect ratio of 1, are 2.8 x 2.8, hence 3 x 3.
    assert counts.max() <= 9
    assert len(np.unique(np.asarray(mask), axis=0)) > 20


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_views_can_be_masked_never_or_always(make, probability):
    mask = jax.vmap(make(mask_probability=probability).mask)
    assert (mask(jax.random.split(jax.random.key(0), 600)).any(axis=1) == bool(probability)).all()


def test_the_student_is_blind_to_masked_pixels_and_the_teacher_is_not(method, start):
    state, _ = start
    x = jax.random.uniform(jax.random.key(0), (2, 16, 16, 1))
    mask = jnp.zeros((2, 16), bool).at[:, 5].set(True)  # rows and columns 4 to 7
    changed = x.at[:, 4:8, 4:8].set(1 - x[:, 4:8, 4:8])
    networks = state.params.networks
    token = state.params.mask_token
    student = jax.jit(lambda x, mask: method.see(networks, x, mask, token).logits)
    teacher = jax.jit(lambda x: method.see(state.teacher, x).logits)
    chex.assert_trees_all_equal(student(x, mask), student(changed, mask))
    seen = jnp.zeros((2, 16), bool).at[:, 6].set(True)
    assert (student(x, seen) != student(changed, seen)).any()
    assert (teacher(x) != teacher(changed)).any()


def test_logits_are_cosines(method, start):
    """Whatever the lengths of the prototypes' weights are."""
    state, batch = start
    x = jnp.asarray(batch.images)
    see = jax.jit(method.see)
    found = see(state.teacher, x).logits
    assert found.shape == (16, 1 + 16, 6)
    assert jnp.abs(found).max() <= 1 + 1e-5
    longer = {
        name: jax.tree.map(lambda w: 7 * w, leaves) if "prototypes" in leaves else leaves
        for name, leaves in state.teacher.head.items()
    }
    assert any("prototypes" in leaves for leaves in longer.values())
    of_longer = see(state.teacher._replace(head=longer), x).logits
    np.testing.assert_allclose(of_longer, found, atol=1e-5)


@pytest.mark.parametrize(("length", "clipped"), [(300.0, 3.0), (2.0, 2.0)])
def test_a_long_gradient_is_scaled_to_the_length_of_clip(method, length, clipped):
    """One leaf has 3/5 of it, the other 4/5; Adam's average of gradients has taken in a tenth."""
    params = {"a": jnp.ones(1), "b": jnp.ones(1)}
    grads = {"a": jnp.array([0.6 * length]), "b": jnp.array([0.8 * length])}
    _, opt_state = method.optimizer.update(grads, method.optimizer.init(params), params)
    gathered = optax.tree.get(opt_state, "mu")
    expected = {"a": jnp.array([0.1 * 0.6 * clipped]), "b": jnp.array([0.1 * 0.8 * clipped])}
    chex.assert_trees_all_close(gathered, expected, rtol=1e-5)


def test_the_recipe_for_imagenet_makes_a_step_of_the_right_shape(monkeypatch):
    """On stand-in images of the real size, traced and not run.

    Epochs have 1,281,167 images: 800 of them, of which 10 and 30 warm up; step sizes from 2e-3 to
    1e-6.
    """
    images = np.random.default_rng(0).integers(0, 256, (4, 224, 224, 3), np.uint8)
    split = Split(images, np.arange(4, dtype=np.int32))
    monkeypatch.setattr(Images, "load", lambda _: ImageSet(split, split, tuple("abcd"), "digest"))
    config = options.make(Config, data="imagenet", **ibot.PRESETS["imagenet"])
    IBOT.check(config)
    method = IBOT(config, IBOT.resources(config))
    key, batches = jax.random.key(0), jax.ShapeDtypeStruct((1024, 224, 224, 3), jnp.uint8)
    state = jax.eval_shape(method.init, key)
    after, metrics = jax.eval_shape(method.step, state, Split(batches, None), key)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, after)
    assert metrics["train/loss"].shape == ()
    assert state.centers.shape == (2, 8192)
    epoch = 1_281_167 / 1024
    assert config.updates == int(np.ceil(800 * epoch))
    assert config.teacher_warmup * config.updates == pytest.approx(30 * epoch, rel=1e-5)
    schedule = ibot.optimizers.schedule(config.optimizer, config.updates)
    assert schedule(int(10 * epoch)) == pytest.approx(2e-3, rel=1e-3)
    assert schedule(config.updates) == pytest.approx(1e-6, rel=1e-3)


def test_no_label_reaches_the_update(method):
    source = method.source([0])
    assert source.next(None, 0).labels is None
    source.close()


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"momentum": 1.5}, "--momentum is 1.5"),
        ({"momentum": -0.1}, "--momentum is -0.1"),
        ({"center_momentum": 2.0}, "--center-momentum"),
        ({"mask_probability": 1.1}, "--mask-probability"),
        ({"mask_low": 0.0}, "--mask-low is 0.0"),
        ({"mask_high": 1.2}, "--mask-high is 1.2"),
        ({"mask_low": 0.6}, "--mask-low is 0.6 and --mask-high 0.5"),
        ({"student_temperature": 0.0}, "--student-temperature"),
        ({"teacher_temperature": (0.04, 0.0)}, "--teacher-temperature"),
        ({"teacher_warmup": 1.5}, "--teacher-warmup"),
        ({"prototypes": 0}, "--prototypes is 0"),
        ({"clip": 0.0}, "--clip"),
        ({"patch_weight": -1.0}, "--patch-weight is -1.0"),
        ({"network": "convnet"}, "--network=convnet has no patches to mask"),
        ({"init_from": "no/such/run"}, "no/such/run"),
        ({"batch_size": 100_000}, "--batch-size"),
        ({"views": {"flip": 1.5}}, "--views.flip"),
        ({"optimizer": {"learning_rate": -1.0}}, "--optimizer.learning-rate"),
        ({"data": "npz:odd.npz"}, "patches of 4 x 4 pixels"),
        ({"data": "npz:one.npz"}, "at least two patches"),
    ],
)
def test_settings_that_cannot_run_are_refused_by_name(changed, named, build, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, side in (("odd", 30), ("one", 4)):
        images = np.random.default_rng(0).integers(0, 256, (40, side, side, 3), np.uint8)
        np.savez(name, images=images)
    with pytest.raises(UserError, match=named):
        build(IBOT, options.replace(TINY, changed)).source([0])


def test_it_learns_what_stripes_hide(build, stripes):
    """Fifty updates: the student guesses the teacher's hidden patches of images it has not seen.

    Whoever guesses the same for all of them can do no better than the entropy of what the teacher
    makes of all together, which is 0 for a teacher that has collapsed.
    """
    sizes = {"prototypes": 16, "head_hidden": 32, "head_bottleneck": 16}
    changed = {"data": stripes, "updates": 50, "momentum": 0.9, "views": AS_THEY_ARE, **sizes}
    method = build(IBOT, options.replace(TINY, changed))
    step = jax.jit(method.step)
    state = jax.jit(method.init)(jax.random.key(0))
    source = method.source([0])
    for update in range(50):
        batch = jax.tree.map(lambda leaf: leaf[0], source.next(None, update))
        state, _ = step(state, batch, jax.random.key(update))
    source.close()

    @jax.jit
    def judged(state, x):
        keys = jax.random.split(jax.random.key(1), len(x))
        mask = jax.vmap(lambda key: masking.block(key, 4, 4, 0.25, 0.5))(keys)
        targets = distributions(method.see(state.teacher, x).logits, state.centers, 0.07)
        student = method.see(state.params.networks, x, mask, state.params.mask_token)
        return mask, targets[:, 1:], jax.nn.log_softmax(student.logits / 0.1)[:, 1:]

    x = method.resources.data.test.images / np.float32(255)
    mask, targets, log_p = jax.tree.map(np.asarray, judged(state, x))
    q = targets[mask]  # [hidden patches, K]
    error = -np.mean(np.sum(q * log_p[mask], axis=1))
    mean = q.mean(axis=0)
    constant = -np.sum(mean * np.log(mean + 1e-30))
    assert constant > 1
    assert error < 0.5 * constant, (error, constant)
