"""Images or passages of text with the classes they belong to: what fine-tuning needs of either."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from missing_bits.data import packing
from missing_bits.data.documents import Document
from missing_bits.data.images import Lazy
from missing_bits.data.load import Images, load_text
from missing_bits.data.text import check_known, tell_unknown
from missing_bits.data.tokenizer import PAD, Tokenizer
from missing_bits.errors import require


class Examples(NamedTuple):
    """Examples of one purpose."""

    inputs: np.ndarray | Lazy  # images uint8 [N, H, W, C], or tokens int32 [N, L]
    labels: np.ndarray  # int32 [N]


class Labeled(NamedTuple):
    """Examples for training, and others that training never sees."""

    train: Examples
    test: Examples
    classes: tuple[str, ...]
    digest: str


def images(data: str, data_dir: str, image_size: int) -> Labeled:
    """The set of images that `--data` names.

    Raises:
      UserError: there is no such set, or it has no labels.
    """
    found = Images(data, data_dir, image_size).load()
    train = found.labeled
    labeled = train.labels is not None and found.test.labels is not None
    require(labeled, f"--data={data} has no labels; fine-tuning needs some in both splits.")
    return Labeled(
        Examples(train.images, train.labels),
        Examples(found.test.images, found.test.labels),
        found.classes,
        found.digest,
    )


def text(data: str, tokenizer: Tokenizer, length: int) -> Labeled:
    """Passages of the documents that `--data` names, those for testing of other documents.

    Args:
      data: names text whose documents have classes.
      tokenizer: what cuts it.
      length: of a passage, in tokens.

    Raises:
      UserError: there is no such text, its documents have no classes, or nothing in it is known.
    """
    corpus = load_text(data)
    require(
        len(corpus.classes) > 0,
        f"--data={data} has no classes to tell apart; "
        "use stdlib, or txt:PATH of a folder with a subfolder per class.",
    )

    def examples(documents: Sequence[Document]) -> Examples:
        passages = packing.passages(documents, tokenizer, length, corpus.classes)
        return Examples(passages.tokens, passages.labels)

    train = examples(corpus.train)
    test = examples(corpus.test)
    tokens = np.concatenate([train.inputs, test.inputs])
    texts = [document.text for document in (*corpus.train, *corpus.test)]
    check_known(data, "it", tokens)
    tell_unknown(data, tokenizer, texts, tokens[tokens != PAD])
    return Labeled(train, test, corpus.classes, corpus.digest)


def few(labels: np.ndarray, classes: Sequence[str], per_class: int, seed: int) -> np.ndarray:
    """Indices of a few examples of each class, drawn by `seed`.

    Args:
      labels: int [N], of all examples.
      classes: their names.
      per_class: how many of each; 0 for all examples.
      seed: another draw for each.

    Classes without any, which are tested alone, are left out.

    Raises:
      UserError: another class has fewer.
    """
    if per_class == 0:
        return np.arange(len(labels))
    rng = np.random.default_rng((seed, 1))
    drawn = []
    for number, name in enumerate(classes):
        mine = np.flatnonzero(labels == number)
        if len(mine) == 0:
            continue
        require(
            len(mine) >= per_class,
            f"--labels-per-class={per_class}, but class {name} has {len(mine)} examples to train "
            "on; ask for at most that many, or for 0, which takes all there are.",
        )
        drawn.append(rng.choice(mine, per_class, replace=False))
    return np.concatenate(drawn)
