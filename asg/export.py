"""A model for other programs: ONNX, torch.export, or the parts of a timm network."""

from __future__ import annotations

import json
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

from asg import AsgError, records
from asg.config import RunConfig
from asg.data import mirrored
from asg.data.images import make_folder
from asg.dense_models import DenseStudent
from asg.metrics import of_both
from asg.model_files import load_model
from asg.models import Student
from asg.recipes import is_dense
from asg.tensors import write_tensors

TOLERANCE = 1e-4  # of the probabilities, between the model and what was exported
ENDINGS = {"onnx": ".onnx", "torch": ".pt2", "timm": ".safetensors"}
EXPORTS = 'Exporting to ONNX needs packages that are not installed: pip install "asg-book[export]"'


class Answers(nn.Module):
    """``uint8 (N, 3, S, S)`` → scores and probabilities ``(N, C)``, as ``asg predict`` answers.

    Those of a segmentation model are ``(N, C, S, S)``.

    The answer is the class of the greatest score, the mean sigmoid; its probability the mean softmax. The mean is over
    an image and its mirror image where the model answers so, and the pixels are normalised inside.
    """

    def __init__(self, student: Student | DenseStudent, mirror: bool) -> None:
        super().__init__()
        self.student, self.mirror = student, mirror

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and probabilities, both in [0, 1]."""
        logits = self.student(images)[0]
        return of_both(logits, self.student(images.flip(3))[0] if self.mirror else logits)


def export(model: Path, kind: str, out: Path | None = None) -> list[Path]:
    """Write the model of a folder for other programs, checked against it; the files that were written.

    ``kind``: one of :data:`ENDINGS`. ``out``: the file (None: in the model's folder). Beside it lies a file of its name
    and ``.json`` that says what goes in and what comes out. Raises :class:`AsgError` for what cannot be exported so or
    written there, and where what was written answers differently.
    """
    student, config, classes = load_model(model)
    student = student.requires_grad_(False).to(memory_format=torch.contiguous_format)
    answers = Answers(student, mirrored(config) is not False)
    path = out or model / f"exported{ENDINGS[kind]}"
    if path.suffix != ENDINGS[kind]:  # by which those who read it know what it is
        raise AsgError(f"{path} does not end in {ENDINGS[kind]}: give another --out, or another format.")
    if path.resolve() == (model / "model.safetensors").resolve():
        raise AsgError(f"{path} is a file of the model itself: give another --out.")
    make_folder(path.parent)
    write = {"onnx": write_onnx, "torch": write_torch, "timm": write_timm}[kind]
    try:
        return write(answers, path, described(answers, config, classes), config)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise AsgError(f"{path} cannot be written ({error.strerror}): free some space or give another --out.") from None


def described(answers: Answers, config: RunConfig, classes: tuple[str, ...]) -> dict:
    """What a program that uses the model must know."""
    student, dense = answers.student, is_dense(config)
    shape = f"(N, C, {config.size}, {config.size})" if dense else "(N, C)"
    cut = "resized (Pillow, bilinear)" if dense else "shorter side resized (Pillow, bilinear), centre cut out"
    return {
        "classes": list(classes),
        "input": f"uint8 (N, 3, {config.size}, {config.size}), RGB, 0 to 255; not normalised",
        "preprocessing": f"upright, on white where transparent, {cut}",
        "size": config.size,
        "mean": (student.mean.flatten() / 255).tolist(),
        "std": (student.std.flatten() / 255).tolist(),
        "output": f"scores {shape}, whose greatest is the answer, and probabilities {shape}",
        "mirror": answers.mirror,
        "backbone": config.backbone,
    }


def probe(size: int) -> Tensor:
    """Images to check with: noise that is the same every time, ``(3, 3, size, size)``."""
    noise = torch.randint(0, 256, (3, 3, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return nn.functional.interpolate(noise.float(), size=(size, size), mode="bicubic").clamp(0, 255).to(torch.uint8)


def check(path: Path, expected: tuple[Tensor, ...], given: tuple[Tensor, ...]) -> None:
    """Raise :class:`AsgError` where what was written answers differently."""
    worst = max(float((a - b).abs().max()) for a, b in zip(expected, given, strict=True))
    if not worst <= TOLERANCE:
        path.unlink(missing_ok=True)
        raise AsgError(f"{path.name} would answer up to {worst:.2g} otherwise than the model: choose another format.")


@torch.inference_mode()
def write_torch(answers: Answers, path: Path, about: dict, config: RunConfig) -> list[Path]:
    """``torch.export``: runs where torch is installed, without this package; what is known is inside, too."""
    exported = exported_program(answers, config.size)
    torch.export.save(exported, path, extra_files={"asg.json": json.dumps(about)})
    images = probe(config.size)
    check(path, answers(images), torch.export.load(path).module()(images))
    about["use"] = f"torch.export.load({path.name!r}).module()(images)"
    return [path, write_about(path, about)]


def exported_program(answers: Answers, size: int) -> torch.export.ExportedProgram:
    """The network as torch.export sees it, for any number of images."""
    batch = torch.export.Dim("images", min=1, max=4096)
    return torch.export.export(answers, (probe(size),), dynamic_shapes=({0: batch},))


@torch.inference_mode()
def write_onnx(answers: Answers, path: Path, about: dict, config: RunConfig) -> list[Path]:
    """ONNX, for any runtime; what is known is in the file's metadata, too."""
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401 (torch.onnx needs it)
    except ImportError:
        raise AsgError(EXPORTS) from None
    names = {"input_names": ["images"], "output_names": ["scores", "probabilities"]}
    program = exported_program(answers, config.size)
    torch.onnx.export(program, (), path, dynamo=True, external_data=False, verbose=False, **names)
    made = onnx.load(path)
    onnx.helper.set_model_props(made, {"asg": json.dumps(about)})
    onnx.save(made, path)
    images = probe(config.size)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    check(path, answers(images), tuple(map(torch.from_numpy, session.run(None, {"images": images.numpy()}))))
    about["use"] = f'onnxruntime.InferenceSession({path.name!r}).run(None, {{"images": images}})'
    return [path, write_about(path, about)]


@torch.inference_mode()
def write_timm(answers: Answers, path: Path, about: dict, config: RunConfig) -> list[Path]:
    """The backbone as a timm checkpoint of features, and beside it the head, Linear → ReLU → Linear."""
    library, _, name = config.backbone.partition(":")
    if library != "timm" or is_dense(config):
        what = "A segmentation model" if is_dense(config) else config.backbone
        raise AsgError(f"{what} is no network of timm: choose onnx or torch.")
    student, head = answers.student, path.with_name(f"{path.stem}-head{path.suffix}")
    write_tensors(path, student.backbone.state_dict())
    write_tensors(head, student.task_head.state_dict())
    images = (probe(config.size).float() - student.mean) / student.std
    network = timm.create_model(name, num_classes=0, checkpoint_path=str(path)).eval()
    check(path, (student.task_head(student.backbone(images)),), (student.task_head(network(images)),))
    about |= {
        "input": f"float (N, 3, {config.size}, {config.size}), RGB, (pixels / 255 − mean) / std",
        "output": "features (N, D) of the network; task logits (N, C) of the head on them",
        "use": f"timm.create_model({name!r}, num_classes=0, checkpoint_path={path.name!r})",
        "head": head.name,
    }
    return [path, head, write_about(path, about)]


def write_about(path: Path, about: dict) -> Path:
    """Write what is known of an export beside it."""
    records.write_text(beside := path.with_name(f"{path.name}.json"), json.dumps(about, indent=1, ensure_ascii=False))
    return beside
