"""Obtain, render and verify the benchmark cad: CAD renders and photographs of 14 classes.

``python data_scripts/cad.py`` downloads four repositories of GitHub at one commit each (kept in ``downloads/``), takes
the indexed meshes and photographs, and renders every view of every mesh; ``--from DIR`` takes the files from DIR,
which holds the repositories' archives or unpacked trees (see :mod:`github`). Rendering needs the extra ``[render]``.
It runs in ``--jobs`` processes, can be stopped at any time, and goes on with the views that are not there; a view is
the same whoever renders it. ``--class`` and ``--views`` render a part, to look at it. ``--check`` only verifies.
"""

from __future__ import annotations

import io
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path

from PIL import Image
from tqdm import tqdm

import github
from archives import arguments, run, write
from asg import AsgError
from asg.data import cad, data_root
from asg.data.images import read_image
from asg.data.indexed import Row
from cad_looks import LOOKS
from cad_meshes import prepare
from render_cad import PIXELS, mitsuba, render, stream

REPOSITORIES = (
    github.Repository("MaxRee94", "ShapeDatabase_INFOMR", "c20d9c370f54893fe842ac03eb825053a1b49082"),
    github.Repository("MachineLearning2020", "Homework2-Caltech101", "836044dd000296b2bb74d0aa4b4e462e459b01d7"),
    github.Repository("redhat12345", "OfficeCaltechDomainAdaptation", "74f70487e1b975d1af05bb9a2ecfbf14a7000080"),
    github.Repository("MachineLearning2020", "Homework3-PACS", "d586a6cf3db84896fb6cc465c7bf51bdaf6d65d8"),
)
SPLITS = ("train", "validation", "test")


def parts(root: Path, classes: Sequence[str]) -> list[github.Part]:
    """The indexed files of ``classes``, by repository."""
    rows = [row for split in SPLITS for row in cad.index(split) if row["class"] in classes]
    by_name = {one.name: [row for row in rows if row["repository"] == one.name] for one in REPOSITORIES}
    return [github.Part(one, by_name[one.name], root / one.name) for one in REPOSITORIES if by_name[one.name]]


def wanted(root: Path, classes: Sequence[str], most: int | None) -> list[tuple[Row, int]]:
    """The views (at most ``most`` of a mesh) of the meshes of ``classes`` that are not rendered yet."""
    meshes = [row for split in SPLITS[:2] for row in cad.index(split) if row["class"] in classes]
    every = ((mesh, view) for mesh in meshes for view in range(int(mesh["views"])) if most is None or view < most)
    return [(mesh, view) for mesh, view in every if not (root / cad.render_name(mesh, view)).exists()]


def start_worker() -> None:
    """One thread a process: with several, a worker would take more than its share."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupted script lets its workers finish their view
    mitsuba()
    import drjit

    drjit.set_thread_count(0)  # the calling thread alone


prepared = lru_cache(1)(prepare)  # the views of a mesh come one after the other


def render_view(root: Path, mesh: Row, view: int) -> None:
    """Render one view of a mesh, complete or not at all."""
    ready = prepared(root / mesh["repository"] / mesh["path"], mesh["up"], mesh["front"] or None)
    image = Image.fromarray(render(ready, LOOKS[mesh["class"]], stream(mesh["path"], view)))
    content = io.BytesIO()
    image.save(content, "PNG")
    write(root / cad.render_name(mesh, view), content.getvalue())


def render_all(root: Path, work: Sequence[tuple[Row, int]], jobs: int) -> None:
    """Render ``work`` in ``jobs`` processes; what is there when it is stopped stays."""
    mitsuba()
    pool = ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=start_worker)
    try:
        waiting = [pool.submit(render_view, root, mesh, view) for mesh, view in work]
        for done in tqdm(as_completed(waiting), desc="rendering", total=len(work), unit="image"):
            done.result()
    except BrokenProcessPool:
        remedy = "run again with fewer --jobs."
        raise AsgError(f"A process that rendered was ended, perhaps for lack of memory: {remedy}") from None
    finally:
        pool.shutdown(cancel_futures=True)


def verify(root: Path) -> None:
    """Raise unless every mesh and photograph is as published and every render is there and can be read."""
    github.require(parts(root, list(cad.imagenet_classes())), "cad")
    for split in SPLITS[:2]:
        meshes = tqdm(cad.index(split), desc=f"checking renders, {split}", unit="mesh", leave=False)
        for path in (root / cad.render_name(mesh, view) for mesh in meshes for view in range(int(mesh["views"]))):
            if not path.exists():
                raise AsgError(f"The render {path} is missing: {cad.REMEDY}")
            if (size := read_image(path).size) != (PIXELS, PIXELS):
                raise AsgError(
                    f"The render {path} is of {size} pixels, not {PIXELS} a side: remove it and {cad.REMEDY}"
                )


def table() -> str:
    """Meshes, renders and photographs of each class, as indexed."""
    lines = [f"{'':12}{'meshes':>8}{'renders':>9}{'held-out meshes':>17}{'renders':>9}{'photographs':>13}"]
    counts: Counter[tuple[str, str]] = Counter()
    for split in SPLITS:
        for row in cad.index(split):
            for name in (row["class"], "all"):
                counts[name, split] += 1
                counts[name, f"{split} renders"] += int(row["views"] or 0)
    columns = (("train", 8), ("train renders", 9), ("validation", 17), ("validation renders", 9), ("test", 13))
    for name in (*cad.imagenet_classes(), "all"):
        lines.append(f"{name:12}" + "".join(f"{counts[name, column]:{width},}" for column, width in columns))
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; the exit code is 1 after a fault, whose sentence goes to the standard error."""
    parser = arguments("the benchmark cad (CAD renders and photographs)", "cad")
    parser.add_argument("--jobs", type=int, default=1, help="processes that render (%(default)s)")
    names = list(cad.imagenet_classes())
    parser.add_argument("--class", nargs="+", dest="classes", choices=names, help="these classes only")
    parser.add_argument("--views", type=int, help="at most so many views of a mesh")
    args = parser.parse_args(argv)
    for option in ("jobs", "views"):
        if getattr(args, option) is not None and getattr(args, option) < 1:
            parser.error(f"--{option} must be 1 or more")

    def work() -> str:
        start, classes = time.monotonic(), args.classes or list(cad.imagenet_classes())
        rendered = 0
        if not args.check:
            if wanted(args.to, classes, args.views):
                mitsuba()  # before anything is downloaded
            github.obtain(parts(args.to, classes), args.source, data_root() / "downloads")
            if todo := wanted(args.to, classes, args.views):
                render_all(args.to, todo, args.jobs)
                rendered = len(todo)
        seconds = f"{rendered:,} images rendered, in {time.monotonic() - start:.0f} s"
        if args.classes or args.views:
            return f"A part of cad is at {args.to}: {seconds}; run without --class and --views for all of it."
        verify(args.to)
        return f"{table()}\ncad at {args.to} is complete: {seconds}."

    return run(args.to, work)


if __name__ == "__main__":
    sys.exit(main())
