"""The `asg` command for people's own folders; the book's commands are added in :mod:`asg_book.cli`."""

import codecs
import csv
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from asg import AsgError, own, processes

GRACE = 30.0  # seconds in which the launcher ends a process whose main process has failed, mostly of the same error

app = typer.Typer(
    help="Automated Synthetic-to-Real Generalization: your own data, experiments, and the book.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

TOGETHER = ("run", "train", "adapt")  # commands whose work several processes can share

Settings = Annotated[list[str], typer.Option("--set", help="FIELD=VALUE, a RunConfig field; the value is JSON.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:N or mps; the best there is if not given.")]


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


@app.callback()
def refuse_several_processes(context: typer.Context) -> None:
    """Refuse a command that is the work of one process where a launcher has started several."""
    if processes.launched() > 1 and context.invoked_subcommand not in TOGETHER:
        raise AsgError(f"`asg {context.invoked_subcommand}` is the work of one process: start it without a launcher.")


@app.command()
def train(
    source: Annotated[Path, typer.Option(help="Synthetic images, one sub-folder a class.")],
    target: Annotated[Path | None, typer.Option(help="Real images, one sub-folder a class; only reported on.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the model and its report.")] = Path("model"),
    recipe: Annotated[
        str | None, typer.Option(help=f"One of {', '.join(own.RECIPES)}; the first if not given.")
    ] = None,
    settings: Settings = [],  # noqa: B006
    device: Device = None,
) -> None:
    """Train on your own renders, with proxy guidance or by another recipe, and report on your own photos."""
    own.model_of(source, target, out, parse_settings(settings), device, recipe, print)
    report = (out / "report.md").read_text("utf-8", "surrogateescape")
    print(f"\n{report}\nThe model is in {out}: `asg predict {out} IMAGE …` uses it.")


@app.command()
def adapt(
    model: Annotated[Path, typer.Argument(help="Folder that `asg train` wrote.")],
    source: Annotated[Path, typer.Option(help="Synthetic images, one sub-folder a class, as for `asg train`.")],
    target: Annotated[Path, typer.Option(help="Real images without labels, in any sub-folders.")],
    out: Annotated[Path, typer.Option(help="Folder for the adapted model.")] = Path("adapted"),
    settings: Annotated[list[str], typer.Option("--set", help="FIELD=VALUE of the adaptation.")] = [],  # noqa: B006
    device: Device = None,
) -> None:
    """Adapt a model to your own unlabelled photos by self-training."""
    result, classes = own.adapt(model, source, target, out, parse_settings(settings), device, print)
    labelled = result["final"]["labelled"]
    print(f"Adapted in {result['seconds']:.0f} s. Pseudo-labels of the last round:")
    print("\n".join(f"  {name:20} {count}" for name, count in zip(classes, labelled, strict=True)))
    print(f"The model is in {out}: `asg predict {out} IMAGE …` uses it.")


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="Folder that `asg train` wrote.")],
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
) -> None:
    """Class of each image by the rule of the reported accuracy, and its mean softmax probability, as CSV."""
    writer = csv.writer(sys.stdout)
    writer.writerow(["image", "class", "probability"])
    for path, name, probability in own.predict(model, images):
        writer.writerow([path, name, f"{probability:.4f}"])


def as_it_is(error: UnicodeEncodeError) -> tuple[bytes, int]:
    """Bytes for what a terminal's encoding does not have: the bytes of a file's name, or an escape."""
    letters = error.object[error.start : error.end]
    return b"".join(
        bytes([ord(letter) - 0xDC00]) if "\udc80" <= letter <= "\udcff" else letter.encode("ascii", "backslashreplace")
        for letter in letters
    ), error.end


def stop(*_: object) -> None:
    """End at once, with a sentence (typer would catch the KeyboardInterrupt and say nothing)."""
    sys.exit("\nStopped. The same command goes on from the last checkpoint." if processes.is_main() else 1)


def main() -> None:
    """Run the command; what the user can mend is one sentence, and a stop can be resumed.

    Of several processes the main one prints. What ends another process alone is said by that one.
    """
    signal.signal(signal.SIGINT, stop)
    codecs.register_error("as it is", as_it_is)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="as it is")
    if not processes.is_main():
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")
    try:
        app(standalone_mode=True)
    except AsgError as error:
        if not processes.is_main():
            time.sleep(GRACE)
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
