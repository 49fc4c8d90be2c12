"""Street scenes over the 19 classes of Cityscapes: GTA5 (rendered) → Cityscapes or CamVid (photographed).

Read in the layouts that their authors publish (``data_scripts/{gta5,cityscapes,camvid}.py`` make and verify them):

- GTA5: ``images/00001.png`` … ``24966.png`` and ``labels/`` with the same names, palette images of label ids;
- Cityscapes: ``leftImg8bit/SPLIT/CITY/NAME_leftImg8bit.png``, ``gtFine/SPLIT/CITY/NAME_gtFine_labelIds.png``;
  ``gtFine/train`` may be absent, since self-training adapts to these images without their labels;
- CamVid: ``701_StillsRaw_full/NAME.png`` and ``LabeledApproved_full/NAME_L.png``, whose colours are classes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import cache, partial
from pathlib import Path

import numpy as np
from scipy.io import loadmat

from asg import AsgError
from asg.data.images import UNLABELLED, fingerprint_of, read_image
from asg.data.segmentation import SegmentationSet, nearest

# The label id of each train class, by train id (Cordts et al. 2016; helpers/labels.py of cityscapesScripts).
IDS = {
    "road": 7, "sidewalk": 8, "building": 11, "wall": 12, "fence": 13, "pole": 17, "traffic light": 19,
    "traffic sign": 20, "vegetation": 21, "terrain": 22, "sky": 23, "person": 24, "rider": 25, "car": 26,
    "truck": 27, "bus": 28, "train": 31, "motorcycle": 32, "bicycle": 33,
}  # fmt: skip
CLASSES = tuple(IDS)
UNKNOWN = UNLABELLED - 1  # in a look-up table: no published id or colour
# The colours (0xRRGGBB) of CamVid's 32 classes by the train class that Cityscapes' annotators would have chosen.
CAMVID = {
    "road": (0x804080, 0x8000C0, 0xC00040),  # Road, LaneMkgsDriv, LaneMkgsNonDriv
    "sidewalk": (0x0000C0,), "building": (0x800000, 0xC00080), "wall": (0x40C000,), "fence": (0x404080,),  # + Archway
    "pole": (0xC0C080,), "traffic light": (0x004040,), "traffic sign": (0xC08080,), "sky": (0x808080,),
    "vegetation": (0x808000, 0xC0C000),  # Tree, VegetationMisc (bushes, and some grass)
    "person": (0x404000, 0xC08040), "rider": (0x0080C0,),  # Pedestrian, Child; Bicyclist, the bicycle included
    "car": (0x400080, 0x4080C0), "train": (0xC04080,), "motorcycle": (0xC000C0,),  # Car, SUVPickupTruck; …
    # Ignored, as not evaluated or no one class: Void, Animal, Bridge, CartLuggagePram, Misc_Text, OtherMoving,
    # ParkingBlock, RoadShoulder, TrafficCone, Truck_Bus, Tunnel
    None: (0x000000, 0x408040, 0x008040, 0x4000C0, 0x808040, 0x804040,
           0x40C080, 0x8080C0, 0x000040, 0xC080C0, 0x400040),
}  # fmt: skip
STRAY = "Seq05VD_f02610_L.png"  # as published it has 175 pixels of other colours
LIST, SPLIT = "gta5_train.txt", "split.mat"  # of GTA5: the reference's list, the authors' split
HELD_OUT = 100  # every hundredth pair is held out for validation on the synthetic side (departure 4)


@cache
def id_table(highest: int) -> np.ndarray:
    """Label id → train id, UNLABELLED (all other ids up to ``highest``, and −1) or UNKNOWN; ``(65536,)``."""
    table = np.full(1 << 16, UNKNOWN, np.int16)
    table[[*range(highest + 1), 255, 65535]] = UNLABELLED  # −1 in 8 and in 16 bits
    table[list(IDS.values())] = range(len(IDS))
    return table


@cache
def colour_table() -> np.ndarray:
    """CamVid's colour → train id, UNLABELLED or UNKNOWN; ``(2²⁴,)``."""
    table = np.full(1 << 24, UNKNOWN, np.int16)
    for name, colours in CAMVID.items():
        table[list(colours)] = UNLABELLED if name is None else CLASSES.index(name)
    return table


def read_ids(path: Path, highest: int) -> np.ndarray:
    """Train ids ``(H, W)`` of a map of label ids, 8 or 16 bits or with a palette; an unknown id is named."""
    ids = np.asarray(read_image(path))
    if ids.ndim != 2:
        raise AsgError(f"{path} is a colour image where a map of label ids is expected: take the published label map.")
    labels = id_table(highest).take(ids)
    if (unknown := labels == UNKNOWN).any():
        known = f"0 to {highest}, and 255 for −1"
        raise AsgError(f"{path} holds the unknown label id {ids[unknown][0]} (known: {known}): obtain it again.")
    return labels


def read_colours(path: Path) -> np.ndarray:
    """Train ids ``(H, W)`` of a CamVid label map; an unknown colour is named, but for those of STRAY, ignored."""
    colours = np.asarray(read_image(path).convert("RGB"))  # (H, W, 3)
    labels = colour_table().take(colours @ (1 << 16, 1 << 8, 1))  # (H, W)
    if (unknown := labels == UNKNOWN).any() and path.name != STRAY:
        colour = tuple(colours[unknown][0].tolist())
        raise AsgError(f"{path} holds the colour {colour}, which means no class of CamVid: obtain it again.")
    return np.where(unknown, np.int16(UNLABELLED), labels)


def find(
    root: Path, what: str, pattern: str, label_of: Callable[[Path], Path] | None
) -> list[tuple[Path, Path | None]]:
    """Every image of ``root`` that matches ``pattern``, sorted, with its label map, which must be there.

    ``label_of`` None: no label map is looked for.
    """
    remedy = f"run `python data_scripts/{what.lower()}.py --to {root}`, or give the folder that has it as published."
    pairs = [(image, label_of(image) if label_of else None) for image in sorted(root.glob(pattern))]
    if not pairs:
        raise AsgError(f"{what} is not at {root} (no {pattern} in it): {remedy}")
    if lost := [pair for pair in pairs if pair[1] is not None and not pair[1].is_file()]:
        raise AsgError(f"{lost[0][0]} ({len(lost)} of {len(pairs)} images) lacks its label map {lost[0][1]}: {remedy}")
    return pairs


def pair_set(
    root: Path, pairs: list[tuple[Path, Path | None]], read: Callable[[Path], np.ndarray], resized: bool = False
) -> SegmentationSet:
    """Pairs of files as a :class:`SegmentationSet`; its fingerprint covers names and sizes in bytes.

    A label map of another size than its image is an error or, if ``resized``, brought to its size (nearest). An
    image without a label map (None) is UNLABELLED throughout.
    """

    names = tuple(image.relative_to(root).as_posix() for image, _ in pairs)
    sizes = [tuple(path.stat().st_size for path in pair if path is not None) for pair in pairs]
    return SegmentationSet(partial(decode_pair, pairs, read, resized), CLASSES, names, fingerprint_of(names, sizes))


def decode_pair(
    pairs: list[tuple[Path, Path | None]], read: Callable[[Path], np.ndarray], resized: bool, i: int
) -> tuple[np.ndarray, np.ndarray]:
    """An image ``(H, W, 3)`` and its labels ``(H, W)``."""
    image = read_image(pairs[i][0]).convert("RGB")
    if pairs[i][1] is None:
        return np.asarray(image), np.full(image.size[::-1], UNLABELLED, np.int16)
    labels = read(pairs[i][1])
    if (size := labels.shape[::-1]) != image.size:
        if not resized:
            raise AsgError(f"{pairs[i][1]} has {size} pixels and its image {image.size}: obtain both again.")
        labels = nearest(labels, image.size)
    return np.asarray(image), labels


def official_split(path: Path) -> dict[str, set[int]]:
    """Numbers of the images of each part (train, val, test) of the GTA5 authors' ``split.mat``."""
    try:
        split = loadmat(path)
        return {part: set(split[f"{part}Ids"].ravel().tolist()) for part in ("train", "val", "test")}
    except Exception as error:  # scipy raises many kinds for a broken file
        remedy = f"run `python data_scripts/gta5.py --split --to {path.parent}`."
        raise AsgError(f"{path} cannot be read as GTA5's split ({error}): {remedy}") from None


def read_list(path: Path, available: Collection[str]) -> set[str]:
    """File names of the images that a list names, one a line: ``00001.png``, or any path that ends in it.

    Raises :class:`AsgError` for a list that is missing or empty, and with the number of a line that names an image
    which is not ``available`` or one that an earlier line names.
    """
    if not path.is_file():
        raise AsgError(
            f"The list {path} of GTA5 images is missing: obtain the reference's {LIST}, not ours to pass on, and "
            "run `python data_scripts/gta5.py --list FILE`, or set source_list to another list, to "
            f"{SPLIT} (the authors' split) or to null (all images)."
        )
    named: dict[str, int] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if not line.strip():
            continue
        name = line.strip().rpartition("/")[2]
        if name not in available:
            raise AsgError(
                f"{path}, line {number}: there is no GTA5 image {name!r}: mend the line or obtain the images."
            )
        if name in named:
            raise AsgError(f"{path}, line {number}: line {named[name]} names {name} too: remove one of them.")
        named[name] = number
    if not named:
        raise AsgError(f"The list {path} names no image: write one file name a line, as 00001.png.")
    return set(named)


def gta5(root: Path, listed: str | None = None) -> tuple[SegmentationSet, SegmentationSet]:
    """GTA5 for training, and pairs that are not trained on, for validation (departure 4).

    ``listed``, a file below ``root`` or an absolute path, says which images train:

    - a list (:func:`read_list`): those it names, in the order of their numbers; every hundredth of the others
      validates. The paper trains on the 12,403 images of the reference's ``gta5_train.txt``;
    - a ``.mat`` file: the training part of the authors' split; every hundredth of its validation part validates. That
      training part has 12,403 images too, and with the validation part 18,785. Whether it *is* the reference's list is
      not known to us: the numbers agree, the names were not compared;
    - None: all, but every hundredth, which validates.

    Some published label maps have another size than their image. They are resized to it: both show the whole
    of one rendered view, so that they differ in scale only, and published results are of all images.
    """
    pairs = find(root, "GTA5", f"images/{'[0-9]' * 5}.png", lambda image: root / "labels" / image.name)
    if listed is None:
        train, held = [pair for i, pair in enumerate(pairs) if i % HELD_OUT], pairs
    elif (path := root / listed).suffix == ".mat":
        split = official_split(path)
        train, held = ([p for p in pairs if int(p[0].stem) in split[part]] for part in ("train", "val"))
    else:
        chosen = read_list(path, {image.name for image, _ in pairs})
        train, held = ([p for p in pairs if (p[0].name in chosen) == inside] for inside in (True, False))
        if not held:
            raise AsgError(f"The list {path} names every image of {root}, and none is left to validate on: shorten it.")
    read = partial(read_ids, highest=34)  # the licence plate, −1 in Cityscapes
    return pair_set(root, train, read, resized=True), pair_set(root, held[::HELD_OUT], read, resized=True)


def cityscapes(root: Path, split: str = "val", labelled: bool = True) -> SegmentationSet:
    """Cityscapes with its fine labels; results are published on ``val`` (500 images), ``train`` has 2,975.

    Without ``labelled`` no label map is read or needs to be there, and every pixel is UNLABELLED.
    """

    def label_of(image: Path) -> Path:
        return root / "gtFine" / split / image.parent.name / image.name.replace("leftImg8bit", "gtFine_labelIds")

    pattern = f"leftImg8bit/{split}/*/[!.]*_leftImg8bit.png"
    pairs = find(root, "Cityscapes", pattern, label_of if labelled else None)
    return pair_set(root, pairs, partial(read_ids, highest=33))


def camvid(root: Path) -> SegmentationSet:
    """CamVid's 701 photographs of Cambridge; a real target that needs no account."""
    labels = root / "LabeledApproved_full"
    pairs = find(root, "CamVid", "701_StillsRaw_full/[!.]*.png", lambda image: labels / f"{image.stem}_L.png")
    return pair_set(root, pairs, read_colours)
