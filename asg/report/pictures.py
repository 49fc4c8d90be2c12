"""Pictures of the report: target images by what they show of the model, scenes under their labels."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from asg import AsgError
from asg.data.images import UNLABELLED, ImageSet
from asg.data.masks import palette
from asg.data.segmentation import SegmentationSet
from asg.dense_models import DenseStudent, predict
from asg.trainers.segmentation import OVERLAP, WINDOW

WRONG, UNSURE, RIGHT = 12, 6, 6  # pictures
PICTURE = 160  # pixels of a picture's side, at most
SCENES = 6  # that are shown


@dataclass(frozen=True)
class Example:
    """A target image with its class, the model's answer, how sure it is, and its file.

    ``picture`` None: it is gone; ``truth`` None: it has no label.
    """

    picture: str | None
    truth: str | None
    answer: str
    confidence: float
    file: str

    @property
    def caption(self) -> str:
        """``truth → answer``, or the answer alone."""
        return self.answer if self.truth is None else f"{self.truth} → {self.answer}"


def examples(final: dict, target: ImageSet, root: str | None) -> dict[str, list[Example]]:
    """Images by what they show of the model: the surest wrong ones, the least sure, and right ones of many classes.

    An image is shown once. ``root``: the folder under which files are named.
    """
    labels, predicted, confidence = target.labels.tolist(), final["predicted"], final["confidence"]
    by_confidence = sorted(range(len(labels)), key=lambda i: confidence[i])
    wrong = [i for i in reversed(by_confidence) if predicted[i] != labels[i]][:WRONG]
    rest = [i for i in by_confidence if i not in wrong]
    unsure = rest[: min(UNSURE, len(rest) // 2)]
    seen: dict[int, int] = {}
    rank = {}
    for i in reversed(by_confidence):
        if predicted[i] == labels[i] and i not in unsure:
            rank[i] = seen[labels[i]] = seen.get(labels[i], 0) + 1
    right = sorted(rank, key=lambda i: rank[i])[:RIGHT]  # of each class the surest one first

    groups = {"Wrong, the surest first": wrong, "Least sure": unsure, "Right": right}
    return {title: [example(final, target, i, root) for i in chosen] for title, chosen in groups.items() if chosen}


def example(final: dict, target: ImageSet, i: int, root: str | None) -> Example:
    """One target image with what is said of it."""
    label, answer = int(target.labels[i]), target.classes[final["predicted"][i]]
    truth = None if label == UNLABELLED else target.classes[label]
    return Example(picture(target, i), truth, answer, final["confidence"][i], below(target.names[i], root))


def unlabelled_examples(final: dict, target: ImageSet, root: str | None) -> dict[str, list[Example]]:
    """The images that the model is least and most sure of; nobody knows which answers are right."""
    confidence = final["confidence"]
    order = sorted(range(len(confidence)), key=lambda i: confidence[i])
    unsure, sure = order[:WRONG], order[::-1][: min(RIGHT, max(0, len(order) - WRONG))]

    groups = {"Least sure": unsure, "Surest": sure}
    return {title: [example(final, target, i, root) for i in chosen] for title, chosen in groups.items() if chosen}


def below(name: str, root: str | None) -> str:
    """The name of a file under ``root``, if it lies there."""
    path = Path(name)
    return str(path.relative_to(root)) if root is not None and path.is_relative_to(root) else name


def picture(images: ImageSet, i: int) -> str | None:
    """An image as a small JPEG in a data URI; None if its file cannot be read any more."""
    try:
        image = Image.fromarray(images.decode(i))
    except AsgError:
        return None
    image.thumbnail((PICTURE, PICTURE))
    return encoded(image)


def encoded(image: Image.Image) -> str:
    """An image as a JPEG in a data URI."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=82)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


@dataclass(frozen=True)
class Scene:
    """A scene three times: as it is, its labels over it, and the answers over it; ``right``: share of its pixels."""

    picture: str
    truth: str | None  # None: no pixel is labelled, and so none is right
    answer: str
    right: float | None
    file: str


@torch.inference_mode()
def answered(network: DenseStudent, images: SegmentationSet) -> list[Scene]:
    """What a network answers on evenly spaced scenes of a set, SCENES at most."""
    colours, count, scenes = palette(len(images.classes)), min(SCENES, len(images)), []
    for i in ((2 * k + 1) * len(images) // (2 * count) for k in range(count)):  # the middles of equal parts
        pixels, labels = images.decode(i)
        logits = predict(network, torch.from_numpy(np.array(pixels)).permute(2, 0, 1), WINDOW, OVERLAP)
        answer, labelled = logits.argmax(0).cpu().numpy(), labels != UNLABELLED
        photo = Image.fromarray(pixels)
        truth, right = None, None
        if labelled.any():
            truth = encoded(laid_over(photo, labels, colours))
            right = float((answer == labels)[labelled].mean())
        answered_over = encoded(laid_over(photo, answer, colours))
        scenes.append(Scene(encoded(photo), truth, answered_over, right, images.names[i]))
    return scenes


def laid_over(photo: Image.Image, labels: np.ndarray, colours: np.ndarray) -> Image.Image:
    """A photo under the colours of its labels ``(H, W)``; UNLABELLED pixels show the photo alone."""
    blended = np.asarray(Image.blend(photo, Image.fromarray(colours[labels]), 0.6))
    return Image.fromarray(np.where((labels == UNLABELLED)[..., None], np.asarray(photo), blended))


def legend(images: ImageSet | SegmentationSet) -> list[tuple[str, str]]:
    """Each class with its colour in a scene, ``#rrggbb``."""
    return [
        (name, f"#{r:02x}{g:02x}{b:02x}")
        for name, (r, g, b) in zip(images.classes, palette(len(images.classes)).tolist(), strict=True)
    ]
