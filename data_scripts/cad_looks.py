"""How things of each class are made, placed and photographed: all choices of the renders in one place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

import cad_textures as pictures
from cad_textures import Stream


@dataclass(frozen=True)
class Look:
    """How things of one class are made, placed and photographed. Weights need not sum to 1; angles are in degrees."""

    places: Mapping[str, float]  # where it is photographed (INDOORS, OUTDOORS, "sky", "sea")
    parts: str = "pieces"  # how its parts are told apart (see parts_of)
    body: Mapping[str, float] = field(default_factory=lambda: {"paint": 1.0})  # material of the largest part
    others: Mapping[str, float] = field(default_factory=lambda: {"dark": 2, "metal": 1, "paint": 1})
    same: float = 0.3  # share of the other pieces that are of the body's material too
    elevation: tuple[float, float] = (3.0, 30.0)  # of the camera
    azimuth: float = 180.0  # of the camera, either way from the front; 180: all round
    lean: float = 0.0  # of the object, in the plane that the camera sees, either way
    fill: tuple[float, float] = (0.7, 1.05)  # share of the image that the longer side takes
    field_of_view: tuple[float, float] = (18.0, 45.0)


Picture = Callable[[Stream], np.ndarray]
# Where a thing may stand (a Look's ``places``): grounds before a wall, grounds under the sky, and no ground at all
# ("sky") or water ("sea"). Each has its grounds, and what is seen at its horizon, with weights.
INDOORS: dict[str, tuple[Picture, ...]] = {
    "studio": (),  # ground and wall of one colour
    "room": (pictures.boards, pictures.tiles, pictures.cloth, pictures.concrete),
    "desk": (pictures.board, pictures.concrete),
}
WALLS: tuple[Picture, ...] = (pictures.wallpaper, pictures.plaster)
OUTDOORS: dict[str, tuple[Picture, ...]] = {
    "street": (pictures.paving,),
    "runway": (pictures.paving, pictures.grass),
    "field": (pictures.grass, pictures.earth, pictures.paving),
    "garden": (pictures.grass, pictures.grass, pictures.paving),
}
HORIZONS = {
    "street": {"houses": 3, "trees": 3},
    "runway": {"hills": 2, "trees": 2, "none": 1, "houses": 1},
    "field": {"trees": 3, "hills": 2, "none": 1},
    "garden": {"trees": 3, "houses": 1, "hills": 1},
    "sky": {"air": 1},
    "sea": {"none": 5, "hills": 3, "houses": 1},
}
LOOKS = {
    "aeroplane": Look(
        {"runway": 3, "sky": 3}, body={"pale": 5, "paint": 1, "metal": 1, "drab": 1},
        others={"pale": 3, "paint": 2, "dark": 1, "metal": 1}, elevation=(-4, 14),
    ),
    "bicycle": Look({"street": 2, "room": 2, "studio": 3, "field": 1}, "cycle", {"paint": 3, "dark": 2, "metal": 1},
                    {"dark": 4, "metal": 3, "paint": 1}, elevation=(2, 22)),
    "car": Look({"street": 5, "field": 1, "studio": 1}, "car", {"lacquer": 5, "pale": 1}, same=0.7,
                elevation=(2, 18)),
    "chair": Look({"room": 3, "studio": 4, "field": 1}, body={"wood": 4, "paint": 1, "cloth": 2, "dark": 2},
                  others={"wood": 3, "metal": 2, "cloth": 2, "dark": 1}, elevation=(5, 30)),
    "guitar": Look({"studio": 4, "room": 4}, body={"varnish": 4, "lacquer": 4}, azimuth=35, lean=60, elevation=(-2, 20),
                   others={"dark": 3, "wood": 2, "metal": 2, "pale": 1}),
    "helicopter": Look({"sky": 4, "runway": 2, "field": 2}, body={"lacquer": 4, "pale": 2, "drab": 2},
                       others={"dark": 3, "metal": 1, "lacquer": 2}, elevation=(-15, 16)),
    "house": Look({"garden": 1}, "house", {"siding": 3, "plaster": 3, "brick": 3}, {"pale": 2, "dark": 1, "wood": 1},
                  elevation=(1, 14), fill=(0.8, 1.1)),
    "keyboard": Look({"desk": 4, "studio": 2}, body={"pale": 3, "dark": 4}, others={"pale": 3, "dark": 4},
                     elevation=(25, 75)),
    "lamp": Look({"room": 2, "studio": 4, "desk": 2}, "lamp", {"shade": 1},
                 {"metal": 3, "wood": 1, "glaze": 3, "dark": 1}, elevation=(0, 22)),
    "motorcycle": Look({"studio": 4, "street": 3, "field": 1}, "cycle", {"lacquer": 4, "dark": 1},
                       others={"dark": 2, "metal": 4, "lacquer": 2}, elevation=(2, 18)),
    "mug": Look({"desk": 4, "studio": 2}, body={"glaze": 1}, others={"glaze": 1}, elevation=(8, 45)),
    "piano": Look({"studio": 4, "room": 3}, body={"ebony": 5, "varnish": 3, "pale": 1},
                  others={"ebony": 4, "varnish": 1, "metal": 1, "pale": 1}, elevation=(4, 28)),
    "plant": Look({"room": 2, "studio": 4, "garden": 1, "desk": 1}, "plant", {"leaf": 1}, {"clay": 2, "glaze": 1},
                  elevation=(0, 25)),
    "ship": Look({"sea": 1}, "ship", {"pale": 3, "lacquer": 2, "dark": 2, "wood": 1}, {"sail": 3, "pale": 2, "wood": 1},
                 elevation=(1, 14)),
}  # fmt: skip
