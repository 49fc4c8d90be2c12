"""Execute the chapters that changed, and build the HTML."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from asg import AsgError, records
from asg.data import data_root
from asg_book.workers import in_workers

BOOK = records.REPOSITORY / "book"
CODE_ALONE = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
STAGED = BOOK / "_build" / "executed"
HTML = BOOK / "_build" / "html"
OPTIONAL = ("pacs", "cad")  # folders of benchmarks that a book is built without, and whose images it shows if there
# Chapters that train and take longest: they begin first.
TRAINING = ("01_quickstart", "14_bring_your_own", "15_your_own_loop")
CHAPTER_SECONDS = 1500  # of a cell: one that takes longer has hung, also on a busy machine


def chapters() -> list[Path]:
    """Notebooks of the book in reading order."""
    return sorted((BOOK / "chapters").glob("*.ipynb"))


def digest_of(paths: Sequence[Path]) -> str:
    """Hash of the contents of files, and of every file below folders, wherever these lie."""
    digest = hashlib.sha256()
    for path in paths:
        below = sorted(p for p in path.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
        for file in below or [path]:
            digest.update(str(file.relative_to(path.parent)).encode() + file.read_bytes())
    return digest.hexdigest()


def benchmarks() -> list[str]:
    """The optional benchmarks that are there: a page shows images of one only where it is."""
    return [name for name in OPTIONAL if (data_root() / name).is_dir()]


def execute(notebook: Path) -> float:
    """Run one chapter by papermill in a fresh kernel into the staged book; return its seconds.

    Skipped when chapter, package, records, policies and benchmarks are what they were when it last ran.
    """
    import papermill  # slow to import, and only needed here

    out = STAGED / notebook.relative_to(BOOK)
    stamp = out.with_suffix(".json")
    ours = [records.REPOSITORY / part for part in ("asg", "book/asg_book", "policies", "requirements.lock")]
    state = "-".join([digest_of([notebook, records.results_root(), *ours]), *benchmarks()])
    if out.exists() and stamp.exists() and (stamped := json.loads(stamp.read_text("utf-8")))["state"] == state:
        return stamped["seconds"]
    out.parent.mkdir(parents=True, exist_ok=True)
    partial, began = out.with_name(f"running-{out.name}"), time.monotonic()
    print(f"executing {notebook.relative_to(BOOK)} …", flush=True)
    try:
        papermill.execute_notebook(
            notebook, partial, kernel_name="python3", cwd=notebook.parent, progress_bar=False,
            execution_timeout=CHAPTER_SECONDS, extra_arguments=["--log-level=50"],
        )  # fmt: skip
    except papermill.PapermillExecutionError as error:
        raise AsgError(f"{notebook.name} fails in cell {error.exec_count}: {error.ename}: {error.evalue}") from None
    seconds = time.monotonic() - began
    partial.replace(out)
    stamp.write_text(json.dumps({"state": state, "seconds": round(seconds, 1)}), "utf-8")
    print(f"executed {notebook.relative_to(BOOK)} in {seconds:.0f} s", flush=True)
    return seconds


def build() -> Path:
    """Execute what changed, build the HTML where anything changed, and return its first page."""
    os.environ["TQDM_DISABLE"] = "1"
    keep_out = shutil.ignore_patterns("_build", "asg_book", "*.ipynb", ".ipynb_checkpoints")
    shutil.copytree(BOOK, STAGED, ignore=keep_out, dirs_exist_ok=True)
    shutil.copytree(records.REPOSITORY / "examples", STAGED / "examples", ignore=CODE_ALONE, dirs_exist_ok=True)
    *others, last = chapters()  # the last one shows the times of the others
    others.sort(key=lambda chapter: chapter.stem not in TRAINING)
    cores = os.cpu_count() or 1
    jobs = min(4, cores)
    os.environ.setdefault("OMP_NUM_THREADS", str(cores // jobs))  # else kernels get in each other's way
    for _, seconds in in_workers(execute, [(chapter,) for chapter in others], jobs):
        if isinstance(seconds, AsgError):
            raise seconds
    execute(last)
    stamp, state = HTML.parent / "state", digest_of([STAGED])
    first = HTML / "intro.html"
    if first.exists() and stamp.exists() and stamp.read_text("utf-8") == state:
        return first
    shutil.rmtree(HTML.parent / ".doctrees", ignore_errors=True)  # sphinx warns of a page only when it reads it
    options = ["--path-output", str(BOOK), "-W", "-n", "--keep-going"]
    command = [str(Path(sys.executable).with_name("jupyter-book")), "build", str(STAGED), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not first.exists():
        (HTML.parent / "build.log").write_text(done.stdout + done.stderr, "utf-8")
        problems = "\n".join(line for line in done.stderr.splitlines() if "WARNING" in line or "ERROR" in line)
        raise AsgError(f"The book does not build:\n{problems}\nThe whole log is {HTML.parent / 'build.log'}.")
    stamp.write_text(state, "utf-8")
    return first
