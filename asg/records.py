"""Results that outlive their run: what identifies them, where they lie, how they are written."""

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version as installed
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from pydantic import BaseModel

from asg import AsgError, places
from asg.config import NAMED_WEIGHTS, RunConfig, make_config
from asg.controllers.chance import control_path, given_ratios
from asg.controllers.learned import load_policy
from asg.data import read_domains
from asg.data.images import make_folder
from asg.places import place
from asg.recipes import recipe_of, version

FORMAT = 2  # raise when a record's fields change meaning
FORMATS = (1, 2)  # all there ever were
REPOSITORY = places.CHECKOUT


class Damaged(AsgError):
    """A file of records holds something that is none; the records beside it are worth keeping."""


def results_root() -> Path:
    """Where records lie (:func:`asg.places.place`): ``$ASG_RESULTS``, else ``results/``."""
    return place("results")


def runs_root() -> Path:
    """Where runs keep their checkpoints (:func:`asg.places.place`): ``$ASG_RUNS``, else ``runs/``."""
    return place("runs")


def files_hash(config: RunConfig) -> str:
    """What identifies the files that a run starts from: weights given by their path, a policy."""
    parts = []
    if config.weights not in NAMED_WEIGHTS and (weights := Path(config.weights)).exists():  # else its reader says so
        parts.append(weights.read_bytes())
    if config.control and config.control.kind == "learned":  # not the card, which holds times
        policy, _ = load_policy(control_path(config.control))
        parts.append(
            b"".join([repr(policy.spec).encode(), *(p.numpy().tobytes() for p in policy.state_dict().values())])
        )
    elif config.control and config.control.kind == "fixed":
        parts.append(repr(given_ratios(config.control)).encode())
    return "".join(hashlib.sha256(part).hexdigest()[:12] for part in parts)


def index_hash(config: RunConfig) -> str:
    """Hash (12 hex digits) of what identifies the benchmark's files; no image is read."""
    return read_domains(config).fingerprint


def key_of(config: RunConfig, index: str) -> str:
    """Hash (12 hex digits) of what makes a result: configuration without seed, data index, files, recipe.

    Where the data lie, and how many processes read them, is no part of it.
    """
    parts = (config.identity(), index, files_hash(config), recipe_of(config))
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def run_key(config: RunConfig) -> str:
    """:func:`key_of` the data at hand."""
    return key_of(config, index_hash(config))


def records_path(config: RunConfig) -> Path:
    """The file that holds the records of ``config`` for all seeds."""
    return results_root() / config.profile / f"{run_key(config)}.jsonl"


def read(path: Path, formats: tuple[int, ...] = (FORMAT,)) -> list[dict]:
    """Every record of one file; one of another format than ``formats`` and a broken line are named in the error."""
    if not path.exists():
        return []
    records = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            record = None
        if not isinstance(record, dict):
            raise Damaged(f"{path}, line {number} is no record: remove the line and run it again.")
        if record.get("format") not in formats:
            raise AsgError(
                f"{path}, line {number} has record format {record.get('format')}, this version reads {FORMAT}: "
                "`asg prune` removes it, `asg reproduce` makes it anew."
            )
        records.append(record)
    return records


def is_current(record: dict) -> bool:
    """Whether today's code and data would keep this record under its own key.

    Data that this machine lacks are taken at the record's word.
    """
    try:
        config = make_config(record["config"])
        try:
            index = index_hash(config)
        except AsgError:
            index = record["index"]
        return record["format"] == FORMAT and record["key"] == key_of(config, index)
    except (AsgError, LookupError):  # settings or a policy that are gone
        return False


def of_profile(profile: str) -> list[dict]:
    """Every record of a profile, in the order of their keys and seeds."""
    return [record for path in sorted((results_root() / profile).glob("*.jsonl")) for record in read(path)]


def outdated(profile: str) -> list[tuple[Path, list[dict], list[dict]]]:
    """The files of a profile that hold records which are not current: path, its current records, its outdated ones."""
    files = []
    for path in sorted((results_root() / profile).glob("*.jsonl")):
        current, old = [], []
        for record in read(path, FORMATS):
            (current if is_current(record) else old).append(record)
        if old:
            files.append((path, current, old))
    return files


def policy_is_there(config: RunConfig) -> bool:
    """Whether the policy or search that a run names, if it does, has been made."""
    return config.control is None or config.control.policy is None or control_path(config.control).exists()


def find(config: RunConfig) -> dict | None:
    """The record of this configuration and seed, if there is one; of a policy that is not there, there is none."""
    return find_each([config])[0]


def find_each(configs: Sequence[RunConfig]) -> list[dict | None]:
    """:func:`find` of every configuration; those that differ in their seed alone, whose file is one, read it once."""
    files: dict[str, dict[int, dict]] = {}
    records = []
    for config in configs:
        but_seed = config.model_copy(update={"seed": 0}).to_json()
        if but_seed not in files:
            rows = read(records_path(config)) if policy_is_there(config) else []
            files[but_seed] = {record["seed"]: record for record in reversed(rows)}
        records.append(files[but_seed].get(config.seed))
    return records


def append(config: RunConfig, record: dict) -> None:
    """Add (or replace) one seed's record; the file is complete at every moment, also with several writers."""
    path = results_root() / config.profile / f"{record['key']}.jsonl"
    make_folder(path.parent)
    with FileLock(str(path.with_suffix(".lock"))):
        others = [r for r in read(path) if r["seed"] != config.seed]
        write_rows(path, sorted([*others, record], key=lambda r: r["seed"]))


def write_rows(path: Path, rows: list[dict]) -> None:
    """Replace the records of a file; of none, there is no file."""
    if rows:
        write_text(path, "".join(json.dumps(r) + "\n" for r in rows))
    else:
        path.unlink()


def write_text(path: Path, text: str) -> None:
    """Write ``path`` atomically: the old content or the new, never a part."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(text, "utf-8", "surrogateescape")  # names of files that are no UTF-8, as they are
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise AsgError(
            f"{path} cannot be written ({error.strerror}): free some space or choose another folder."
        ) from None


@contextmanager
def run_folder(config: RunConfig, fresh: bool = False, wait: bool = False) -> Iterator[Path]:
    """The folder of one run, held by this process alone (see :func:`lock`); a ``fresh`` repetition has its own."""
    folder = make_folder(runs_root() / run_key(config) / f"{config.seed}{'-fresh' * fresh}")
    with lock(folder, wait):
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
    made_of = meta.model_dump_json() + repr(meta_recipe(meta)) + index_hash(meta.student)
    folder = make_folder(runs_root() / f"{kind}-{hashlib.sha256(made_of.encode()).hexdigest()[:12]}")
    with lock(folder):
        yield folder


def meta_recipe(meta: BaseModel) -> dict[str, int]:
    """Part → version of all that makes a meta-training."""
    looks = {"looks": version("looks")} if meta.reward == "looks" else {}
    return {**recipe_of(meta.student), "meta-training": version("meta-training"), **looks}


def card(meta: BaseModel, **results: object) -> dict:
    """What is kept beside a policy or a search: how it was made, on what, and what came out."""
    made_of = {"meta": meta.model_dump(), "recipe": meta_recipe(meta), "index": index_hash(meta.student)}
    return {**made_of, **provenance(), **results}


def provenance() -> dict:
    """Versions, platform and commit, for the record."""
    command = ["git", "-C", str(REPOSITORY), "rev-parse", "--short=12", "HEAD"]
    commit = ""
    if places.is_checkout():  # else an installed package may lie in someone else's repository
        commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    packages = ("torch", "torchvision", "timm", "accelerate", "numpy", "pillow")
    return {
        "versions": {"python": platform.python_version(), **{p: installed(p) for p in packages}},
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": torch.backends.cpu.get_cpu_capability(),  # decides the last bits of a result on a CPU
        "commit": commit or None,
    }
