"""Text of one's own: a UTF-8 file, or a folder of them and of subfolders with a class each.

In a folder, every file ending in .txt, .md, .rst or .py counts, at any depth; what is hidden does
not. Files in the folder itself have no class; the class of a file below it is the first subfolder
on the way. One class alone is none.
"""

import os
from pathlib import Path

from missing_bits.data.documents import Corpus, Document, split_blocks, split_documents
from missing_bits.errors import UserError, require

_ENDINGS = (".txt", ".md", ".rst", ".py")


def load(path: Path) -> Corpus:
    """The text of a file, whatever its ending, or of a folder's files, in order of their paths.

    Raises:
      UserError: there is no such path, no text in it, a file that is not UTF-8, or a class of fewer
        than 3 documents.
    """
    require(
        path.exists(),
        f"There is no file or folder {path}; expected a UTF-8 text file or a folder of them.",
    )
    if path.is_dir():
        documents = [
            Document(name.as_posix(), _read(path / name), _label(name)) for name in _files(path)
        ]
        require(
            bool(documents),
            f"{path} holds no text files; expected some ending in {', '.join(_ENDINGS)}, "
            "at any depth. A file of another ending must be named itself.",
        )
    else:
        documents = [Document(path.name, _read(path), "")]
    documents = [document for document in documents if document.text.strip()]
    require(bool(documents), f"{path} holds no text: it is empty or blank; give a file with text.")
    if len({document.label for document in documents} - {""}) > 1:
        return split_documents(documents)
    return split_blocks(document._replace(label="") for document in documents)


def _files(root: Path) -> list[Path]:
    """The text files below a folder, relative to it."""
    found = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        paths = [Path(folder, name) for name in names if not name.startswith(".")]
        found += [
            path.relative_to(root)
            for path in paths
            if path.suffix.lower() in _ENDINGS and path.is_file()
        ]
    return sorted(found)


def _read(path: Path) -> str:
    """The text of a file, without a byte order mark, with every end of a line as "\\n"."""
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8: byte {error.start} is 0x{error.object[error.start]:02x}; "
            "convert the file, for example with iconv -f LATIN1 -t UTF-8."
        ) from error
    except OSError as error:
        raise UserError(
            f"{path} cannot be read: {error.strerror}; give a readable file."
        ) from error
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def _label(path: Path) -> str:
    return path.parts[0] if len(path.parts) > 1 else ""
