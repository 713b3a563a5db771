"""Text of one's own: a UTF-8 file, or a folder of them and of subfolders with a class each.

In a folder, every file ending in .txt, .md, .rst or .py counts, at any depth, links followed; what
is hidden does not. Files in the folder itself have no class; the class of a file below it is the
first subfolder on the way. A class of fewer than three documents with text of their own is none: it
could not be tested. One class alone is none.
"""

import codecs
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from missing_bits import memory
from missing_bits.data import files
from missing_bits.data.documents import (
    Corpus,
    Document,
    dedupe,
    split_blocks,
    split_documents,
    split_end,
)
from missing_bits.data.said import number, printable, some
from missing_bits.errors import UserError, require
from missing_bits.notes import say

_ENDINGS = (".txt", ".md", ".rst", ".py")
_LEAST = 3  # documents of a class: to train on, for validation and for testing
_TIMES = 10  # the bytes of a text that reading and cutting it take, for each byte of its files


def load(path: Path, split: Literal["blocks", "end"] = "blocks") -> Corpus:
    """The text of a file, whatever its ending, or of a folder's files, in order of their paths.

    Says in a line what was loaded.

    Args:
      path: of a file or folder.
      split: "end" holds out the last tenth of a file.

    Raises:
      UserError: there is no such path, no text in it, a file that is not UTF-8, memory does not
        suffice, or a folder shall be split at its end.
    """
    require(
        os.path.isdir(path) or os.path.isfile(path),
        f"There is no file or folder {path}; expected a UTF-8 text file or a folder of them.",
    )
    require(
        split == "blocks" or not os.path.isdir(path),
        f"--split=end holds out the last tenth of a single file, but {path} is a folder; leave it "
        "away, or name a file.",
    )
    paths = _files(path) if os.path.isdir(path) else [path]
    require(
        bool(paths),
        f"{path} holds no text files; expected some ending in {', '.join(_ENDINGS)}, "
        "at any depth. A file of another ending must be named itself.",
    )
    memory.check(_TIMES * sum(_size(file) for file in paths), f"Reading {path}")
    if os.path.isdir(path):
        names = [file.relative_to(path) for file in paths]
        documents = [Document(name.as_posix(), _read(path / name), _label(name)) for name in names]
    else:
        documents = [Document(path.name, _read(path), "")]
    documents = [document for document in documents if document.text.strip()]
    require(bool(documents), f"{path} holds no text: it is empty or blank; give a file with text.")
    if split == "end":
        say(f"{path}: {len(documents[0].text):,} characters, of which the last tenth is held out.")
        return split_end(documents[0])
    kept = dedupe(documents)
    labels = {document.label for document in documents} - {""}
    counts = Counter(document.label for document in kept)
    classes = {label for label in labels if counts[label] >= _LEAST}
    if len(classes) < 2:
        classes = set()
    _tell(path, len(paths), documents, kept, classes, labels)
    documents = [
        document if document.label in classes else document._replace(label="")
        for document in documents
    ]
    return split_documents(documents) if classes else split_blocks(documents)


def _tell(
    path: Path,
    count: int,
    documents: Sequence[Document],
    kept: Sequence[Document],
    classes: set[str],
    labels: set[str],
) -> None:
    """Says in one line what was loaded of so many files, and what was left out."""
    characters = sum(len(document.text) for document in documents)
    left = sum(len(document.text) for document in kept)
    kinds = "no classes"
    if classes:
        kinds = f"{number(len(classes), 'class', 'classes')} ({some(sorted(classes), 5)})"
    told = [f"{path}: {number(len(kept), 'document')}, {left:,} characters, {kinds}"]
    if left < characters:
        told.append(
            f"left out: {characters - left:,} of {characters:,} characters, paragraphs that "
            "had come before"
        )
    blank = count - len(documents)
    if blank:
        told.append(f"empty: {number(blank, 'file')}")
    few = sorted(labels - classes)
    if few and len(labels) > 1:
        told.append(
            f"not classes, as two need at least {_LEAST} documents each to be told apart: "
            f"{some(few, 5)}"
        )
    say("; ".join(told) + ".")


def _files(root: Path) -> list[Path]:
    """The text files below a folder."""
    return [
        path
        for path in files.below(root).files
        if path.suffix.lower() in _ENDINGS and os.path.isfile(path)
    ]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # reading it says why


def _read(path: Path) -> str:
    """The text of a file, without a byte order mark, with every end of a line as "\\n"."""
    try:
        content = path.read_bytes()
        if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # says what it is
            text = content.decode("utf-16")
        else:
            zeros = content.count(0)
            require(
                not zeros,
                f"{path} is no plain text: it holds {zeros:,} NUL bytes, as binary files do, and "
                "UTF-16; give text, converted with iconv -f UTF-16LE -t UTF-8 if it is that, or "
                "without them: tr -d '\\000'.",
            )
            text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not {error.encoding.upper()}: byte {error.start} is "
            f"0x{error.object[error.start]:02x}; convert the file, for example with "
            "iconv -f LATIN1 -t UTF-8."
        ) from error
    except OSError as error:
        raise UserError(
            f"{path} cannot be read: {error.strerror}; give a readable file."
        ) from error
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def _label(path: Path) -> str:
    return printable(path.parts[0]) if len(path.parts) > 1 else ""
