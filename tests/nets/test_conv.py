"""The convolution equals the stock one, forward and both gradients, wherever it is used."""

import functools
import re

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from missing_bits.nets import conv


def stock(x, w, stride, padding):
    stride = (stride, stride) if isinstance(stride, int) else stride
    return lax.conv_general_dilated(
        x, w, stride, padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def products(convolve, stride, padding):
    """Returns the function of x, w, dy that gives y and gradients of the sum of y dy to x and w."""

    def all_three(x, w, dy):
        y, vjp = jax.vjp(lambda x, w: convolve(x, w, stride, padding), x, w)
        return y, *vjp(dy)

    return all_three


def inputs(x_shape, w_shape, stride, padding, dtype=jnp.float32, copies=()):
    draw = np.random.default_rng(0).normal
    y_shape = jax.eval_shape(
        lambda x, w: stock(x, w, stride, padding), jnp.zeros(x_shape), jnp.zeros(w_shape)
    ).shape
    return [
        jnp.asarray(draw(size=(*copies, *shape)), dtype) for shape in (x_shape, w_shape, y_shape)
    ]


def assert_close(results, expected, tolerance=1e-5):
    """Holds errors against the largest entry: sums are rounded to the scale of their terms."""
    for a, b in zip(results, expected, strict=True):
        assert a.shape == b.shape
        a = np.asarray(a, np.float64)
        b = np.asarray(b, np.float64)
        np.testing.assert_allclose(
            a, b, rtol=0, atol=tolerance * max(np.abs(b).max(initial=0), 1e-3)
        )


@st.composite
def cases(draw):
    """Draws shapes of x and w, stride and padding with at least one window."""
    kernel = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    side = st.integers(0, 9)
    x_shape = (
        draw(st.integers(1, 11)),
        kernel[0] + draw(side),
        kernel[1] + draw(side),
        draw(st.integers(1, 4)),
    )
    stride = draw(st.one_of(st.integers(1, 3), st.tuples(st.integers(1, 3), st.integers(1, 3))))
    around = st.tuples(st.integers(0, 4), st.integers(0, 4))
    padding = draw(st.one_of(st.sampled_from(["SAME", "VALID"]), st.tuples(around, around)))
    return x_shape, (*kernel, x_shape[3], draw(st.integers(1, 4))), stride, padding


@settings(max_examples=40, deadline=None, derandomize=True)  # few shapes end XLA's compiler
@given(cases())
def test_all_products_equal_the_stock_ones(case):
    arrays = inputs(*case)
    ours, theirs = (
        jax.jit(products(convolve, *case[2:]))(*arrays) for convolve in (conv.conv2d, stock)
    )
    assert_close(ours, theirs)


def by_windows(x, w, stride, padding):
    """The convolution as a sum over the places of the kernel."""
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    height, width = ((x.shape[i] - w.shape[i - 1]) // stride + 1 for i in (1, 2))
    return sum(
        x[:, i : i + height * stride : stride, j : j + width * stride : stride] @ w[i, j]
        for i in range(w.shape[0])
        for j in range(w.shape[1])
    )


@pytest.mark.parametrize(
    "case",
    [
        ((8, 4, 6, 2), (3, 2, 2, 1), 2, ((1, 1), (1, 2))),
        ((2, 2, 7, 1), (4, 2, 1, 3), 2, ((1, 1), (0, 1))),
        ((2, 9, 2, 1), (2, 3, 1, 2), 3, ((1, 0), (2, 1))),
    ],
)
def test_kernels_larger_than_what_they_give(case):
    """The first one ends XLA's compiler, and the process, where JAX states the gradient."""
    arrays = inputs(*case)
    ours, theirs = (
        jax.jit(products(convolve, *case[2:]))(*arrays) for convolve in (conv.conv2d, by_windows)
    )
    assert_close(ours, theirs)


@pytest.mark.parametrize(
    "case",
    [
        (
            (21, 18, 16, 3),
            (3, 3, 3, 5),
            1,
            "SAME",
        ),  # chunks of 8 examples, the last one filled with 3 zeros
        ((40, 11, 10, 2), (4, 3, 2, 3), (2, 1), ((3, 0), (1, 2))),  # 6 x 11 places: chunks of 31
        ((9, 32, 32, 3), (4, 4, 3, 8), 4, "VALID"),  # patches
        ((9, 33, 17, 3), (1, 2, 3, 8), (3, 2), "SAME"),  # windows apart from each other
    ],
)
def test_chunked_batches_and_separate_windows_equal_the_stock_ones(case):
    arrays = inputs(*case)
    ours, theirs = (
        jax.jit(products(convolve, *case[2:]))(*arrays) for convolve in (conv.conv2d, stock)
    )
    assert_close(ours, theirs)


def second(convolve, stride, padding):
    """Returns the function of x, w, dy that gives gradients of the length of the gradients."""

    def lengths(x, w, dy):
        _, vjp = jax.vjp(lambda x, w: convolve(x, w, stride, padding), x, w)
        dx, dw = vjp(dy)
        return jnp.sum(jnp.square(dx)) + 0.5 * jnp.sum(jnp.sin(dw))

    return jax.grad(lengths, argnums=(0, 1, 2))


@pytest.mark.parametrize(
    "case",
    [
        ((3, 7, 6, 2), (3, 2, 2, 3), (2, 1), "SAME"),
        ((3, 8, 8, 2), (4, 4, 2, 3), 2, ((1, 2), (0, 3))),
        ((2, 6, 7, 3), (2, 2, 3, 2), 3, "VALID"),  # windows apart from each other
    ],
)
def test_second_derivatives_equal_the_stock_ones_in_float64(case):
    arrays = inputs(*case)
    ours = jax.jit(second(conv.conv2d, *case[2:]))(*arrays)
    with jax.enable_x64(True):
        wide = [jnp.asarray(np.asarray(a, np.float64)) for a in arrays]
        theirs = jax.jit(second(stock, *case[2:]))(*wide)
        assert all(a.dtype == jnp.float64 for a in theirs)
        assert_close(ours, theirs)


def penalty_descent(convolve, x, w, steps):
    """Descends two kernels, inside a loop, along a penalty on the gradient to the images."""

    def penalty(w):
        def score(x):
            y = jax.nn.leaky_relu(convolve(x, w, 2, "SAME"), 0.2)
            return jnp.sum(jnp.square(convolve(y, w.transpose(0, 1, 3, 2), 1, "SAME")))

        return jnp.mean(jnp.square(jax.grad(score)(x)))

    return lax.fori_loop(0, steps, lambda _, w: w - 1e-3 * jax.grad(penalty)(w), w)


def test_no_convolution_of_a_penalty_is_in_a_slow_layout():
    """Every one that XLA's CPU backend is given has images NHWC, kernels HWIO, results NHWC."""
    x, w, _ = inputs((8, 9, 8, 3), (3, 3, 3, 4), 2, "SAME")
    convolve = functools.partial(penalty_descent, conv.conv2d)
    text = jax.jit(convolve).trace(x, w, 2).lower(lowering_platforms=("cpu",)).as_text()
    layouts = re.findall(r"dim_numbers = \[(.*?)\]x\[(.*?)\]->\[(.*?)\]", text)
    assert len(layouts) >= 8
    assert {layout[0] for layout in layouts} == {"b, 0, 1, f"}
    assert {layout[1] for layout in layouts} == {"0, 1, i, o"}
    expected = w
    for _ in range(2):
        expected = penalty_descent(stock, x, expected, 1)
    assert_close([jax.jit(convolve)(x, w, 2)], [expected])


def test_one_window_by_hand():
    # One window, so y = sum of x w = 1*5 + 2*6 + 3*7 + 4*8 = 70; its gradients are w and x.
    x = jnp.array([1.0, 2, 3, 4]).reshape(1, 2, 2, 1)
    w = jnp.array([5.0, 6, 7, 8]).reshape(2, 2, 1, 1)
    y, dx, dw = products(conv.conv2d, 1, "VALID")(x, w, jnp.ones((1, 1, 1, 1)))
    assert y.item() == 70
    np.testing.assert_array_equal(dx, w.reshape(x.shape))
    np.testing.assert_array_equal(dw, x.reshape(w.shape))


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (1, 2)])
def test_bfloat16_rounds_only_the_result(kernel, stride):
    case = (9, 17, 16, 8), (kernel, kernel, 8, 16), stride, "SAME"
    arrays = inputs(*case, jnp.bfloat16)
    ours = jax.jit(products(conv.conv2d, *case[2:]))(*arrays)
    exact = products(stock, *case[2:])(*(a.astype(jnp.float32) for a in arrays))
    assert [a.dtype for a in ours] == [jnp.bfloat16] * 3
    assert_close(
        ours, exact, 2**-8
    )  # bfloat16 keeps 8 bits: rounding errs by at most 2^-9 of a number
    # The type of x rules, and a float32 kernel gets a float32 gradient.
    x, w, dy = arrays
    y, dx, dw = products(conv.conv2d, *case[2:])(x, w.astype(jnp.float32), dy)
    assert (y.dtype, dx.dtype, dw.dtype) == (jnp.bfloat16, jnp.bfloat16, jnp.float32)


@pytest.mark.parametrize("shared_kernel", [False, True])
@pytest.mark.parametrize("kernel", [1, 3])
def test_vmap_equals_a_loop(kernel, shared_kernel):
    case = (9, 16, 16, 3), (kernel, kernel, 3, 4), 2, "SAME"
    x, w, dy = inputs(*case, copies=(3,))
    w = w[:1].repeat(3, axis=0) if shared_kernel else w
    ours = products(conv.conv2d, *case[2:])
    if shared_kernel:
        together = jax.jit(jax.vmap(ours, (0, None, 0)))(x, w[0], dy)
    else:
        together = jax.jit(jax.vmap(ours))(x, w, dy)
    for i in range(3):
        assert_close([a[i] for a in together], products(stock, *case[2:])(x[i], w[i], dy[i]))


def descend(convolve, x, w, steps):
    """Descends w along the gradient of the mean of y^2.

    The length of the loop is known only when it runs.
    """

    def loss(w):
        return jnp.mean(jnp.square(convolve(x, w, 2, "SAME")))

    return lax.fori_loop(0, steps, lambda _, w: w - 0.1 * jax.grad(loss)(w), w)


@pytest.mark.parametrize("kernel", [1, 3])
def test_a_loop_with_donated_parameters_equals_steps_outside(kernel):
    x, w, _ = inputs((9, 16, 16, 3), (kernel, kernel, 3, 4), 2, "SAME")
    expected = w
    for _ in range(3):
        expected -= 0.1 * jax.grad(lambda w: jnp.mean(jnp.square(stock(x, w, 2, "SAME"))))(expected)
    inside = jax.jit(functools.partial(descend, conv.conv2d), donate_argnums=1)(x, w, 3)
    assert w.is_deleted()
    assert_close([inside], [expected])


@pytest.mark.skipif(jax.local_device_count() < 2, reason="needs two devices")
def test_seeds_on_devices_and_vmapped_on_each_equal_a_loop():
    x, w, _ = inputs((9, 16, 16, 3), (3, 3, 3, 4), 2, "SAME", copies=(2, 2))
    ours = jax.pmap(
        jax.vmap(functools.partial(descend, conv.conv2d), (0, 0, None)), in_axes=(0, 0, None)
    )(x, w, 3)
    for i in np.ndindex(2, 2):
        assert_close([ours[i]], [descend(stock, x[i], w[i], 3)])


@pytest.mark.parametrize("seeds", [(), (2,)])
@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_other_platforms_get_the_stock_convolutions(platform, seeds):
    case = (2, 8, 8, 3), (3, 3, 3, 4), 2, "SAME"
    arrays = inputs(*case, copies=seeds)

    def convolutions(convolve):
        function = products(convolve, *case[2:])
        function = jax.vmap(function) if seeds else function
        text = jax.jit(function).trace(*arrays).lower(lowering_platforms=(platform,)).as_text()
        return sorted(
            re.findall(r"stablehlo\.convolution\([^)]*\)(.*)", text)
        )  # all but the operands' names

    assert len(convolutions(stock)) == 3
    assert convolutions(conv.conv2d) == convolutions(stock)


@pytest.mark.parametrize(
    "settings",
    [
        {"kernel_shape": 3},
        {"kernel_shape": (3, 2), "stride": (2, 1), "padding": "VALID", "with_bias": False},
        {"kernel_shape": 1, "stride": 2, "w_init": hk.initializers.RandomUniform()},
    ],
)
def test_module_is_haikus(settings):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 7, 6, 3)), jnp.float32)
    ours = hk.transform(lambda x: conv.Conv2D(5, name="a", **settings)(x))
    theirs = hk.transform(lambda x: hk.Conv2D(5, name="a", **settings)(x))
    params = ours.init(jax.random.key(0), x)
    expected = theirs.init(jax.random.key(0), x)
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    params = jax.tree.map(lambda p: p + 0.1, params)  # a bias that is not 0
    assert_close([ours.apply(params, None, x)], [theirs.apply(params, None, x)])
    assert ours.apply(params, None, x.astype(jnp.bfloat16)).dtype == jnp.bfloat16
