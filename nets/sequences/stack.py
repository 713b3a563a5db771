"""Networks on sequences: one residual stack around any mixer, in two forms of the same function.

    network = Settings("gru", layers=2, width=64).make(context=128)
    params = network.init(key)
    y, state = network.apply(params, x, reset)             # x [B, T, D] -> y [B, T, D]
    y, state = network.step(params, x[:, 0], reset[:, 0], state)  # one more step, [B, D]

Each block normalizes what comes in, mixes it over time, and adds what comes out; an MLP of four
times the width does the same without looking at other steps. S4 and Mamba bring gates of their own
in place of the MLP, as published. The recurrent networks have none in their papers, which stack
plain layers; here they have the transformer's, so that all are the same but for what mixes.

Shapes: B rows, T steps, D width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import chex
import haiku as hk
import jax
import jax.numpy as jnp

from missing_bits.errors import require, require_between, require_positive
from missing_bits.nets.sequences import parts
from missing_bits.nets.sequences.affine import Way
from missing_bits.nets.sequences.attention import Attention, Positions
from missing_bits.nets.sequences.gru import GRU
from missing_bits.nets.sequences.lstm import LSTM
from missing_bits.nets.sequences.mamba import Mamba
from missing_bits.nets.sequences.parts import Mixed, Mixer
from missing_bits.nets.sequences.qrnn import QRNN, Pooling
from missing_bits.nets.sequences.s4 import S4, Discretization
from missing_bits.nets.transformer import computed_once, dropped, folded


class _Apply(Protocol):
    def __call__(
        self,
        params: hk.Params,
        x: jax.Array,
        reset: jax.Array | None = None,
        state: Any | None = None,
        keys: jax.Array | None = None,
    ) -> Mixed: ...


class Network(NamedTuple):
    """A network on sequences, as pure functions."""

    init: Callable[[jax.Array], hk.Params]
    """Parameters of a random key."""
    apply: _Apply
    """Maps (params, x [B, T, D], reset bool [B, T], state, keys [B]) to y [B, T, D] and the last
    state. All that is remembered starts anew where `reset` holds, before the step. `reset` of None:
    nowhere; a state of None: before the first step, as `initial` gives it; both may be faster so.
    With random keys, for each row, there is dropout. The transformer takes at most `context` steps
    without a state."""
    step: Callable[[hk.Params, jax.Array, jax.Array, Any], Mixed]
    """Maps (params, x [B, D], reset bool [B], state) to y [B, D] and the next state, at a cost that
    does not grow with the steps before; the transformer's is that of its whole context."""
    initial: Callable[[int], Any]
    """The state of so many rows before the first step."""


@dataclass(frozen=True)
class Settings:
    """Which network on sequences."""

    network: Literal["lstm", "gru", "qrnn", "s4", "mamba", "transformer"] = "lstm"
    """What mixes the steps of a sequence."""
    layers: int = 2
    """Number of blocks."""
    width: int = 128
    """Of each step within the network, in units."""
    heads: int = 4
    """Of the transformer's attention; the width is a multiple."""
    dropout: float = 0.0
    """Share of what each layer adds that is dropped in training, 0 to 0.9."""
    bfloat16: bool = False
    """Compute the network in bfloat16; parameters, and states but the transformer's, stay float32.
    """
    gru: Literal["cudnn", "cho"] = "cudnn"
    """Whether the GRU's gate acts after the product, as in cuDNN and torch, or before it, as in its
    paper."""
    qrnn_pooling: Pooling = "fo"
    """The QRNN's gates: forget, output, input."""
    qrnn_window: int = 2
    """Steps that the QRNN's gates look at."""
    s4_states: int = 64
    """States of S4 for each feature, an even number."""
    s4_discretization: Discretization = "zero_order_hold"
    """How S4 becomes discrete in time."""
    mamba_states: int = 16
    """States of Mamba for each inner feature, of which there are twice the width."""
    recurrence: Way = "auto"
    """How QRNN, S4 and Mamba compute what is recurrent in them; auto chooses by platform and
    length."""

    def check(self, prefix: str) -> None:
        """Raises `UserError` for settings that make no network."""
        require_positive(self, "layers", "width", "heads", prefix=prefix)
        require_positive(self, "qrnn_window", "s4_states", "mamba_states", prefix=prefix)
        require(
            self.s4_states % 2 == 0,
            f"--{prefix}s4-states is {self.s4_states}; it must be even: states come in pairs.",
        )
        require_between(self, 0, 0.9, "dropout", prefix=prefix)
        require(
            self.network != "transformer" or self.width % self.heads == 0,
            f"--{prefix}width is {self.width}; it must be a multiple of --{prefix}heads, "
            f"{self.heads}.",
        )

    def make(self, context: int) -> Network:
        """The network.

        Args:
          context: the most steps that the transformer knows of; others have no such bound.
        """
        return make(self, context)


Apply = Callable[[Mixer, jax.Array], Mixed]
"""Applies a mixer, which it gives its own part of the state, to what comes in."""


class Block(hk.Module):
    """A mixer, and an MLP of four times the width; each normalizes its input and adds to it.

    Args:
      settings: of the network.
      context: of the transformer, in steps.
      name: of the module.
    """

    def __init__(self, settings: Settings, context: int, name: str | None = None):
        super().__init__(name)
        self._settings = settings
        self._context = context

    def __call__(self, x: jax.Array, mixed: Apply, keys: jax.Array | None) -> Mixed:
        """What comes in [..., D] to one of the same shape; `keys` as for `Network.apply`."""
        width = x.shape[-1]
        share = self._settings.dropout
        # So that what is added to the sum over all layers starts no larger than a single one
        # (Radford et al. 2019, section 2.3).
        small = hk.initializers.VarianceScaling(0.5 / self._settings.layers, "fan_avg", "uniform")
        x = computed_once(x)
        y, state = mixed(self.mixer(), parts.norm(x, "mixer_norm"))
        x += dropped(y, share, keys, 0)
        if self._settings.network in _WITH_MLP:
            x = computed_once(x)
            hidden = parts.Linear(4 * width, name="widen")(parts.norm(x, "mlp_norm"))
            y = parts.Linear(width, w_init=small, name="narrow")(jax.nn.gelu(hidden))
            x += dropped(y, share, keys, 1)
        return Mixed(x, state)

    @hk.name_like("__call__")
    def mixer(self) -> Mixer:
        """The one of these settings."""
        settings = self._settings
        match settings.network:
            case "lstm":
                return LSTM()
            case "gru":
                return GRU(settings.gru == "cho")
            case "qrnn":
                return QRNN(settings.qrnn_pooling, settings.qrnn_window, settings.recurrence)
            case "s4":
                return S4(settings.s4_states, settings.s4_discretization, settings.recurrence)
            case "mamba":
                return Mamba(settings.mamba_states, settings.recurrence)
            case "transformer":
                dtype = jnp.bfloat16 if settings.bfloat16 else jnp.float32
                return Attention(settings.heads, self._context, dtype)


_WITH_MLP = ("lstm", "gru", "qrnn", "transformer")


class Stack(hk.Module):
    """Blocks, and a last normalization.

    Args:
      settings: which, and how many.
      context: of the transformer, in steps.
      name: of the module.
    """

    def __init__(self, settings: Settings, context: int, name: str | None = None):
        super().__init__(name)
        self._settings = settings
        self._context = context

    def __call__(
        self,
        x: jax.Array,
        reset: jax.Array | None,
        state: tuple[Any, ...] | None,
        keys: jax.Array | None,
    ) -> Mixed:
        """A sequence [B, T, D] to one of the same shape; see `Network.apply`."""
        parts.check(x, reset)
        before = None if state is None else iter(state)

        def mixed(mixer: Mixer, x: jax.Array) -> Mixed:
            return mixer(x, reset, None if before is None else next(before))

        return self._blocks(x, mixed, keys)

    @hk.name_like("__call__")
    def step(self, x: jax.Array, reset: jax.Array, state: tuple[Any, ...]) -> Mixed:
        """One step [B, D] to one of the same shape; see `Network.step`."""
        chex.assert_rank(x, 2)
        before = iter(state)
        return self._blocks(x, lambda mixer, x: mixer.step(x, reset, next(before)), None)

    @hk.name_like("__call__")
    def initial(self, batch: int) -> tuple[Any, ...]:
        """The state before the first step: of each mixer, in order."""
        settings = self._settings
        blocks = [Block(settings, self._context) for _ in range(settings.layers)]
        mixers = [block.mixer() for block in blocks]
        if settings.network == "transformer":
            mixers = [Positions(self._context), *mixers]
        return tuple(mixer.initial(batch, settings.width) for mixer in mixers)

    @hk.name_like("__call__")
    def _blocks(self, x: jax.Array, mixed: Apply, keys: jax.Array | None) -> Mixed:
        """The blocks, one after the other."""
        states = []
        if self._settings.network == "transformer":  # recurrent networks know where they are
            x, state = mixed(Positions(self._context), x)
            states.append(state)
        for layer in range(self._settings.layers):
            block = Block(self._settings, self._context)
            x, state = block(x, mixed, folded(keys, layer))
            states.append(state)
        return Mixed(parts.norm(x, "norm"), tuple(states))


def make(settings: Settings, context: int) -> Network:
    """A network; see `Network`.

    Args:
      settings: which.
      context: the most steps that the transformer knows of; others have no such bound.
    """
    compute = jnp.bfloat16 if settings.bfloat16 else jnp.float32

    def whole(x, reset, state, keys):
        return Stack(settings, context)(x, reset, state, keys)

    def single(x, reset, state):
        return Stack(settings, context).step(x, reset, state)

    whole = hk.without_apply_rng(hk.transform(whole))
    single = hk.without_apply_rng(hk.transform(single))
    before = hk.without_apply_rng(
        hk.transform(lambda batch: Stack(settings, context).initial(batch))
    )

    def init(key: jax.Array) -> hk.Params:
        x = jnp.zeros((1, 1, settings.width))
        return whole.init(key, x, None, None, None)

    def apply(params, x, reset=None, state=None, keys=None) -> Mixed:
        y, state = whole.apply(params, x.astype(compute), reset, state, keys)
        return Mixed(y.astype(jnp.float32), state)

    def step(params, x, reset, state) -> Mixed:
        y, state = single.apply(params, x.astype(compute), reset, state)
        return Mixed(y.astype(jnp.float32), state)

    def initial(batch: int) -> tuple[Any, ...]:
        return before.apply({}, batch)

    return Network(init, apply, step, initial)
