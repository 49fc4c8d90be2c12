"""Results that outlive their run: what identifies them, where they lie, how they are written."""

import ast
import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from pydantic import BaseModel

from asg import AsgError
from asg.config import RunConfig, make_config
from asg.controllers.chance import given_ratios
from asg.controllers.learned import load_policy
from asg.controllers.windows import policy_path
from asg.data import read_domains
from asg.data.images import make_folder
from asg.models import LITES

FORMAT = 1  # raise when a record's fields change meaning
REPOSITORY = Path(__file__).parents[1]
RECIPE = (  # but for config.py, whose values stand in the key themselves, and for what only says who is asked
    "data/images.py",
    "models.py",
    "losses.py",
    "metrics.py",
    "controllers/base.py",
    "controllers/hand_tuned.py",
    "trainers/__init__.py",
    "trainers/optimiser.py",
    "trainers/loop.py",
    "trainers/task.py",
    "trainers/frozen.py",
    "trainers/regularisers.py",
    "trainers/classification.py",
)
CONTROLLERS = {  # what a controller adds to the recipe; the hand-tuned one is always there
    "random": ("controllers/windows.py", "controllers/chance.py"),
    "random once": ("controllers/windows.py", "controllers/chance.py"),
    "fixed": ("controllers/windows.py", "controllers/chance.py"),
    "learned": ("controllers/windows.py", "controllers/learned.py"),
    "meta-training": ("controllers/windows.py", "controllers/chance.py", "controllers/learned.py", "reinforce.py"),
}
DENSE = (
    "data/segmentation.py", "dense_models.py", "dense_losses.py", "dense_metrics.py", "trainers/segmentation.py",
)  # fmt: skip
ADAPTATION = ("pseudo_labels.py", "trainers/self_training.py")  # what self-training adds
READERS = {  # what a benchmark adds
    "toy": ("data/toy.py", "data/segmentation.py"),
    "mini": ("data/mini.py",),
    "digits": ("data/digits.py",),
    "visda17": ("data/visda.py",),
    "folder": ("data/folder.py",),
    "toy-scenes": ("data/toy.py", *DENSE),
    "scenes": ("data/mini.py", "data/scenes.py", *DENSE),
    "gta5": ("data/street.py", *DENSE),
}


class Damaged(AsgError):
    """A file of records holds something that is none; the records beside it are worth keeping."""


def results_root() -> Path:
    """Where records lie: ``$ASG_RESULTS``, else ``results/`` of the repository."""
    return Path(os.environ.get("ASG_RESULTS", REPOSITORY / "results"))


def runs_root() -> Path:
    """Where runs keep their checkpoints: ``$ASG_RUNS``, else ``runs/`` of the repository."""
    return Path(os.environ.get("ASG_RUNS", REPOSITORY / "runs"))


def _bare(node: object) -> str:
    """A syntax tree as text, the same on every Python: no docstrings, no layout, no empty fields."""
    if isinstance(node, list):
        return f"[{', '.join(map(_bare, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = dict(ast.iter_fields(node))
    match fields.get("body"):
        case [ast.Expr(ast.Constant(str())), *rest]:
            fields["body"] = rest
    return f"{type(node).__name__}({', '.join(f'{k}={_bare(v)}' for k, v in fields.items() if v not in (None, []))})"


@cache
def recipe_hash(
    data: str, controller: str | None = None, adapts: bool = False, package: Path = Path(__file__).parent
) -> str:
    """Hash (12 hex digits) of the code on the training path of benchmark ``data`` under a controller.

    Comments, docstrings and layout do not count, nor do other benchmarks and controllers. Taken
    once a process: code that is edited while a run goes on did not make that run.
    """
    digest = hashlib.sha256()
    for part in (*RECIPE, *READERS[data], *CONTROLLERS.get(controller, ()), *(ADAPTATION if adapts else ())):
        digest.update(_bare(ast.parse((package / part).read_text())).encode())
    return digest.hexdigest()[:12]


def files_hash(config: RunConfig) -> str:
    """What identifies the files that a run starts from: weights given by their path, a policy."""
    weights = Path(config.weights)
    files = [] if config.weights in ("pretrained", "random", *LITES) or not weights.exists() else [weights]
    parts = [file.read_bytes() for file in files]
    if config.control and config.control.kind == "learned":  # not the card, which holds times
        policy, _ = load_policy(policy_path(config.control.policy))
        parts.append(
            b"".join([repr(policy.spec).encode(), *(p.numpy().tobytes() for p in policy.state_dict().values())])
        )
    elif config.control and config.control.kind == "fixed":
        parts.append(repr(given_ratios(config.control)).encode())
    return "".join(hashlib.sha256(part).hexdigest()[:12] for part in parts)


def recipe_of(config: RunConfig) -> str:
    """:func:`recipe_hash` of what ``config`` trains with."""
    return recipe_hash(config.data, config.control.kind if config.control else None, bool(config.adapt))


def index_hash(config: RunConfig) -> str:
    """Hash (12 hex digits) of what identifies the benchmark's files; no image is read."""
    return read_domains(config).fingerprint


def run_key(config: RunConfig) -> str:
    """Hash (12 hex digits) of configuration without seed, data index and recipe: what makes a result."""
    parts = (config.identity(), index_hash(config), files_hash(config), recipe_of(config))
    return hashlib.sha256("".join(parts).encode()).hexdigest()[:12]


def records_path(config: RunConfig) -> Path:
    """The file that holds the records of ``config`` for all seeds."""
    return results_root() / config.profile / f"{run_key(config)}.jsonl"


def read(path: Path) -> list[dict]:
    """Every record of one file; an older format and a broken line are named in the error."""
    if not path.exists():
        return []
    records = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            record = None
        if not isinstance(record, dict):
            raise Damaged(f"{path}, line {number} is no record: remove the line and run it again.")
        if record.get("format") != FORMAT:
            raise AsgError(
                f"{path}, line {number} has record format {record.get('format')}, this version reads {FORMAT}: "
                "remove the file and run `asg reproduce`."
            )
        records.append(record)
    return records


def is_current(path: Path) -> bool:
    """Whether the code and the data at hand would keep their records under the name of this file.

    Raises :class:`Damaged` for a broken line: the other lines are for its owner to save.
    """
    try:
        config = make_config(read(path)[0]["config"])
    except Damaged:
        raise
    except (AsgError, LookupError):  # another format, settings that are gone, an empty file
        return False
    return run_key(config) == path.stem


def find(config: RunConfig) -> dict | None:
    """The record of this configuration and seed, if there is one."""
    return next((r for r in read(records_path(config)) if r["seed"] == config.seed), None)


def append(config: RunConfig, record: dict) -> None:
    """Add (or replace) one seed's record; the file is complete at every moment, also with several writers."""
    path = results_root() / config.profile / f"{record['key']}.jsonl"
    make_folder(path.parent)
    with FileLock(str(path.with_suffix(".lock"))):
        kept = [r for r in read(path) if r["seed"] != config.seed]
        rows = sorted([*kept, record], key=lambda r: r["seed"])
        write_text(path, "".join(json.dumps(r) + "\n" for r in rows))


def write_text(path: Path, text: str) -> None:
    """Write ``path`` atomically: the old content or the new, never a part."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(text)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise AsgError(
            f"{path} cannot be written ({error.strerror}): free some space or choose another folder."
        ) from None


@contextmanager
def run_folder(config: RunConfig, fresh: bool = False) -> Iterator[Path]:
    """The folder of one run, held by this process alone; a ``fresh`` repetition has its own."""
    folder = make_folder(runs_root() / run_key(config) / f"{config.seed}{'-fresh' * fresh}")
    with lock(folder):
        yield folder


@contextmanager
def lock(folder: Path, wait: bool = False) -> Iterator[None]:
    """Hold ``folder`` for this process; another one is told at once, or waits."""
    try:
        with FileLock(str(folder / "lock"), timeout=-1 if wait else 0):
            yield
    except Timeout:
        raise AsgError(f"Another process is training the run in {folder}: wait for it, or stop it.") from None


@contextmanager
def meta_folder(kind: str, meta: BaseModel) -> Iterator[Path]:
    """The folder of one meta-training or search, held by this process alone."""
    made_of = meta.model_dump_json() + recipe_hash(meta.student.data, "meta-training")
    folder = make_folder(runs_root() / f"{kind}-{hashlib.sha256(made_of.encode()).hexdigest()[:12]}")
    with lock(folder):
        yield folder


def card(meta: BaseModel, **found: object) -> dict:
    """What is kept beside a policy or a search: how it was made, on what, and what came out."""
    recipe, index = recipe_hash(meta.student.data, "meta-training"), index_hash(meta.student)
    return {"meta": meta.model_dump(), "recipe": recipe, "index": index, **provenance(), **found}


def provenance() -> dict:
    """Versions, platform and commit, for the record."""
    commit = subprocess.run(
        ["git", "-C", str(REPOSITORY), "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    packages = ("torch", "torchvision", "timm", "accelerate", "numpy", "pillow")
    return {
        "versions": {"python": platform.python_version(), **{p: version(p) for p in packages}},
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": torch.backends.cpu.get_cpu_capability(),  # decides the last bits of a result on a CPU
        "commit": commit or None,
    }
