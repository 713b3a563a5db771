"""The help on the Python language that comes with Python (`help("if")`): it needs no file.

About 80 topics, 400,000 characters of English prose with grammar and examples. They differ a little
from one version of Python to the next; the digest tells.
"""

from pydoc_data.topics import topics

from missing_bits.data.documents import Corpus, Document, split_blocks


def load() -> Corpus:
    """The topics in alphabetical order, without classes."""
    return split_blocks(Document(name, topics[name], "") for name in sorted(topics))
