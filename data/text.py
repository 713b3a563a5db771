"""Text as a method reads it: which, how it is cut into tokens, and the rows that come of it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from missing_bits.data import packing, tokenizer
from missing_bits.data.documents import Corpus
from missing_bits.data.load import check_text, load_text
from missing_bits.data.packing import Packed, pack
from missing_bits.data.tokenizer import Encoded, Kind, Tokenizer
from missing_bits.errors import require
from missing_bits.notes import say

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


class Stream(NamedTuple):
    """The tokens of one split in their order."""

    tokens: np.ndarray
    """int32 [T]: documents, a SEP before, between and after them."""
    size: int
    """Bytes of the text in UTF-8, white space included."""
    unknown: int
    """Those of them that no token tells: of characters or words that are unknown."""


class Streams(NamedTuple):
    """Text to be read from its start to its end; training never sees the last two splits."""

    words: Tokenizer
    """What cut the text into tokens."""
    train: Stream
    validation: Stream
    test: Stream
    digest: str
    """SHA-256 of the text and of how it is split."""


class _Cut(NamedTuple):
    """A corpus, and the tokens of the documents of each split."""

    words: Tokenizer
    corpus: Corpus
    encoded: dict[str, list[Encoded]]


@dataclass(frozen=True)
class Text:
    """Which text to learn from, and how it is cut."""

    data: str = "topics"
    """Text: topics (help of Python), stdlib (sources of its library), txt:PATH (file or folder)."""
    length: int = 128
    """Tokens in a row."""
    tokenizer: Kind = "wordpiece"
    """How text is cut: into pieces of words or merged byte pairs, chosen on the training text, into
    its characters, or into bytes."""
    vocabulary: int = 4_096
    """wordpiece, bpe: number of different tokens, at most."""
    split: Literal["blocks", "end"] = "blocks"
    """Which tenths are held out: some all over the text or whole documents, for validation and test
    each; or, of a single file, the last one, for both."""

    def check(self, prefix: str) -> None:
        """Raises `UserError` for text that does not exist, or settings that cannot be.

        Args:
          prefix: what stands before the names of these options on the command line.
        """
        check_text(self.data, prefix)
        require(
            self.split == "blocks" or self.data.startswith("txt:"),
            f"--{prefix}split=end is for a single file, --{prefix}data=txt:PATH, not for "
            f"{self.data}.",
        )
        require(
            self.length >= 2,
            f"--{prefix}length is {self.length}; a row needs at least 2 tokens.",
        )
        least = tokenizer.BYTES if self.tokenizer == "bpe" else 2 * tokenizer.SPECIALS
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
        words, corpus, encoded = self._cut()
        packed = {
            split: pack(documents, self.length, f"{split} split")
            for split, documents in encoded.items()
        }
        return Texts(words, **packed, digest=corpus.digest)

    def read_streams(self) -> Streams:
        """Reads the text and trains the tokenizer on its training split; nothing is cut into rows.

        Says in a line how much of the text the tokenizer does not know, and if the text yields
        fewer tokens than were asked for.

        Raises:
          UserError: there is no such text, it cannot be read, a split is shorter than a row,
            nothing in it is known, or the vocabulary is larger than the text.
        """
        words, corpus, encoded = self._cut()
        if self.tokenizer in ("wordpiece", "bpe"):
            letters = sum(len(document.text) for document in corpus.train)
            require(
                self.vocabulary <= letters,
                f"--vocabulary={self.vocabulary} is larger than the text: there are {letters:,} "
                "characters to train on; ask for less, or give more text.",
            )
            if words.size < self.vocabulary:
                say(
                    f"{self.data}: the text yields {words.size:,} different tokens of "
                    f"--vocabulary={self.vocabulary}."
                )
        streams = {}
        for split, documents in encoded.items():
            tokens = packing.join(documents)
            require(
                len(tokens) > self.length,
                f"--length={self.length} is longer than all there is: the {split} split has only "
                f"{len(tokens)} tokens; ask for less, or give more text.",
            )
            texts = getattr(corpus, split)
            size = sum(len(document.text.encode()) for document in texts)
            unknown = sum(
                words.unknown_bytes(document.text)
                for document, found in zip(texts, documents, strict=True)
                if (found.ids == tokenizer.UNK).any()
            )
            streams[split] = Stream(tokens, size, unknown)
        return Streams(words, **streams, digest=corpus.digest)

    def _cut(self) -> _Cut:
        """The corpus and its tokens; `UserError` where none of a split is known."""
        corpus = load_text(self.data, self.split)
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
        for split, documents in encoded.items():
            ids = np.concatenate([found.ids for found in documents])
            check_known(self.data, f"the {split} split", ids)
        texts = [document.text for documents in splits.values() for document in documents]
        ids = [found.ids for documents in encoded.values() for found in documents]
        tell_unknown(self.data, words, texts, np.concatenate(ids))
        return _Cut(words, corpus, encoded)


def check_known(data: str, what: str, ids: np.ndarray) -> None:
    """Raises `UserError` if there are tokens [n] of some text, and none of them is known.

    Args:
      data: where the text is from.
      what: it is.
      ids: its tokens.
    """
    require(
        len(ids) == 0 or bool((ids >= tokenizer.SPECIALS).any()),
        f"--data={data}: nothing in {what} is known to the tokenizer: its words are longer than "
        f"{tokenizer.LONGEST_WORD} characters, or of letters that are rare or missing in the text "
        "it was made for; pretrain with --tokenizer=bytes, which knows all, or give more text.",
    )


def tell_unknown(data: str, words: Tokenizer, texts: Iterable[str], ids: np.ndarray) -> None:
    """Says how many tokens are unknown, if they are many, or for the length of words.

    Args:
      data: where the text is from.
      words: what cut it.
      texts: all of it.
      ids: its tokens [n].
    """
    unknown = int((ids == tokenizer.UNK).sum())
    too_long = sum(map(words.too_long, texts))
    if too_long or unknown > _MUCH * len(ids):
        longer = f", {too_long:,} of them longer than {tokenizer.LONGEST_WORD} characters"
        say(
            f"{data}: {unknown:,} of {len(ids):,} tokens ({unknown / len(ids):.1%}) stand for "
            f"words that the tokenizer does not know{longer if too_long else ''}; "
            "--tokenizer=bytes in pretraining knows all text."
        )
