"""Text as a method reads it: which, how it is cut into tokens, and the rows that come of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from missing_bits.data import tokenizer
from missing_bits.data.documents import Document
from missing_bits.data.load import check_text, load_text
from missing_bits.data.packing import Packed, pack
from missing_bits.data.tokenizer import Tokenizer
from missing_bits.errors import require


class Texts(NamedTuple):
    """Rows of tokens for training, and others that training never sees."""

    words: Tokenizer
    """What cut the text into tokens."""
    train: Packed
    validation: Packed
    test: Packed
    digest: str
    """SHA-256 of the text and of how it is split."""


@dataclass(frozen=True)
class Text:
    """Which text to learn from, and how it is cut."""

    data: str = "topics"
    """Text: topics (help of Python), stdlib (sources of its library), txt:PATH (file or folder)."""
    length: int = 128
    """Tokens in a row."""
    tokenizer: Literal["wordpiece", "bytes"] = "wordpiece"
    """How text is cut: into pieces of words, chosen on the training text, or into bytes."""
    vocabulary: int = 4_096
    """wordpiece: number of different tokens, at most."""

    def check(self, prefix: str) -> None:
        """Raises `UserError` for text that does not exist, or settings that cannot be.

        Args:
          prefix: what stands before the names of these options on the command line.
        """
        check_text(self.data, prefix)
        require(
            self.length >= 2,
            f"--{prefix}length is {self.length}; a row needs at least 2 tokens.",
        )
        least = 2 * tokenizer.SPECIALS
        require(
            self.vocabulary >= least,
            f"--{prefix}vocabulary is {self.vocabulary}; it must be at least {least}.",
        )

    def read(self) -> Texts:
        """Reads the text, trains the tokenizer on its training split and packs every split.

        Raises:
          UserError: there is no such text, it cannot be read, or a split is shorter than a row.
        """
        corpus = load_text(self.data)
        texts = (document.text for document in corpus.train)
        words = tokenizer.train(texts, self.tokenizer, self.vocabulary)

        def packed(documents: Sequence[Document], split: str) -> Packed:
            encoded = words.encode_all(document.text for document in documents)
            return pack(encoded, self.length, f"{split} split")

        return Texts(
            words=words,
            train=packed(corpus.train, "train"),
            validation=packed(corpus.validation, "validation"),
            test=packed(corpus.test, "test"),
            digest=corpus.digest,
        )
