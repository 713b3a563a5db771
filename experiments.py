"""The tables: what there is to train, and what else `run.py` can do.

A row names a method's class and may carry options of it: `--exp=lora` is fine-tuning with one.
Entries are text, so that nothing is imported before it is asked for.
"""

import difflib
import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any, NamedTuple

from missing_bits import options
from missing_bits.errors import UserError, require


class Row(NamedTuple):
    """An experiment."""

    where: str
    """Module and class, as "module:Class"."""
    summary: str
    default: str
    """The environment or data that it learns from if none is named."""
    parts: Mapping[str, Any] = {}
    """Fields of the configuration that make the row what it is."""
    settings: Mapping[str, Any] = {}
    """Others that differ from the defaults of the method; presets count above these."""
    presets: Mapping[str, Mapping[str, Any]] = {}
    """Further ones for environments or data sets, by name, which count above the method's own."""


class Command(NamedTuple):
    """Another thing that `run.py` can do."""

    where: str
    """A module with `main(arguments)`."""
    usage: str


_HALF = {"batch_size": 64, "train_period": 4}  # of the updates, each on half as much
_SMALL_STEPS = {"learning_rate": 1e-3}
_SMALL_STEPS_ON_MINATAR = {
    f"jax/{game}-v1": {"learning_rate": 5e-4}
    for game in ("Breakout", "Asterix", "SpaceInvaders", "Freeway", "Seaquest")
}


def _sequences(network: str, summary: str) -> Row:
    """A network on sequences."""
    return Row(
        "missing_bits.supervised.sequences:Sequences",
        summary,
        "digits_rows",
        {"network": network},
    )


def _graphs(network: str, default: str, summary: str, **settings: Any) -> Row:
    """A network on graphs."""
    return Row(
        "missing_bits.supervised.graphs:Graphs",
        summary,
        default,
        {"network": network},
        {"data": default, **settings},
    )


def _dqn(
    summary: str,
    settings: Mapping[str, Any] | None = None,
    presets: Mapping[str, Mapping[str, Any]] | None = None,
    **parts: Any,
) -> Row:
    """A member of the DQN family."""
    agent = "missing_bits.agents.dqn:DQN"
    return Row(agent, summary, "CartPole-v1", parts, settings or {}, presets or {})


EXPERIMENTS = {
    "dqn": Row(
        "missing_bits.agents.dqn:DQN",
        "Deep Q-network, double by default (Mnih 2015, van Hasselt 2016)",
        "CartPole-v1",
    ),
    "double_dqn": _dqn(
        "Double DQN: one network chooses, the other values (van Hasselt 2016)", double=True
    ),
    "dueling_dqn": _dqn(
        "Dueling DQN: streams for value and advantage (Wang 2016)", _SMALL_STEPS, dueling=True
    ),
    "prioritized_dqn": _dqn(
        "DQN with prioritized replay (Schaul 2016)", _SMALL_STEPS, prioritized=True
    ),
    "noisy_dqn": _dqn(
        "NoisyNet-DQN: explores by noise in its layers too (Fortunato 2018)",
        _SMALL_STEPS,
        noisy=0.5,
    ),
    "c51": _dqn("C51: the distribution over fixed returns (Bellemare 2017)", head="categorical"),
    "qr_dqn": _dqn(
        "QR-DQN: returns at fixed quantiles (Dabney 2018)",
        presets=_SMALL_STEPS_ON_MINATAR,
        head="quantile",
    ),
    "iqn": _dqn(
        "IQN: returns at quantiles that are drawn (Dabney 2018)",
        {"quantiles": 8, **_HALF},
        _SMALL_STEPS_ON_MINATAR,
        head="implicit",
    ),
    "rainbow": _dqn(
        "Rainbow: all of these in one (Hessel 2018)",
        {**_SMALL_STEPS, **_HALF},
        double=True,
        head="categorical",
        dueling=True,
        prioritized=True,
        noisy=0.5,
        n_step=3,
    ),
    "munchausen_dqn": _dqn(
        "Munchausen DQN: a soft policy that rewards itself (Vieillard 2020)",
        _SMALL_STEPS,
        munchausen=True,
        double=False,
    ),
    "barlow_twins": Row(
        "missing_bits.ssl.barlow_twins:BarlowTwins",
        "Barlow Twins: views agree, features do not repeat (Zbontar 2021)",
        "photos",
    ),
    "ibot": Row(
        "missing_bits.ssl.ibot:IBOT",
        "iBOT: guess what a moving average makes of the whole (Zhou 2021)",
        "photos",
    ),
    "mae": Row(
        "missing_bits.ssl.mae:MAE",
        "Masked autoencoder: restore patches that were left out (He 2022)",
        "photos",
    ),
    "simmim": Row(
        "missing_bits.ssl.simmim:SimMIM",
        "SimMIM: restore patches behind mask tokens (Xie 2022)",
        "photos",
    ),
    "bert": Row(
        "missing_bits.ssl.bert:BERT",
        "Masked language modeling: guess hidden tokens (Devlin 2019)",
        "topics",
    ),
    "gpt": Row(
        "missing_bits.ssl.gpt:GPT",
        "Next-token prediction by any network on sequences (Radford 2019)",
        "topics",
    ),
    "infomax": Row(
        "missing_bits.ssl.infomax:Infomax",
        "Deep graph infomax: nodes know the graph they are of (Velickovic 2019)",
        "blocks",
    ),
    "autoencoder": Row(
        "missing_bits.generative.autoencoder:Autoencoder",
        "Autoencoder: images through a few numbers and back (Hinton 2006)",
        "digits",
    ),
    "denoiser": Row(
        "missing_bits.generative.autoencoder:Autoencoder",
        "Its noisy form at full resolution (Vincent 2008, Zhang 2017)",
        "digits",
        {"noise": 0.3, "network": "full_resolution"},
        {"optimizer": {"clip": 5.0}},  # without, a long run diverged (docs/results/generative.md)
    ),
    "vae": Row(
        "missing_bits.generative.vae:VAE",
        "Variational autoencoder: images from a normal latent (Kingma 2013)",
        "digits",
    ),
    "finetune": Row(
        "missing_bits.supervised.finetune:Finetune",
        "Fine-tune an encoder on few labels, or its classifier alone",
        "of the run",
    ),
    "lora": Row(
        "missing_bits.supervised.finetune:Finetune",
        "Fine-tune low-rank additions to an encoder's weights (Hu 2021)",
        "of the run",
        {"method": "lora"},
    ),
    "classify": Row(
        "missing_bits.supervised.classify:Classify",
        "The same networks trained with labels: what to compare with",
        "photos",
    ),
    "gan": Row(
        "missing_bits.generative.gan:GAN",
        "GAN: images that a discriminator takes for real (Goodfellow 2014)",
        "digits",
    ),
    "sequences": Row(
        "missing_bits.supervised.sequences:Sequences",
        "Sequences with an answer, by any network: --task, --network",
        "digits_rows",
    ),
    "lstm": _sequences("lstm", "LSTM: gates keep what a cell remembers (Hochreiter 1997)"),
    "gru": _sequences("gru", "GRU: two gates do with a single state (Cho 2014)"),
    "qrnn": _sequences("qrnn", "QRNN: gates that look at inputs alone (Bradbury 2016)"),
    "s4": _sequences("s4", "S4D: diagonal state spaces, a recurrence or a convolution (Gu 2022)"),
    "mamba": _sequences(
        "mamba", "Mamba: a state-space model whose inputs choose (Gu and Dao 2023)"
    ),
    "graphs": Row(
        "missing_bits.supervised.graphs:Graphs",
        "Nodes, graphs or links, by any network on graphs: --network, --links",
        "blocks",
    ),
    "gcn": _graphs("gcn", "blocks", "GCN: means of neighbors, scaled by degrees (Kipf 2017)"),
    "gat": _graphs(
        "gat",
        "blocks",
        "GAT: neighbors weighted by attention (Velickovic 2018)",
        width=8,
        dropout=0.6,
        attention_dropout=0.6,
        l2_layers="all",
        updates=1_000,
        optimizer={"learning_rate": 5e-3},
    ),
    "gin": _graphs(
        "gin",
        "superpixels",
        "GIN: sums that tell multisets apart (Xu 2019)",
        layers=3,
        width=32,
        dropout=0.0,
        l2=0.0,
        updates=2_000,
        optimizer={"learning_rate": 3e-3},
    ),
    "graph_network": _graphs(
        "recurrent",
        "blocks",
        "Graph neural network: states at their fixed point (Scarselli 2009)",
        width=4,
        l2=5e-5,
        l2_layers="all",
    ),
}

# Names of version 0.1, kept for one version.
ALIASES = {"masked_image": "mae", "masked_language": "bert", "supervised": "classify"}

COMMANDS = {
    "sweep": Command(
        "missing_bits.commands.sweep",
        "python run.py sweep --exp=dqn --over learning-rate=1e-4,1e-3 --over n-step=1,3 --seeds=5",
    ),
    "fill": Command(
        "missing_bits.commands.fill", 'python run.py fill --from=RUN --text="The [MASK] statement"'
    ),
    "play": Command(
        "missing_bits.commands.play", "python run.py play --from=RUN --out=episodes.gif"
    ),
    "sample": Command(
        "missing_bits.commands.sample",
        'python run.py sample --from=RUN --prompt="The " (text), --out=samples.png (images)',
    ),
    "runs": Command(
        "missing_bits.commands.runs", "python run.py runs [FOLDER] --sort=headline --filter=..."
    ),
    "compare": Command(
        "missing_bits.commands.compare", "python run.py compare RUNS... --out=curves.png"
    ),
    "report": Command(
        "missing_bits.commands.report", "python run.py report RUNS... --out=report.html"
    ),
}


class Found(NamedTuple):
    """An experiment that was asked for."""

    name: str
    """In the table, or "module:Class"."""
    method: Any
    """The class."""
    module: ModuleType
    """Which holds its `Config`, `PRESETS` and `TINY`."""
    row: Row | None = None
    """Of the table, if it is there."""

    def config(self, subject: str | None = None) -> Any:
        """The default configuration: the method's, then the row's settings, then the presets of an
        environment or data set, its default one if none is named, then what makes the row what it
        is."""
        config = self.module.Config()
        if self.row:
            config = options.replace(config, self.row.settings)
        subject = subject or options.value(config, self.method.subject)
        config = options.replace(config, getattr(self.module, "PRESETS", {}).get(subject, {}))
        if self.row:
            config = options.replace(config, self.row.presets.get(subject, {}))
        return options.replace(config, self.row.parts) if self.row else config


def find(name: str) -> Found:
    """The experiment of a name in the table, or of a class from anywhere, as "module:Class".

    Raises:
      UserError: there is none, or the module cannot be imported.
    """
    if ":" in name:
        return _import(name, name)
    name = name.lower().replace("-", "_")
    name = ALIASES.get(name, name)
    if name not in EXPERIMENTS:
        close = difflib.get_close_matches(name, EXPERIMENTS, n=1, cutoff=0.0)
        raise UserError(
            f"--exp={name} is not an experiment. Did you mean {close[0]}? python run.py --list "
            "names all; a class of your own is --exp=my_package.my_module:MyMethod."
        )
    row = EXPERIMENTS[name]
    return _import(name, row.where, row)


def _import(name: str, where: str, row: Row | None = None) -> Found:
    module_name, _, class_name = where.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and not f"{module_name}.".startswith(f"{error.name}."):
            raise UserError(f"--exp={name} needs {error.name}, which is not installed.") from error
        raise UserError(
            f"--exp={name}: there is no module {module_name}. Install it, or put the folder that "
            "holds it on PYTHONPATH."
        ) from error
    except (ValueError, TypeError) as error:  # an empty name, or one that begins with a dot
        raise UserError(
            f"--exp={name} names no module: write my_package.my_module:MyMethod."
        ) from error
    require(
        hasattr(module, class_name),
        f"--exp={name}: {module_name} has no class {class_name or 'after the colon'}.",
    )
    missing = [part for part in ("Config", "TINY") if not hasattr(module, part)]
    require(
        not missing,
        f"--exp={name}: {module_name} has no {' and no '.join(missing)}; docs/adding_a_method.md "
        "says what a method's module holds.",
    )
    return Found(name, getattr(module, class_name), module, row)
