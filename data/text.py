"""Text as a method reads it: which, how it is cut into tokens, and the rows that come of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from missing_bits.data import tokenizer
from missing_bits.data.documents import Document
from missing_bits.data.load import check_text, load_text
from missing_bits.data.packing import Packed, pack
from missing_bits.data.said import say
from missing_bits.data.tokenizer import Encoded, Tokenizer
from missing_bits.errors import require

_MUCH = 0.05  # of the tokens, from which on it is said how many are unknown


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
        require(
            self.vocabulary <= tokenizer.LARGEST,
            f"--{prefix}vocabulary is {self.vocabulary}; it must be at most "
            f"{tokenizer.LARGEST:,}, and of use are some thousands.",
        )

    def read(self) -> Texts:
        """Reads the text, trains the tokenizer on its training split and packs every split.

        Says in a line how much of the text the tokenizer does not know.

        Raises:
          UserError: there is no such text, it cannot be read, a split is shorter than a row, or
            nothing in it is known.
        """
        corpus = load_text(self.data)
        words = tokenizer.train(
            (document.text for document in corpus.train), self.tokenizer, self.vocabulary
        )
        splits = {
            "train": corpus.train,
            "validation": corpus.validation,
            "test": corpus.test,
        }
        encoded = {
            split: words.encode_all(document.text for document in documents)
            for split, documents in splits.items()
        }
        self._tell_unknown(words, splits, encoded)
        for split, documents in encoded.items():
            known = any((found.ids >= tokenizer.SPECIALS).any() for found in documents)
            require(
                known,
                f"--data={self.data}: nothing in the {split} split is known to the tokenizer: its "
                f"words are longer than {tokenizer.LONGEST_WORD} characters, or of letters that "
                "are rare; take --tokenizer=bytes, which knows all text.",
            )
        packed = {
            split: pack(documents, self.length, f"{split} split")
            for split, documents in encoded.items()
        }
        return Texts(words, **packed, digest=corpus.digest)

    def _tell_unknown(
        self,
        words: Tokenizer,
        splits: Mapping[str, Sequence[Document]],
        encoded: Mapping[str, Sequence[Encoded]],
    ) -> None:
        """Says how much of all splits is unknown, if it is much, or for the length of words."""
        unknown = 0
        count = 0
        too_long = 0
        for split, documents in splits.items():
            unknown += sum(int((found.ids == tokenizer.UNK).sum()) for found in encoded[split])
            count += sum(len(found.ids) for found in encoded[split])
            too_long += sum(words.too_long(document.text) for document in documents)
        if too_long or unknown > _MUCH * count:
            longer = f", {too_long:,} of them longer than {tokenizer.LONGEST_WORD} characters"
            say(
                f"{self.data}: {unknown:,} of {count:,} tokens ({unknown / count:.1%}) stand for "
                f"words that the tokenizer does not know{longer if too_long else ''}; "
                "--tokenizer=bytes knows all text."
            )
