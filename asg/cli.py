"""The `asg` command for people's own folders; the book's commands are added in :mod:`asg_book.cli`.

Commands import what takes seconds when they are run, so that help does not wait for it.
"""

import codecs
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asg import AsgError, interrupts, launcher, memory, messages, places
from asg.own_recipes import RECIPES

if TYPE_CHECKING:
    from asg.predict import Prediction
    from asg.predict_masks import Mask

    Row = Prediction | Mask

GRACE = 30.0  # seconds in which the launcher ends a process whose main process has failed, mostly of the same error

app = typer.Typer(
    help="Automated Synthetic-to-Real Generalization: your own data, experiments, and the book.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

TOGETHER = ("run", "train", "adapt")  # commands whose work several processes can share
OWN = ("train", "adapt", "predict", "export", "policy")  # commands that need nothing of the repository but the package

Settings = Annotated[list[str], typer.Option("--set", help="FIELD=VALUE, a RunConfig field; the value is JSON.")]
Sources = Annotated[
    list[str],
    typer.Option(
        metavar="FOLDER[=TIMES]",
        help="Synthetic images: a sub-folder a class, or images/ and masks/. For several folders of classes give it "
        "again, with =TIMES for how often a pass sees each image.",
    ),
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:N or mps; the best there is if not given.")]


def watch_by(tracker: str | None) -> str | None:
    """Let the runs of this command, in other processes too, be watched (:mod:`asg.tracking`)."""
    if tracker is not None:
        os.environ["ASG_TRACK"] = tracker
    return tracker


Track = Annotated[
    str | None, typer.Option(help="Watch it: tensorboard (in runs/watched), wandb or mlflow.", callback=watch_by)
]


def parse_settings(settings: list[str]) -> dict:
    """``["lr=0.01", "sgd=torch"]`` → overrides; values are JSON, or text where they are not."""
    overrides = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise AsgError(f"--set {setting!r}: write FIELD=VALUE.")
        try:
            overrides[name] = json.loads(value)
        except json.JSONDecodeError:
            overrides[name] = value
    return overrides


def parse_sources(given: list[str]) -> dict[Path, int]:
    """``["renders", "more=3"]`` → folder → how often a pass sees its images; a folder of that very name comes first."""
    sources: dict[Path, int] = {}
    for text in given:
        name, equals, times = text.rpartition("=")
        if not equals or Path(text).exists():
            name, times = text, "1"
        if not name or not times.isascii() or not times.isdigit() or int(times) < 1:
            raise AsgError(f"--source {text!r}: write FOLDER, or FOLDER=TIMES with a whole number from 1 on.")
        if Path(name) in sources:
            raise AsgError(f"--source {name} is given twice: give it once, with =TIMES.")
        sources[Path(name)] = int(times)
    return sources


@app.callback()
def begin(
    context: typer.Context,
    quiet: Annotated[bool, typer.Option("--quiet", help="Results and warnings alone: no bars, no notices.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Every evaluation and checkpoint too.")] = False,
) -> None:
    """Set how much is told; refuse a command of one process among several, and one of the book without the book."""
    if quiet and verbose:
        raise AsgError("--quiet and --verbose ask for opposite things: give one of them.")
    messages.listen(logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO)
    command = context.invoked_subcommand
    if launcher.launched() > 1 and command not in TOGETHER:
        raise AsgError(f"`asg {command}` is the work of one process: start it without a launcher.")
    if not places.is_checkout() and command not in OWN:
        raise AsgError(
            f"`asg {command}` needs the repository, which holds the experiments and the book: clone it and run "
            f"it there. Without it there are {', '.join(OWN)}."
        )


class Task(StrEnum):
    """What is learned of own images."""

    CLASSIFICATION = "classification"
    SEGMENTATION = "segmentation"


NAMED = "; ".join(f"of {task}: {', '.join(named)}" for task, named in RECIPES.items())


@app.command()
def train(
    source: Sources,
    target: Annotated[Path | None, typer.Option(help="Real images, laid out likewise; only reported on.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the model and its report.")] = Path("model"),
    task: Annotated[Task, typer.Option(help="A class for each image, or for each pixel.")] = Task.CLASSIFICATION,
    class_list: Annotated[
        Path | None, typer.Option("--classes", help="What the values of masks mean (.txt, .json); segmentation only.")
    ] = None,
    recipe: Annotated[str | None, typer.Option(help=f"{NAMED}; the first if not given.")] = None,
    policy: Annotated[
        str | None, typer.Option(help="Who sets the rates: a policy's name, or a file that `asg policy train` wrote.")
    ] = None,
    settings: Settings = [],  # noqa: B006
    device: Device = None,
    track: Track = None,
) -> None:
    """Train on your own renders, with proxy guidance or by another recipe, and report on your own photos."""
    from asg import own

    control = {"control": {"kind": "learned", "policy": policy, "schedule": True}} if policy else {}
    overrides = {**control, **parse_settings(settings)}
    own.model_of(parse_sources(source), target, out, overrides, device, recipe, task.value, class_list)
    report = (out / "report.md").read_text("utf-8", "surrogateescape")
    print(f"\n{report}\nThe model is in {out}: `asg predict {out} IMAGE …` uses it; {out / 'report.html'} shows it.")


@app.command()
def adapt(
    model: Annotated[Path, typer.Argument(help="Folder that `asg train` wrote.")],
    source: Sources,
    target: Annotated[Path, typer.Option(help="Real images without labels, in any sub-folders.")],
    out: Annotated[Path, typer.Option(help="Folder for the adapted model.")] = Path("adapted"),
    settings: Annotated[list[str], typer.Option("--set", help="FIELD=VALUE of the adaptation.")] = [],  # noqa: B006
    device: Device = None,
    track: Track = None,
) -> None:
    """Adapt a model to your own unlabelled photos by self-training."""
    from asg import own

    result, classes = own.adapt(model, parse_sources(source), target, out, parse_settings(settings), device)
    labelled = result["final"]["labelled"]
    print(f"Adapted in {result['seconds']:.0f} s. Pseudo-labels of the last round:")
    print("\n".join(f"  {name:20} {count}" for name, count in zip(classes, labelled, strict=True)))
    print(f"The model is in {out}: `asg predict {out} IMAGE …` uses it.")


class Format(StrEnum):
    """How predictions are written."""

    CSV = "csv"
    JSON = "json"


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="Folder that `asg train` wrote.")],
    images: Annotated[list[Path], typer.Argument(help="Image files, folders (with all below them), patterns.")],
    top: Annotated[int, typer.Option(min=1, help="Classes an image, the most probable first.")] = 1,
    kind: Annotated[Format, typer.Option("--format", help="csv or json.")] = Format.CSV,
    output: Annotated[
        Path | None,
        typer.Option(help="File to write, the terminal if not given; of masks the folder, which is needed."),
    ] = None,
    device: Device = None,
) -> None:
    """Classes of images by the rule of the reported accuracy, with mean softmax probabilities; or masks of images.

    An image that cannot be read is a row with the reason; the exit code is then 1.
    """
    from tqdm import tqdm

    from asg import model_files, own, predict_masks, records
    from asg import predict as predicting
    from asg.recipes import is_dense

    config, classes = model_files.describe(model)
    paths = predicting.images_of(images)
    broken: list[Path] = []

    def noting(rows: Iterator["Row"]) -> Iterator["Row"]:
        for one in tqdm(rows, total=len(paths), unit="image", disable=None):
            if one.reason is not None:
                broken.append(one.image)
            yield one

    if is_dense(config):
        if output is None:
            raise AsgError("This model writes masks: give the folder for them, --output FOLDER.")
        own.refuse_inside(output, *(path for path in images if path.is_dir()))
        rows = noting(predict_masks.predict(model, paths, output, device))
        records.write_text(output / f"masks.{kind.value}", "".join(predict_masks.table(rows, kind.value, classes)))
        print(f"The masks are in {output / predict_masks.MASKS}, laid over the images in {output / 'overlays'}.")
    else:
        lines = predicting.prediction_table(noting(predicting.predict(model, paths, top, device)), kind.value, top)
        if output is None:
            sys.stdout.writelines(lines)
        else:
            records.write_text(output, "".join(lines))
    if broken:
        raise AsgError(f"{len(broken)} of {len(paths)} images were not read: why is said in their rows.")


class Kind(StrEnum):
    """What a model can be exported to."""

    ONNX = "onnx"
    TORCH = "torch"
    TIMM = "timm"


@app.command()
def export(
    model: Annotated[Path, typer.Argument(help="Folder that `asg train` wrote.")],
    kind: Annotated[
        Kind, typer.Option("--format", help="onnx, torch (torch.export), or timm (backbone and head apart).")
    ] = Kind.ONNX,
    out: Annotated[Path | None, typer.Option(help="File to write; in the model's folder if not given.")] = None,
) -> None:
    """Write a model for other programs, checked against it, and a file that says what goes in and what comes out."""
    from asg import export as exporting

    for path in exporting.export(model, kind.value, out):
        print(path)


def as_it_is(error: UnicodeEncodeError) -> tuple[bytes, int]:
    """Bytes for what a terminal's encoding does not have: the bytes of a file's name, or an escape."""
    letters = error.object[error.start : error.end]
    return b"".join(
        bytes([ord(letter) - 0xDC00]) if "\udc80" <= letter <= "\udcff" else letter.encode("ascii", "backslashreplace")
        for letter in letters
    ), error.end


def stop(*_: object) -> None:
    """End at once, with a sentence (typer would catch the KeyboardInterrupt and say nothing)."""
    sys.exit("\nStopped. The same command goes on from the last checkpoint." if launcher.is_main() else 1)


def terminate(*_: object) -> None:
    """End at once, where no training is to be saved first (:mod:`asg.interrupts`)."""
    if launcher.is_main():
        print("Stopped. The same command goes on where it was.", file=sys.stderr)
    sys.exit(interrupts.EXIT_CODE)


def main() -> None:
    """Run the command; what the user can mend is one sentence, and a stop can be resumed.

    Of several processes the main one prints. What ends another process alone is said by that one. A signal that
    comes after the command ends the process by itself: Python ignores the exit of a handler while it clears up.
    """
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, terminate)
    memory.keep_freed()
    codecs.register_error("as it is", as_it_is)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="as it is")
    if not launcher.is_main():
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")
    try:
        app(messages.with_level_first(sys.argv[1:]))
    except interrupts.Stopped as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(interrupts.EXIT_CODE)
    except AsgError as error:
        if not launcher.is_main():
            time.sleep(GRACE)
        sys.exit(f"error: {error}")
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


if __name__ == "__main__":
    main()
