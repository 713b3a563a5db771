"""VAE: bounds against integrals and exact likelihoods, options that count, refusals, samples."""

import math
import types

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
import scipy.stats

from missing_bits import options
from missing_bits.data.images import Split
from missing_bits.errors import UserError
from missing_bits.eval import latent_variables
from missing_bits.eval.evaluation import Evaluation, Headline
from missing_bits.generative import generators, vae
from missing_bits.generative.generators import ImageGenerator
from missing_bits.generative.vae import VAE, Config, Learned, Networks, Params, Resources
from missing_bits.losses import likelihoods, variational
from missing_bits.losses.variational import Normal

SMALL = dict(vae.TINY)
BITS = {"output": "bernoulli", "binarize": "static"}
NO_JUDGE = Evaluation(Headline("eval/elbo"), lambda *_: {})


class Flat:
    """An encoder whose features are the pixels."""

    def apply(self, variables, x, is_training=False):
        return x.reshape(len(x), -1), {}


def made(config, networks):
    """The method with networks of one's own."""
    data = types.SimpleNamespace(digest="")
    return VAE(config, Resources(data, networks, None, NO_JUDGE))


@pytest.fixture(scope="module")
def small(build):
    return build(VAE, options.make(Config, **SMALL, **BITS))


def first(method):
    return jax.jit(method.init)(jax.random.key(0))


# Bounds.


@pytest.fixture(scope="module")
def one_latent():
    """A model of four bits with one latent, its parameters, and the log joint on a grid."""
    generator = ImageGenerator((2, 2, 1), 1, "mlp", 2)
    head = hk.without_apply_rng(
        hk.transform(lambda x, labels: Normal(*jnp.split(hk.Linear(2)(x), 2, axis=1)))
    )
    networks = Networks(Flat(), head, generator, likelihoods.bernoulli)
    posterior = head.init(jax.random.key(1), jnp.zeros((1, 4)), None)
    decoder = jax.tree.map(lambda leaf: 2 * leaf, generator.init(jax.random.key(2)).params)
    params = Params({}, posterior, decoder)
    x = jnp.array([1.0, 0.0, 0.0, 1.0]).reshape(1, 2, 2, 1)
    z = np.linspace(-8, 8, 4_001)
    log_p = np.asarray(
        networks.log_likelihood(
            Learned(params, {}), x, jnp.asarray(z, jnp.float32)[:, None, None], None
        )
    )[:, 0]
    return networks, params, x, z, log_p + scipy.stats.norm.logpdf(z)


def test_the_bound_equals_numerical_integration(one_latent):
    """E_q[log p(x, z) - log q(z | x)] over a grid; noise at evenly spaced quantiles."""
    networks, params, x, z, log_joint = one_latent
    method = made(options.make(Config, latent=1), networks)
    q = networks.posterior(Learned(params, {}), x, None)
    log_q = scipy.stats.norm.logpdf(z, q.mean[0, 0], math.exp(0.5 * q.log_variance[0, 0]))
    expected = np.trapezoid(np.exp(log_q) * (log_joint - log_q), z)
    count = 2_000
    noise = scipy.stats.norm.ppf((np.arange(count) + 0.5) / count).astype(np.float32)
    copies = jnp.tile(x, (count, 1, 1, 1))
    loss, bound = method.loss(params, {}, copies, None, noise.reshape(1, count, 1))
    assert -loss == pytest.approx(expected, abs=2e-3)
    assert bound.log_likelihood - bound.kl == pytest.approx(expected, abs=2e-3)


def test_many_samples_reach_the_likelihood(one_latent):
    networks, params, x, z, log_joint = one_latent
    exact = math.log(np.trapezoid(np.exp(log_joint), z))
    learned = Learned(params, {})
    found = [
        float(
            latent_variables.importance_bound(networks, learned, x, None, jax.random.key(1), k)[0]
        )
        for k in (1, 4_001)
    ]
    assert found[1] == pytest.approx(exact, abs=0.02)
    assert found[0] != pytest.approx(exact, abs=1e-3)


def test_rounds_of_samples_are_one_bound(one_latent, monkeypatch):
    """7 samples by 3 at once: the same as those seven together."""
    networks, params, x, _, _ = one_latent
    learned = Learned(params, {})
    monkeypatch.setattr(latent_variables, "_DECODED_AT_ONCE", 3)
    key = jax.random.key(5)
    found = latent_variables.importance_bound(networks, learned, x, None, key, 7)
    q = networks.posterior(learned, x, None)
    noise = [jax.random.normal(jax.random.fold_in(key, i), (3, 1, 1)) for i in range(3)]
    z = q.at(jnp.concatenate(noise)[:7])
    weights = networks.log_likelihood(learned, x, z, None) + variational.log_ratio(q, z)
    np.testing.assert_allclose(found, variational.importance_bound(weights), rtol=1e-5)


def test_one_importance_sample_is_the_bound_of_monte_carlo(one_latent):
    """With K = 2 the same draw twice: log p(x, z) - log q(z | x)."""
    networks, params, x, _, _ = one_latent
    method = made(options.make(Config, latent=1, importance_samples=2), networks)
    noise = jnp.full((2, 1, 1), 0.7)
    loss, _ = method.loss(params, {}, x, None, noise)
    q = networks.posterior(Learned(params, {}), x, None)
    z = q.at(noise[:1])
    expected = networks.log_likelihood(Learned(params, {}), x, z, None)
    expected += variational.log_ratio(q, z)
    np.testing.assert_allclose(-loss, expected[0, 0], rtol=1e-5)


@pytest.mark.parametrize("beta", [1.0, 2.0])
def test_several_importance_samples_are_averaged_as_weights_not_as_logarithms(one_latent, beta):
    """Burda et al. 2016, equation 8: log (1 / K) sum_k p(x | z_k) (p(z_k) / q(z_k | x))^beta."""
    networks, params, x, _, _ = one_latent
    method = made(options.make(Config, latent=1, importance_samples=3, beta=beta), networks)
    noise = jnp.array([-2.0, 0.1, 1.5]).reshape(3, 1, 1)
    loss, _ = method.loss(params, {}, x, None, noise)
    q = networks.posterior(Learned(params, {}), x, None)
    logs = []
    for one in noise:
        z = q.at(one[None])
        log_p = networks.log_likelihood(Learned(params, {}), x, z, None)
        logs.append(float((log_p + beta * variational.log_ratio(q, z))[0, 0]))
    assert -loss == pytest.approx(scipy.special.logsumexp(logs) - math.log(3), rel=1e-5)
    assert -loss > np.mean(logs) + 0.01


def test_a_linear_one_reaches_the_likelihood_of_probabilistic_components(optimized):
    """Tipping and Bishop 1999, equations 4 and 7: at the optimum the bound is tight."""
    rng = np.random.default_rng(0)
    count, size, latent = 400, 6, 2
    x = rng.normal(size=(count, latent)) @ rng.normal(size=(latent, size))
    x += 0.4 * rng.normal(size=x.shape) + rng.normal(size=size)[None]
    values, axes = np.linalg.eigh(np.cov(x.T, bias=True))
    values, axes = values[::-1], axes[:, ::-1]
    noise = values[latent:].mean()
    covariance = (axes[:, :latent] * (values[:latent] - noise)[None]) @ axes[:, :latent].T
    covariance += noise * np.eye(size)
    exact = scipy.stats.multivariate_normal(x.mean(axis=0), covariance).logpdf(x).mean()

    class Linear:
        latent = 2

        def apply(self, variables, z, labels=None, is_training=False):
            mean = z @ variables.params["w"] + variables.params["b"][None]
            scale = jnp.broadcast_to(variables.params["log_scale"], mean.shape)
            both = jnp.stack([mean, scale], axis=-1)
            return both.reshape(len(z), 1, size, 2), {}

    def head(features, labels):
        log_variance = hk.get_parameter("log_variance", (latent,), init=jnp.zeros)
        mean = hk.Linear(latent)(features)
        return Normal(mean, jnp.broadcast_to(log_variance, mean.shape))

    networks = Networks(
        Flat(), hk.without_apply_rng(hk.transform(head)), Linear(), likelihoods.gaussian
    )
    method = made(options.make(Config, latent=latent), networks)
    images = jnp.asarray(x, jnp.float32).reshape(count, 1, size, 1)
    start = networks.head.init(jax.random.key(0), jnp.zeros((1, size)), None)
    weights = 0.1 * jax.random.normal(jax.random.key(1), (latent, size))
    decoder = {"w": weights, "b": jnp.zeros(size), "log_scale": jnp.ones(())}
    params = Params({}, start, decoder)
    steps = 1_500
    optimizer = optax.adam(optax.cosine_decay_schedule(0.03, steps))

    def update(carry, key):
        params, opt_state = carry
        noise = jax.random.normal(key, (1, count, latent))
        grads = jax.grad(lambda params: method.loss(params, {}, images, None, noise)[0])(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), None

    keys = jax.random.split(jax.random.key(2), steps)
    (params, _), _ = jax.jit(lambda carry: jax.lax.scan(update, carry, keys))(
        (params, optimizer.init(params))
    )
    noise = jax.random.normal(jax.random.key(3), (200, count, latent))
    losses = jax.lax.map(lambda n: method.loss(params, {}, images, None, n[None])[0], noise)
    assert -np.mean(losses) == pytest.approx(exact, abs=0.5)
    assert -np.mean(losses) < exact + 0.05


# Options.


def losses_of(method, networks_state, x, **changed):
    config = options.replace(method.config, changed)
    other = VAE(config, method.resources)
    noise = jnp.full((config.importance_samples, len(x), config.latent), 0.3)
    return other.loss(networks_state.params, networks_state.statistics, x, None, noise)


def test_beta_weighs_the_divergence_and_free_bits_are_its_least(small):
    state = first(small)
    x = (np.random.default_rng(0).random((4, 16, 16, 1)) < 0.3).astype(np.float32)
    loss, bound = losses_of(small, state, x)
    np.testing.assert_allclose(loss, bound.kl - bound.log_likelihood, rtol=1e-5)
    weighed, _ = losses_of(small, state, x, beta=3.0)
    np.testing.assert_allclose(weighed - loss, 2 * bound.kl, rtol=1e-3, atol=1e-3)
    learned = Learned(state.params, state.statistics)
    kl = np.mean(variational.kl(small.networks.posterior(learned, x, None)), axis=0)  # [Z]
    threshold = float(kl.mean())  # between the two
    free, _ = losses_of(small, state, x, free_bits=threshold)
    np.testing.assert_allclose(free - loss, np.maximum(kl, threshold).sum() - kl.sum(), atol=1e-3)


def test_dynamic_images_are_drawn_anew_at_each_update(build, monkeypatch):
    method = build(VAE, options.make(Config, **SMALL, output="bernoulli", binarize="dynamic"))
    state = jax.eval_shape(method.init, jax.random.key(0))

    class Descending(Exception):
        pass

    def descend(loss, optimizer, params, opt_state, statistics, x, labels, noise):
        raise Descending(np.asarray(x))

    monkeypatch.setattr(vae.optimizers, "descend", descend)

    def seen(number):
        images = np.full((16, 16, 16, 1), 51, np.uint8)  # a fifth of white
        with pytest.raises(Descending) as met:
            method.step(state, Split(images, None), jax.random.key(number))
        return met.value.args[0]

    one = seen(0)
    assert set(np.unique(one)) == {0, 1}
    assert one.mean() == pytest.approx(0.2, abs=0.03)
    assert (one != seen(1)).any()
    assert (one[0] != one[1]).any()


def test_classes_reach_encoder_and_decoder(build, tmp_path):
    method = build(VAE, options.make(Config, **SMALL, conditional=True))
    source = method.source([0])
    assert source.next(None, 0).labels.shape == (1, 16)
    source.close()
    state = first(method)
    whole = method.learned(state)
    learned = whole.networks
    x = np.random.default_rng(0).random((2, 16, 16, 1)).astype(np.float32)
    one, other = (
        method.networks.posterior(learned, x, jnp.array(labels)).mean for labels in ([0, 1], [0, 2])
    )
    assert np.abs(one - other)[0].max() == 0
    assert np.abs(one - other)[1].max() > 1e-3
    method.hand_over(jax.device_get(whole), tmp_path / "generator" / "seed0.safetensors", {})
    loaded = generators.load(tmp_path)
    assert loaded.card["classes"] == [str(digit) for digit in range(10)]
    z = np.zeros((2, 2), np.float32)
    expected = method.networks.generate(learned, z, jnp.array([3, 4]))
    np.testing.assert_allclose(loaded(z, [3, 4]), expected, atol=1e-5)


def test_samples_are_of_classes_as_often_as_in_training():
    """Else real images, of which three in four are of class 1, would be compared with others."""
    networks = types.SimpleNamespace(
        latent=2,
        generate=lambda learned, z, labels: jnp.broadcast_to(
            labels[:, None, None, None] / 255, (len(z), 1, 1, 1)
        ),
    )
    draw = vae.drawing(networks, "logistic", np.array([0, 1, 1, 1], np.int32))
    assert draw(None, jax.random.key(0), 800).mean() == pytest.approx(0.75, abs=0.05)


@pytest.mark.filterwarnings("ignore:The posterior has collapsed")
def test_bits_per_dimension_are_of_the_same_bound_at_every_evaluation(build):
    """And those of the bound of many samples stand apart: 8 bits for 256 numbers are a byte each."""
    method = build(VAE, options.make(Config, **SMALL))
    learned = jax.device_get(method.learned(first(method)))
    scored = latent_variables.evaluation(
        method.resources.data,
        method.networks,
        latent_variables.Judging(10, 4),
        "logistic",
        conditional=False,
    )
    learned = learned.networks
    early, last = (scored.scores(learned, jax.random.key(0), at_last) for at_last in (False, True))
    name = "eval/bits_per_dimension"
    assert early[name] == last[name] == pytest.approx(-last["eval/elbo"] / (256 * math.log(2)))
    tight = -last["eval/log_likelihood"] / (256 * math.log(2))
    assert last["eval/tight_bits_per_dimension"] == pytest.approx(tight)
    assert tight < last[name]


@pytest.mark.filterwarnings("ignore:The posterior has collapsed")
def test_scores_draw_their_own_noise_and_the_dear_ones_come_last(small):
    """Whatever the key; the bound of many samples is at least that of one."""
    learned = jax.device_get(small.learned(first(small)))
    one, other = (small.evaluation.scores(learned, jax.random.key(seed), False) for seed in (0, 1))
    assert one == other
    assert set(one) == {"eval/elbo", "eval/kl", "eval/reconstruction", "eval/active_units"}
    assert one["eval/elbo"] == pytest.approx(one["eval/reconstruction"] - one["eval/kl"], rel=1e-5)
    last = small.evaluation.scores(learned, jax.random.key(0), True)
    assert last["eval/log_likelihood"] > last["eval/elbo"]
    assert last["eval/frechet_distance"] > 0


def test_a_posterior_that_is_the_prior_is_warned_of(small):
    learned = jax.device_get(small.learned(first(small)))
    params = learned.networks.params
    params = params._replace(posterior=jax.tree.map(np.zeros_like, params.posterior))
    collapsed = learned._replace(networks=learned.networks._replace(params=params))
    with pytest.warns(UserWarning, match="The posterior has collapsed"):
        scores = small.evaluation.scores(collapsed, jax.random.key(0), False)
    assert scores["eval/active_units"] == 0
    assert scores["eval/kl"] == 0


def test_samples_of_bits_are_bits_and_follow_their_probability(small):
    learned = small.learned(first(small)).networks
    draw = vae.drawing(small.networks, "bernoulli", None)
    images = draw(learned, jax.random.key(0), 600)
    assert images.shape == (600, 16, 16, 1)
    assert set(np.unique(images)) == {0, 255}
    z = jax.random.normal(jax.random.split(jax.random.key(0), 3)[0], (600, 2))
    means = small.networks.generate(learned, z, None)
    assert images.mean() / 255 == pytest.approx(float(jnp.mean(means)), abs=0.01)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"latent": 0}, "--latent is 0"),
        ({"latent": 10**9}, "--latent is 1000000000; it must lie between 1 and 65536"),
        ({"decoder_width": 10**6}, "--decoder-width is 1000000"),
        ({"output": "bernoulli"}, "--data=digits has grays; name a protocol"),
        ({"binarize": "static"}, "--binarize=static is for --output=bernoulli"),
        ({"importance_samples": 0}, "--importance-samples is 0"),
        ({"importance_samples": 5, "free_bits": 0.1}, "--free-bits is 0.1"),
        ({"beta": -1.0}, "--beta is -1.0"),
        ({"network": "convnet", "batch_size": 1}, "--batch-size is 1"),
        ({"network": "full_resolution"}, "--network=full_resolution is for --exp=denoiser"),
        ({"data": "npz:plain.npz", "conditional": True}, "--conditional needs labels"),
        ({"bound_samples": 0}, "--bound-samples is 0"),
    ],
)
def test_settings_that_cannot_run_are_refused_by_name(changed, named, build, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (60, 16, 16), np.uint8)
    np.savez("plain.npz", images=images)
    with pytest.raises(UserError) as refused:
        build(VAE, options.make(Config, **{**SMALL, **changed}))
    assert named in str(refused.value)


def test_it_learns_digits_beyond_a_bound_of_separate_pixels(build, trained, optimized):
    """200 updates; bits of each pixel alone know nothing of the others."""
    sizes = {"updates": 200, "batch_size": 64, "latent": 8, "decoder_width": 32}
    config = options.make(Config, **{**SMALL, **BITS, **sizes}, optimizer={"learning_rate": 3e-3})
    method = build(VAE, config)
    learned = trained(method, 200)
    scores = method.evaluation.scores(learned, jax.random.key(0), False)
    test = method.resources.data.test.images / 255
    share = np.clip(method.resources.data.train.images.mean(axis=0) / 255, 1e-3, 1 - 1e-3)
    alone = test * np.log(share)[None] + (1 - test) * np.log(1 - share)[None]
    alone = alone.sum(axis=(1, 2, 3)).mean()
    assert scores["eval/elbo"] > alone + 10, (scores, alone)
    assert scores["eval/active_units"] >= 3
