"""Obtain and verify the benchmark pacs: 1,670 photographs, 2,344 cartoons and 1,310 sketches of seven classes (102 MB).

``python data_scripts/pacs.py`` downloads the repository MachineLearning2020/Homework3-PACS of GitHub at one commit
(kept in ``downloads/``) and takes the indexed files; ``--from DIR`` takes them from DIR, which holds the repository's
archive or unpacked tree (see :mod:`github`). ``--check`` only verifies. Of the 3,929 sketches every third is used.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence

import github
from archives import arguments, run
from asg.data import data_root, pacs

REPOSITORY = github.Repository(
    "MachineLearning2020", "Homework3-PACS", "d586a6cf3db84896fb6cc465c7bf51bdaf6d65d8", "PACS"
)


def table() -> str:
    """The indexed images of each domain and class."""
    counts = Counter(tuple(row["path"].split("/")[:2]) for row in pacs.index())
    classes = sorted({name for _, name in counts})
    lines = ["         " + "".join(f"{name:>10}" for name in (*classes, "all"))]
    for domain in dict.fromkeys(domain for domain, _ in counts):
        numbers = [counts[domain, name] for name in classes]
        lines.append(f"{domain:9}" + "".join(f"{number:10,}" for number in (*numbers, sum(numbers))))
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; the exit code is 1 after a fault, whose sentence goes to the standard error."""
    args = arguments("the benchmark pacs (drawings and photographs)", "pacs").parse_args(argv)

    def work() -> str:
        start, parts = time.monotonic(), [github.Part(REPOSITORY, pacs.index(), args.to)]
        if args.check:
            github.require(parts, "pacs")
        else:
            github.obtain(parts, args.source, data_root() / "downloads")
        seconds = time.monotonic() - start
        return f"{table()}\npacs at {args.to} is complete: {len(pacs.index()):,} images, in {seconds:.1f} s."

    return run(args.to, work)


if __name__ == "__main__":
    sys.exit(main())
