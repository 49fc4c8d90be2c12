"""Readers of GTA5, Cityscapes and CamVid, on small trees in the layouts that their authors publish."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from scipy.io import savemat

from asg import AsgError
from asg.config import RunConfig, make_config
from asg.data import read_domains, street, unlabelled, with_truth
from asg.data.images import UNLABELLED
from asg.run import run
from asg.trainers import self_training
from asg_book.catalogue import get
from asg_book.golden import centred
from asg_book.profiles import PROFILES

# Published: name, label id, train id (helpers/labels.py of cityscapesScripts; 255 and −1 are not evaluated).
PUBLISHED = """
unlabeled 0 255|ego vehicle 1 255|rectification border 2 255|out of roi 3 255|static 4 255|dynamic 5 255
ground 6 255|road 7 0|sidewalk 8 1|parking 9 255|rail track 10 255|building 11 2|wall 12 3|fence 13 4
guard rail 14 255|bridge 15 255|tunnel 16 255|pole 17 5|polegroup 18 255|traffic light 19 6|traffic sign 20 7
vegetation 21 8|terrain 22 9|sky 23 10|person 24 11|rider 25 12|car 26 13|truck 27 14|bus 28 15|caravan 29 255
trailer 30 255|train 31 16|motorcycle 32 17|bicycle 33 18|license plate -1 -1"""
TABLE = [row.rsplit(" ", 2) for line in PUBLISHED.split("\n")[1:] for row in line.split("|")]
# Published: CamVid's label_colors.txt; beside it what this project reads the class as.
COLOURS = """
64 128 64 Animal|192 0 128 Archway building|0 128 192 Bicyclist rider|0 128 64 Bridge|128 0 0 Building building
64 0 128 Car car|64 0 192 CartLuggagePram|192 128 64 Child person|192 192 128 Column_Pole pole|64 64 128 Fence fence
128 0 192 LaneMkgsDriv road|192 0 64 LaneMkgsNonDriv road|128 128 64 Misc_Text
192 0 192 MotorcycleScooter motorcycle|128 64 64 OtherMoving|64 192 128 ParkingBlock|64 64 0 Pedestrian person
128 64 128 Road road|128 128 192 RoadShoulder|0 0 192 Sidewalk sidewalk|192 128 128 SignSymbol traffic sign
128 128 128 Sky sky|64 128 192 SUVPickupTruck car|0 0 64 TrafficCone|0 64 64 TrafficLight traffic light
192 64 128 Train train|128 128 0 Tree vegetation|192 128 192 Truck_Bus|64 0 64 Tunnel
192 192 0 VegetationMisc vegetation|0 0 0 Void|64 192 0 Wall wall"""
CAMVID = [row.split(" ", 4) for line in COLOURS.split("\n")[1:] for row in line.split("|")]
HEIGHT, WIDTH = 6, 40
CITYSCAPES_NAME = "{city}/{city}_{number:06}_000019"


def save(path: Path, pixels: np.ndarray, mode: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    if mode == "P":
        image = Image.frombytes("P", image.size, image.tobytes())
        image.putpalette([(37 * i + 11 * c) % 256 for i in range(256) for c in range(3)])
    image.save(path)


def pixels_of(index: int) -> np.ndarray:
    return np.random.default_rng(index).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def ids_of(index: int, highest: int) -> np.ndarray:
    """Every id up to ``highest``, shifted by the index, and the 255 that −1 is stored as."""
    ids = np.resize([*range(highest + 1), 255], HEIGHT * WIDTH)
    return np.roll(ids, index).reshape(HEIGHT, WIDTH).astype(np.uint8)


def make_gta5(root: Path, count: int = 3) -> Path:
    for i in range(1, count + 1):
        save(root / f"images/{i:05}.png", pixels_of(i))
        save(root / f"labels/{i:05}.png", ids_of(i, 34), "P")
    return root


def make_cityscapes(root: Path) -> Path:
    for split, cities in {"train": ("aachen", "zurich"), "val": ("frankfurt", "lindau", "munster")}.items():
        for i, city in enumerate(cities):
            name = CITYSCAPES_NAME.format(city=city, number=i)
            save(root / f"leftImg8bit/{split}/{name}_leftImg8bit.png", pixels_of(i))
            save(root / f"gtFine/{split}/{name}_gtFine_labelIds.png", ids_of(i, 33))
            for other in ("color", "instanceIds"):
                save(root / f"gtFine/{split}/{name}_gtFine_{other}.png", pixels_of(i))
    return root


def make_camvid(root: Path) -> Path:
    colours = np.array([[int(c) for c in row[:3]] for row in CAMVID], np.uint8)
    for i, name in enumerate(("0001TP_006690", "0016E5_07959", "Seq05VD_f02610")):
        save(root / f"701_StillsRaw_full/{name}.png", pixels_of(i))
        which = np.roll(np.resize(np.arange(32), HEIGHT * WIDTH), i).reshape(HEIGHT, WIDTH)
        save(root / f"LabeledApproved_full/{name}_L.png", colours[which])
    return root


@pytest.fixture
def gta5(tmp_path) -> Path:
    return make_gta5(tmp_path / "gta5")


@pytest.fixture
def cityscapes(tmp_path) -> Path:
    return make_cityscapes(tmp_path / "cityscapes")


@pytest.fixture
def camvid(tmp_path) -> Path:
    return make_camvid(tmp_path / "camvid")


# --- tables -------------------------------------------------------------------------------------------------------


def test_train_ids_are_the_published_ones():
    assert len(TABLE) == 35
    evaluated = [(name, int(train)) for name, _, train in TABLE if int(train) not in (255, -1)]
    assert [(name, i) for i, name in enumerate(street.CLASSES)] == evaluated
    table = street.id_table(33)
    for name, label_id, train in TABLE:
        if name != "license plate":
            assert table[int(label_id)] == (UNLABELLED if train == "255" else int(train)), name
    assert table[255] == table[65535] == UNLABELLED
    assert (table[34:255] == street.UNKNOWN).all() and (table[256:65535] == street.UNKNOWN).all()
    assert street.id_table(34)[34] == UNLABELLED and street.id_table(34)[35] == street.UNKNOWN


def test_every_colour_of_camvid_is_read_as_the_class_that_the_table_says():
    table = street.colour_table()
    assert len(CAMVID) == 32 == (table != street.UNKNOWN).sum()
    for r, g, b, meaning in ([*row[:3], row[4] if len(row) > 4 else ""] for row in CAMVID):
        got = table[65536 * int(r) + 256 * int(g) + int(b)]
        assert got == (street.CLASSES.index(meaning) if meaning else UNLABELLED), (r, g, b)


# --- what is read -------------------------------------------------------------------------------------------------


def expected_ids(ids: np.ndarray) -> np.ndarray:
    meaning = {int(label_id): int(train) for _, label_id, train in TABLE if int(train) not in (255, -1)}
    return np.vectorize(lambda i: meaning.get(int(i), -1))(ids)


def test_gta5_is_read(gta5):
    train, held = street.gta5(gta5)
    assert (train.names, held.names) == (("images/00002.png", "images/00003.png"), ("images/00001.png",))
    for i, number in enumerate((2, 3)):
        image, labels = train.decode(i)
        assert np.array_equal(image, pixels_of(number)) and labels.dtype == np.int16
        assert np.array_equal(labels, expected_ids(ids_of(number, 34)))
    index, image, labels = held[0]
    assert (index, image.shape, labels.shape) == (0, (3, HEIGHT, WIDTH), (HEIGHT, WIDTH))
    assert labels.dtype == torch.int64 and len(train.classes) == 19


def test_every_hundredth_pair_of_gta5_is_held_out(tmp_path):
    for i in range(1, 203):
        for kind in ("images", "labels"):
            save(tmp_path / kind / f"{i:05}.png", np.full((2, 3), 7, np.uint8))
    train, held = street.gta5(tmp_path)
    assert held.names == tuple(f"images/{i:05}.png" for i in (1, 101, 201))
    assert len(train) == 199 and not set(train.names) & set(held.names)


@pytest.mark.parametrize("split", ["train", "val"])
def test_cityscapes_is_read(cityscapes, split):
    pairs = street.cityscapes(cityscapes, split)
    cities = {"train": ("aachen", "zurich"), "val": ("frankfurt", "lindau", "munster")}[split]
    names = [CITYSCAPES_NAME.format(city=city, number=i) for i, city in enumerate(cities)]
    assert pairs.names == tuple(f"leftImg8bit/{split}/{name}_leftImg8bit.png" for name in names)
    for i in range(len(names)):
        image, labels = pairs.decode(i)
        assert np.array_equal(image, pixels_of(i)) and np.array_equal(labels, expected_ids(ids_of(i, 33)))


def test_results_are_of_the_validation_split_of_cityscapes(cityscapes):
    assert street.cityscapes(cityscapes).names == street.cityscapes(cityscapes, "val").names


def test_camvid_is_read(camvid):
    pairs = street.camvid(camvid)
    assert pairs.names[1] == "701_StillsRaw_full/0016E5_07959.png" and len(pairs) == 3
    meanings = [row[4] if len(row) > 4 else None for row in CAMVID]
    for i in range(3):
        image, labels = pairs.decode(i)
        which = np.roll(np.resize(np.arange(32), HEIGHT * WIDTH), i).reshape(HEIGHT, WIDTH)
        expected = [[-1 if meanings[w] is None else street.CLASSES.index(meanings[w]) for w in row] for row in which]
        assert np.array_equal(image, pixels_of(i)) and np.array_equal(labels, expected) and labels.dtype == np.int16


@pytest.mark.parametrize("kind", ["8 bits", "16 bits", "palette"])
def test_label_maps_may_have_8_or_16_bits_or_a_palette(cityscapes, kind):
    path = next(cityscapes.glob("gtFine/val/frankfurt/*_labelIds.png"))
    ids = ids_of(7, 33)
    save(path, ids.astype(np.uint16) if kind == "16 bits" else ids, "P" if kind == "palette" else None)
    with Image.open(path) as image:
        assert image.mode == {"8 bits": "L", "16 bits": "I;16", "palette": "P"}[kind]
    assert np.array_equal(street.cityscapes(cityscapes).decode(0)[1], expected_ids(ids))


def test_minus_one_in_16_bits_is_ignored(cityscapes):
    ids = np.full((HEIGHT, WIDTH), 7, np.uint16)
    ids[0, 0] = np.uint16(65535)
    save(next(cityscapes.glob("gtFine/val/frankfurt/*_labelIds.png")), ids)
    labels = street.cityscapes(cityscapes).decode(0)[1]
    assert labels[0, 0] == UNLABELLED and (labels.ravel()[1:] == 0).all()


def test_images_of_other_modes_become_colours(cityscapes):
    path = next(cityscapes.glob("leftImg8bit/val/frankfurt/*.png"))
    save(path, np.dstack([pixels_of(0), np.full((HEIGHT, WIDTH), 255, np.uint8)]))
    assert np.array_equal(street.cityscapes(cityscapes).decode(0)[0], pixels_of(0))


def test_a_label_map_of_gta5_of_another_size_is_brought_to_its_images(gta5):
    ids = np.random.default_rng(5).integers(7, 14, (3 * HEIGHT, 3 * WIDTH), dtype=np.uint8)
    save(gta5 / "labels/00002.png", ids, "P")
    image, labels = street.gta5(gta5)[0].decode(0)
    assert image.shape == (HEIGHT, WIDTH, 3)
    assert np.array_equal(labels, expected_ids(ids)[1::3, 1::3]), "the middle of three pixels is the nearest"


def test_hidden_files_and_others_are_passed_over(gta5, cityscapes, camvid):
    sizes = [len(s) for s in (*street.gta5(gta5), street.cityscapes(cityscapes), street.camvid(camvid))]
    (gta5 / "images/._00001.png").touch(), (gta5 / "images/notes.png").touch()
    (cityscapes / "leftImg8bit/val/lindau/._lindau_000000_000019_leftImg8bit.png").touch()
    (camvid / "701_StillsRaw_full/._0001TP_006690.png").touch()
    assert [len(s) for s in (*street.gta5(gta5), street.cityscapes(cityscapes), street.camvid(camvid))] == sizes


def test_the_fingerprint_follows_the_files_and_not_their_place(gta5, tmp_path):
    first = street.gta5(gta5)[0].fingerprint
    moved = shutil.copytree(gta5, tmp_path / "elsewhere")
    assert street.gta5(moved)[0].fingerprint == first
    save(moved / "labels/00003.png", np.zeros((HEIGHT, WIDTH), np.uint8), "P")
    changed = street.gta5(moved)[0].fingerprint
    make_gta5(moved, 4)
    assert len({first, changed, street.gta5(moved)[0].fingerprint}) == 3


# --- the authors' split of GTA5 -----------------------------------------------------------------------------------


def test_the_authors_split(tmp_path):
    for i in range(1, 111):
        for kind in ("images", "labels"):
            save(tmp_path / kind / f"{i:05}.png", np.full((2, 3), 7, np.uint8))
    parts = {"trainIds": [[2], [108], [5]], "valIds": [[i] for i in range(6, 107)], "testIds": [[1]]}
    savemat(tmp_path / "split.mat", {name: np.array(ids, np.uint16) for name, ids in parts.items()})
    train, held = street.gta5(tmp_path, "split.mat")
    assert train.names == ("images/00002.png", "images/00005.png", "images/00108.png")
    assert held.names == ("images/00006.png", "images/00106.png"), "every hundredth of the validation part"


@pytest.mark.parametrize(
    "content", [None, b"no matlab file", {"trainIds": [1]}], ids=["missing", "broken", "incomplete"]
)
def test_a_faulty_split_file(gta5, content):
    if isinstance(content, bytes):
        (gta5 / "split.mat").write_bytes(content)
    elif content:
        savemat(gta5 / "split.mat", content)
    with pytest.raises(
        AsgError, match=rf"split\.mat cannot be read as GTA5's split \(.+\): run `.*gta5\.py --split --to {gta5}`"
    ):
        street.gta5(gta5, "split.mat")


# --- a list of GTA5's images ---------------------------------------------------------------------------------------


@pytest.fixture
def many(tmp_path) -> Path:
    for i in range(1, 206):
        for kind in ("images", "labels"):
            save(tmp_path / "gta5" / kind / f"{i:05}.png", np.full((2, 3), 7, np.uint8))
    return tmp_path / "gta5"


@pytest.mark.parametrize("form", ["{}.png", "images/{}.png", "/data/gta5/images/{}.png"])
def test_a_list_says_which_images_train_and_every_hundredth_of_the_others_validates(many, form: str):
    listed = [90, 2, 150]
    (many / "mine.txt").write_text("".join(form.format(f"{i:05}") + "\n" for i in listed) + "\n")
    train, held = street.gta5(many, "mine.txt")
    assert train.names == ("images/00002.png", "images/00090.png", "images/00150.png")
    others = [i for i in range(1, 206) if i not in listed]
    assert held.names == tuple(f"images/{i:05}.png" for i in (others[0], others[100], others[200]))
    assert not set(train.names) & set(held.names)
    elsewhere = many.parent / "elsewhere.lst"
    elsewhere.write_text("\n".join(f"{i:05}.png" for i in sorted(listed)))
    assert street.gta5(many, str(elsewhere))[0].fingerprint == train.fingerprint, "the same images, by whatever list"
    (many / "mine.txt").write_text("00002.png\n00091.png\n00150.png\n")
    assert street.gta5(many, "mine.txt")[0].fingerprint != train.fingerprint


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            None,
            r"The list {path} of GTA5 images is missing: obtain the reference's gta5_train\.txt, .*gta5\.py --list FILE",
        ),
        ("\n \n", "The list {path} names no image: write one file name a line"),
        ("00002.png\n\n00206.png\n", "{path}, line 3: there is no GTA5 image '00206.png': mend the line or obtain"),
        ("images/\n", "{path}, line 1: there is no GTA5 image ''"),
        ("00002.png 7\n", "{path}, line 1: there is no GTA5 image '00002.png 7'"),
        ("00003.png\n00002.png\nimages/00003.png\n", "{path}, line 3: line 1 names 00003.png too: remove one of them"),
        ("".join(f"{i:05}.png\n" for i in range(1, 206)), "The list {path} names every image of .*: shorten it"),
        ("\x00\x89PNG", "{path}, line 1: there is no GTA5 image"),
    ],
    ids=["missing", "empty", "an image that is not there", "a folder", "two columns", "twice", "all", "no text"],
)
def test_a_faulty_list_is_a_sentence(many, text: str | None, fault: str):
    path = many / "mine.txt"
    if text is not None:
        path.write_text(text)
    with pytest.raises(AsgError, match=fault.format(path=path)):
        street.gta5(many, "mine.txt")


def gta5_config(gta5: Path, cityscapes: Path, **overrides: object) -> RunConfig:
    folders = {"data": "gta5", "source": str(gta5), "target": str(cityscapes)}
    return make_config(PROFILES["toy"], folders, {"batch": 2, "crop": 32, **overrides})


def test_a_configuration_names_the_list(gta5, cityscapes):
    (gta5 / "two.txt").write_text("00001.png\n00003.png\n")
    domains = read_domains(gta5_config(gta5, cityscapes, source_list="two.txt"))
    assert domains.source.names == ("images/00001.png", "images/00003.png")
    assert domains.validation.names == ("images/00002.png",)
    with pytest.raises(AsgError, match="source_list is a list of GTA5 images, of data = gta5 only"):
        make_config(PROFILES["toy"], {"source_list": "two.txt"})


# --- what self-training adapts to ----------------------------------------------------------------------------------

ADAPTING = {"adapt": {"rounds": 1, "length": 0.25, "portion": 1.0}}


def test_self_training_adapts_to_the_training_photographs_and_reports_on_the_validation_ones(gta5, cityscapes):
    config = gta5_config(gta5, cityscapes, **ADAPTING)
    reported, adapted, known = read_domains(config).target, unlabelled(config), with_truth(config)
    assert reported.names == street.cityscapes(cityscapes, "val").names
    assert adapted.names == known.names == street.cityscapes(cityscapes, "train").names
    for i in range(2):
        image, labels = adapted.decode(i)
        assert np.array_equal(image, pixels_of(i)) and labels.dtype == np.int16 and (labels == UNLABELLED).all()
        assert np.array_equal(known.decode(i)[1], expected_ids(ids_of(i, 33)))
    with pytest.raises(AsgError, match=r"adapts to Cityscapes train and reports on val: leave adapt\.half out"):
        gta5_config(gta5, cityscapes, adapt={"half": True})


def test_the_labels_of_the_training_photographs_may_be_absent_altogether_and_not_in_part(gta5, cityscapes):
    config = gta5_config(gta5, cityscapes, **ADAPTING)
    one = next((cityscapes / "gtFine/train").rglob("*_labelIds.png"))
    one.unlink()
    assert len(unlabelled(config)) == 2
    with pytest.raises(AsgError, match=f"lacks its label map {one}"):
        with_truth(config)
    shutil.rmtree(cityscapes / "gtFine/train")
    assert (with_truth(config).decode(1)[1] == UNLABELLED).all()


@pytest.mark.parametrize("labelled", [True, False])
def test_a_round_learns_from_the_training_photographs_without_their_labels(
    workplace, gta5, cityscapes, tmp_path, monkeypatch, labelled: bool
):
    """Label maps of train are read once each, to say what pseudo-labels are worth; without them nothing is said."""
    if not labelled:
        shutil.rmtree(cityscapes / "gtFine/train")
    make_gta5(gta5, 101)  # two are held out
    config, reads = gta5_config(gta5, cityscapes, **ADAPTING), []
    honest = street.read_ids
    monkeypatch.setattr(street, "read_ids", lambda path, highest: reads.append(path) or honest(path, highest))
    result, _ = self_training.train(config, tmp_path / "round", centred(config), "cpu")
    of_train = [path for path in reads if "train" in path.parts]
    assert len(of_train) == len(set(of_train)) == (2 if labelled else 0)
    final = result["final"]
    assert sum(final["labelled"]) == 2 * HEIGHT * WIDTH, "portion 1: every pixel, labelled or not"
    assert ("selection" in final) == labelled
    if labelled:
        known = sum(int((expected_ids(ids_of(i, 33)) >= 0).sum()) for i in range(2))
        assert np.sum(final["selection"]) == known


# --- faults -------------------------------------------------------------------------------------------------------


READERS: dict[str, Callable[[Path], object]] = {
    "gta5": lambda root: street.gta5(root)[0],
    "cityscapes": street.cityscapes,
    "camvid": street.camvid,
}
PUBLISHED_NAME = {"gta5": "GTA5", "cityscapes": "Cityscapes", "camvid": "CamVid"}
FIRST_PAIR = {
    "gta5": ("images/00002.png", "labels/00002.png"),
    "cityscapes": (
        "leftImg8bit/val/frankfurt/frankfurt_000000_000019_leftImg8bit.png",
        "gtFine/val/frankfurt/frankfurt_000000_000019_gtFine_labelIds.png",
    ),
    "camvid": ("701_StillsRaw_full/0001TP_006690.png", "LabeledApproved_full/0001TP_006690_L.png"),
}


@pytest.fixture(params=list(READERS))
def data(request) -> tuple[str, Path, Path, Path]:
    """Name, root, and the first training or target pair of each benchmark in turn."""
    root = request.getfixturevalue(request.param)
    image, labels = FIRST_PAIR[request.param]
    return request.param, root, root / image, root / labels


def test_what_is_not_there_is_said_with_how_to_obtain_it(data, tmp_path):
    name, _, image, _ = data
    for folder in (tmp_path / "nowhere", image.parent):
        with pytest.raises(AsgError, match=rf"^{PUBLISHED_NAME[name]} is not at {folder} \(no .*\.png in it\): "
                           rf"run `python data_scripts/{name}\.py --to {folder}`, or give the folder"):  # fmt: skip
            READERS[name](folder)


def test_an_empty_folder_of_images(data):
    name, root, image, _ = data
    shutil.rmtree(root / image.relative_to(root).parts[0])
    with pytest.raises(AsgError, match=rf"{PUBLISHED_NAME[name]} is not at {root}"):
        READERS[name](root)


def test_a_missing_label_map_is_named_with_its_image(data):
    name, _, image, labels = data
    labels.unlink()
    with pytest.raises(AsgError, match=rf"^{image} \(1 of 3 images\) lacks its label map {labels}: run `python"):
        READERS[name](data[1])


@pytest.mark.parametrize("which", ["image", "label map"])
def test_a_truncated_file_is_named(data, which):
    name, root, *paths = data
    path = paths[which == "label map"]
    noise = np.random.default_rng(0).integers(7, 9, (200, 200), dtype=np.uint8)
    save(path, noise)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(AsgError, match=rf"^{path} cannot be decoded as an image \(.*\): replace it or take it out"):
        READERS[name](root).decode(0)


def test_an_image_that_vanished_is_named(data):
    name, root, image, _ = data
    pairs = READERS[name](root)
    image.unlink()
    with pytest.raises(AsgError, match=rf"The image {image} is missing"):
        pairs.decode(0)


@pytest.mark.parametrize("name", ["cityscapes", "camvid"])
def test_a_label_map_of_another_size_is_an_error(request, name):
    root = request.getfixturevalue(name)
    labels = root / FIRST_PAIR[name][1]
    shape = (HEIGHT, WIDTH - 1) if name == "cityscapes" else (HEIGHT, WIDTH - 1, 3)
    save(labels, np.zeros(shape, np.uint8))
    with pytest.raises(AsgError, match=rf"^{labels} has \(39, 6\) pixels and its image \(40, 6\): obtain both again"):
        READERS[name](root).decode(0)


@pytest.mark.parametrize(
    ("name", "label_id", "dtype"),
    [("cityscapes", 34, np.uint8), ("cityscapes", 254, np.uint8), ("cityscapes", 300, np.uint16),
     ("gta5", 35, np.uint8), ("gta5", 256 + 7, np.uint16)],
)  # fmt: skip
def test_an_unknown_id_is_named_with_its_file(request, name, label_id, dtype):
    """Also one that would be a known id if the 16 bits were cut to 8."""
    root = request.getfixturevalue(name)
    path = root / FIRST_PAIR[name][1]
    ids = np.full((HEIGHT, WIDTH), 7, dtype)
    ids[3, 4] = label_id
    save(path, ids)
    highest = {"cityscapes": 33, "gta5": 34}[name]
    with pytest.raises(AsgError, match=rf"^{path} holds the unknown label id {label_id} \(known: 0 to {highest}, and"):
        READERS[name](root).decode(0)


@pytest.mark.parametrize("name", ["cityscapes", "gta5"])
def test_a_colour_image_is_no_map_of_ids(request, name):
    root = request.getfixturevalue(name)
    save(root / FIRST_PAIR[name][1], pixels_of(0))
    with pytest.raises(AsgError, match=r"is a colour image where a map of label ids is expected"):
        READERS[name](root).decode(0)


def test_an_unknown_colour_is_named_with_its_file(camvid):
    path = camvid / FIRST_PAIR["camvid"][1]
    colours = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    colours[1, 2] = (26, 27, 28)
    save(path, colours)
    with pytest.raises(AsgError, match=rf"^{path} holds the colour \(26, 27, 28\), which means no class of CamVid"):
        street.camvid(camvid).decode(0)


def test_the_stray_colours_of_one_published_file_are_ignored(camvid):
    colours = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    colours[1, 2] = (26, 26, 26)
    save(camvid / "LabeledApproved_full/Seq05VD_f02610_L.png", colours)
    labels = street.camvid(camvid).decode(2)[1]
    assert labels[1, 2] == UNLABELLED and (labels == street.CLASSES.index("sky")).sum() == HEIGHT * WIDTH - 1


# --- training ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["vgg16", "resnet50", "resnet101"])
def test_two_steps_at_the_papers_crop_on_a_cpu(workplace, monkeypatch, backbone: str):
    monkeypatch.setattr(f"{__name__}.HEIGHT", 64)
    monkeypatch.setattr(f"{__name__}.WIDTH", 520)
    make_gta5(workplace.data / "gta5", 104)
    (workplace.data / "gta5/gta5_train.txt").write_text("00001.png\n00003.png\n")  # two of the others are held out
    make_cityscapes(workplace.data / "cityscapes")
    # Residual branches start at zero, else the answers of 33 untrained blocks are too large for a step.
    still = {} if backbone == "vgg16" else {"zero_init_residual": True}
    weights = workplace.data / "random.pt"
    torch.manual_seed(0)  # some draws of VGG's weights leave too little at the end of the network for two steps to move
    torch.save(torchvision.models.get_model(backbone, **still).state_dict(), weights)
    once = {"backbone": f"torchvision:{backbone}", "weights": str(weights), "steps": 2, "evaluations": 1}
    once["batch"] = 1 if backbone == "vgg16" else 2  # DeepLab's head has statistics of a batch
    config = get("segmentation").config("paper", "whole map", 0, {**once, "lr": 1e-5, "warmup": 1, "workers": 0})
    record = run(config)
    assert (config.crop, config.guidance, record["steps"]) == (512, 75.0, 2)
    first, last = record["evaluations"]
    assert last["validation_loss"] != first["validation_loss"] and max(last["drift"].values()) > 0
    assert math.isfinite(last["validation_loss"]) and math.isfinite(last["kl"])
