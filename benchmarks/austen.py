"""Write the six novels of Jane Austen as text: a folder for each novel, a file for each chapter.

    apt-get download r-cran-janeaustenr && dpkg -x r-cran-janeaustenr_*.deb package
    pip install rdata
    python benchmarks/austen.py package/usr/lib/R/site-library/janeaustenr austen
    python run.py --exp=bert --data=txt:austen

Which novel a passage is from is a task that no setting of this suite was chosen on. The texts are
Project Gutenberg's, in the public domain, in R's package janeaustenr; R itself is not needed.
"""

import argparse
import re
import sys
import zlib
from pathlib import Path

NOVELS = (
    "emma",
    "mansfieldpark",
    "northangerabbey",
    "persuasion",
    "prideprejudice",
    "sensesensibility",
)
HEADING = re.compile(r"chapter [\divxlc]+\b", re.IGNORECASE)


def lines_of(data: Path, novel: str) -> list[str]:
    """Return the lines of a novel.

    R keeps the objects of a package in one file, each behind four bytes with its length, packed by
    zlib; another file says where each of them lies.
    """
    from rdata import conversion, parser  # of this script alone

    index = conversion.convert(parser.parse_data((data / "Rdata.rdx").read_bytes()))
    places = {str(name): where for name, where in index["variables"].items()}
    start, size = (int(number) for number in places[novel])
    packed = (data / "Rdata.rdb").read_bytes()[start + 4 : start + size]
    lines = conversion.convert(parser.parse_data(zlib.decompress(packed)))
    return [str(line) for line in lines]


def chapters_of(lines: list[str]) -> list[str]:
    """Return the text of each chapter, without what comes before the first and without headings."""
    chapters: list[list[str]] = []
    for line in lines:
        if HEADING.match(line):
            chapters.append([])
        elif chapters:
            chapters[-1].append(line)
    return ["\n".join(chapter).strip() + "\n" for chapter in chapters]


def main() -> int:
    """Write the files; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("package", type=Path, help="folder of the installed package janeaustenr")
    parser.add_argument("out", type=Path, help="folder to write")
    args = parser.parse_args()
    for novel in NOVELS:
        chapters = chapters_of(lines_of(args.package / "data", novel))
        folder = args.out / novel
        folder.mkdir(parents=True, exist_ok=True)
        for number, chapter in enumerate(chapters, start=1):
            (folder / f"chapter{number:02}.txt").write_text(chapter)
        print(f"{novel}: {len(chapters)} chapters, {sum(map(len, chapters)):,} characters")
    return 0


if __name__ == "__main__":
    sys.exit(main())
