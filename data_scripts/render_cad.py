"""One render of one mesh, brought as near to a photograph as procedural means allow: ``render(mesh, kind, stream)``.

VisDA-17's renders show CAD models on plain ground. Here every render has its own material for each part, its own
ground, surroundings, light and lens, within what is usual for the class (:mod:`cad_looks`). Mitsuba 3
traces the paths, in its variant ``scalar_rgb``. Equal streams give equal bytes on all processors of one instruction
set. Between AVX and AVX2 a few pixels in ten thousand differ, most by one level: Embree, which finds what a ray meets,
has code of its own for each.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import cad_textures as pictures
from asg import AsgError
from asg.data.cad import RENDERER
from cad_denoise import denoise
from cad_looks import HORIZONS, INDOORS, OUTDOORS, WALLS, Look, Picture
from cad_meshes import Mesh, box_coordinates, kinds, piece_bounds
from cad_textures import Stream, any_colour, colour

PIXELS = 160  # height and width of a render
SAMPLES, GUIDE_SAMPLES = 6, 4  # paths a pixel; rays that find colour, normal and depth for the denoiser
DEPTH = 3  # longest path: light, two surfaces, camera
GROUND = 40.0  # half the side of grounds and walls; a mesh's longest side is 1
LAMP, SUN = (1.0, 5.0), (0.5, 9.0)  # irradiance of the key light; the surroundings give 1 to 3
EXPOSURE, STUDIO_EXPOSURE = (0.3, 0.65), (0.4, 1.1)  # linear value of middle brightness
BRIGHTEST = 1.3  # linear value that all but the brightest pixels keep below; 1 is nearly white
CONTRAST = (0.2, 0.9)  # share of an S-shaped curve
SEA = (0.09, 0.15)  # share of a ship's height that is under water


# ---- what things are made of -----------------------------------------------------------------------------------------


def surface(base: np.ndarray, roughness: float, scale: float = 1.0, **more: float) -> dict[str, Any]:
    """A material seen from both sides; ``base`` is a colour ``(3,)``, or a picture that repeats each ``1 / scale``."""
    mi = mitsuba()
    if base.ndim == 1:
        reflected = {"type": "rgb", "value": np.clip(base, 0.0, 0.95).tolist()}
    else:
        bitmap = mi.Bitmap(np.ascontiguousarray(np.clip(base, 0.0, 0.95), dtype=np.float32))
        turn = mi.ScalarTransform4f().scale((scale, scale, 1.0))
        reflected = {"type": "bitmap", "bitmap": bitmap, "raw": True, "to_uv": turn}
    return {
        "type": "twosided",
        "inner": {"type": "principled", "base_color": reflected, "roughness": roughness, **more},
    }


def material(name: str, rng: Stream) -> dict[str, Any]:
    """A random material of one kind."""
    rough = float(rng.uniform(0.25, 0.7))
    match name:
        case "paint":
            return surface(pictures.plain(rng, any_colour(rng)), rough, 3)
        case "lacquer":
            base = (
                any_colour(rng, (0.3, 0.9), (0.15, 0.8))
                if rng.random() < 0.65
                else any_colour(rng, (0, 0.1), (0.05, 0.95))
            )
            return surface(base, 0.4, clearcoat=1.0, clearcoat_gloss=float(rng.uniform(0.7, 1)))
        case "pale":
            return surface(pictures.plain(rng, any_colour(rng, (0.0, 0.12), (0.7, 0.97))), rough, 3)
        case "drab":
            return surface(pictures.speckled(rng, colour(rng.uniform(0.1, 0.6), rng.uniform(0.05, 0.35), 0.45)), 0.6, 1)
        case "dark":
            return surface(any_colour(rng, (0.0, 0.2), (0.1, 0.38)), rough)
        case "glass":
            return surface(colour(0.58, 0.2, rng.uniform(0.08, 0.25)), 0.08, specular=0.8)
        case "metal":
            return surface(any_colour(rng, (0.0, 0.15), (0.6, 0.95)), float(rng.uniform(0.15, 0.45)), metallic=0.9)
        case "wood":
            return surface(pictures.boards(rng, 1), rough, float(rng.uniform(0.8, 2)))
        case "varnish":
            return surface(
                pictures.boards(rng, 1), 0.4, float(rng.uniform(0.8, 2)), clearcoat=0.8, clearcoat_gloss=0.95
            )
        case "ebony":
            return surface(any_colour(rng, (0.0, 0.3), (0.03, 0.12)), 0.25, clearcoat=1.0, clearcoat_gloss=0.95)
        case "cloth":
            return surface(pictures.cloth(rng), 0.95, float(rng.uniform(2, 5)), specular=0.1)
        case "leaf":
            return surface(pictures.leaf(rng), float(rng.uniform(0.4, 0.8)), 2)
        case "clay":
            return surface(pictures.speckled(rng, colour(0.04, rng.uniform(0.3, 0.7), rng.uniform(0.4, 0.75))), 0.9, 2)
        case "glaze":
            base = (
                any_colour(rng, (0.0, 0.9), (0.1, 0.95))
                if rng.random() < 0.6
                else any_colour(rng, (0, 0.1), (0.8, 0.97))
            )
            return surface(pictures.plain(rng, base), 0.35, 2, clearcoat=0.8, clearcoat_gloss=0.95)
        case "shade":
            return surface(pictures.plain(rng, any_colour(rng, (0.0, 0.35), (0.5, 0.97))), 0.9, 2)
        case "sail":
            return surface(
                pictures.plain(rng, any_colour(rng, (0.0, 0.2 if rng.random() < 0.8 else 0.9), (0.7, 0.97))), 0.9
            )
        case "siding" | "brick" | "roof" | "plaster":
            picture = {"siding": pictures.siding, "brick": pictures.bricks, "roof": pictures.shingles}.get(
                name, lambda rng: pictures.speckled(rng, any_colour(rng, (0.0, 0.35), (0.6, 0.97)))
            )(rng)
            return surface(picture, 0.9, float(rng.uniform(2.0, 4.0)), specular=0.2)
    raise ValueError(name)


def draw(weights: Mapping[str, float], rng: Stream) -> str:
    """One of the names, as often as its weight says."""
    share = np.array(list(weights.values()), float)
    return list(weights)[rng.choice(len(share), p=share / share.sum())]


def one_of(choices: Sequence[Picture], rng: Stream) -> np.ndarray:
    """A picture by one of ``choices``, each as likely."""
    return choices[rng.integers(len(choices))](rng)


def studio_colour(rng: Stream) -> np.ndarray:
    """The one colour of a studio: often white."""
    return any_colour(rng, (0, 0.04), (0.93, 0.97)) if rng.random() < 0.55 else any_colour(rng, (0, 0.22), (0.1, 0.95))


def parts_of(mesh: Mesh, look: Look, rng: Stream) -> list[tuple[np.ndarray, dict[str, Any]]]:
    """Disjoint sets of faces (masks ``(F,)``) that cover the mesh, each with its material."""
    normals, centre = mesh.normals, mesh.corners.mean(1)
    bottom, top = mesh.points[:, 1].min(), mesh.points[:, 1].max()
    height = (centre[:, 1] - bottom) / max(top - bottom, 1e-9)  # (F,) 0 … 1
    low, high = ((bound - bottom) / max(top - bottom, 1e-9) for bound in piece_bounds(mesh))  # (P, 3); column 1: height
    kind = kinds(mesh)
    count = int(rng.integers(1, 4))
    slot = np.where(kind == 0, 0, 1 + rng.integers(0, count, kind.max() + 1)[kind])  # 0: body, 1 … 3: others
    slot = np.where(rng.random(kind.max() + 1)[kind] < look.same, 0, slot)
    names = [draw(look.body, rng), *(draw(look.others, rng) for _ in range(3))]
    if look.parts in ("car", "cycle"):
        wheel = ((low[:, 1] < 0.06) & (high[:, 1] < 0.62))[mesh.pieces] & (kind != 0)
        slot = np.where(wheel, 4, slot)
        names.append("dark")
    if look.parts == "car":
        glass = (np.abs(normals[:, 1]) < rng.uniform(0.7, 0.85)) & (height > 0.56) & (height < 0.9)
        slot = np.where(glass, 5, np.where(height < 0.15, 4, slot))
        names.append("glass")
    elif look.parts == "house":
        slope = np.abs(normals[:, 1])
        slot = np.where((slope > 0.2) & (height > 0.25), 4, slot)
        names += ["roof"]
    elif look.parts == "lamp":
        tall, middle = (high - low)[:, 1], (high + low)[:, 1] / 2
        shade = (middle > 0.5) & (tall > 0.12) & (tall < 0.75)
        slot = np.where(shade[mesh.pieces] if shade.any() else height > 0.6, 0, np.maximum(slot, 1))
    elif look.parts == "plant":
        pot = (low[:, 1] < 0.12) & (high[:, 1] < 0.62)
        slot = np.where(pot[mesh.pieces] if pot.any() else height < 0.22, 1, np.where(slot == 1, 0, slot))
        names[2:] = ["leaf", "leaf"] if rng.random() < 0.6 else ["leaf", "paint"]
    elif look.parts == "ship":
        hull = height < SEA[1] + rng.uniform(0.08, 0.25)
        slot = np.where(hull, 0, np.maximum(slot, 1))
    return [(slot == k, material(names[k], rng)) for k in np.unique(slot)]


def triangles(points: np.ndarray, faces: np.ndarray, normals: np.ndarray, uv: np.ndarray, bsdf: dict[str, Any]) -> Any:
    """Mitsuba's mesh of the material ``bsdf``: points, normals ``(V, 3)``, ``uv`` ``(V, 2)`` and faces ``(F, 3)``."""
    mi = mitsuba()
    properties = mi.Properties()
    properties["look"] = mi.load_dict(bsdf)
    mesh = mi.Mesh("mesh", len(points), len(faces), properties, True, True)
    values = mi.traverse(mesh)
    values["vertex_positions"], values["vertex_normals"], values["vertex_texcoords"] = (
        part.astype(np.float32).ravel() for part in (points, normals, uv)
    )
    values["faces"] = faces.astype(np.uint32).ravel()
    values.update()
    return mesh


# ---- where things stand ----------------------------------------------------------------------------------------------


def plane(
    width: float, centre: np.ndarray, across: np.ndarray, upward: np.ndarray, bsdf: dict[str, Any]
) -> dict[str, Any]:
    """A square of half side ``width`` around ``centre``, spanned by two unit vectors, of the material ``bsdf``."""
    mi = mitsuba()
    frame = np.eye(4)
    frame[:3, 0], frame[:3, 1], frame[:3, 2], frame[:3, 3] = across, upward, np.cross(across, upward), centre
    turn = mi.ScalarTransform4f(frame.tolist()) @ mi.ScalarTransform4f().scale((width, width, 1.0))
    return {"type": "rectangle", "to_world": turn, "look": bsdf}


def water(level: float, rng: Stream) -> Any:
    """A wavy sea, as a mesh that is finer near the middle."""
    line = np.linspace(-1, 1, 240)
    line = GROUND * np.sign(line) * np.abs(line) ** 2.2
    places = np.stack(np.meshgrid(line, line, indexing="ij"), 2).reshape(-1, 2)
    height, normals = pictures.waves(rng, places)
    points = np.stack((places[:, 0], level + height, places[:, 1]), 1)
    corner = np.arange(len(line) ** 2).reshape(len(line), -1)
    a, b, c, d = (part.ravel() for part in (corner[:-1, :-1], corner[:-1, 1:], corner[1:, :-1], corner[1:, 1:]))
    faces = np.concatenate((np.stack((a, b, c), 1), np.stack((d, c, b), 1)))
    deep = colour(rng.uniform(0.48, 0.62), rng.uniform(0.3, 0.7), rng.uniform(0.12, 0.4))
    return triangles(points, faces, normals, np.zeros_like(places), surface(deep, 0.12, specular=0.7))


def place(name: str, bottom: float, radius: float, towards: np.ndarray, rng: Stream) -> dict[str, Any]:
    """Ground, walls and surroundings of one of the places; ``towards`` is the level unit vector to the camera."""
    mi, scene = mitsuba(), {}
    floor, repeats = np.array((0.0, bottom, 0.0)), 2 * GROUND
    x, y, z = np.eye(3)
    if name in INDOORS:
        if name == "studio":
            ground = wall = surface(studio_colour(rng), 0.95, specular=0.1)
        else:
            ground = surface(one_of(INDOORS[name], rng), float(rng.uniform(0.3, 0.9)), repeats * rng.uniform(0.4, 1.2))
            wall = surface(one_of(WALLS, rng), 0.95, repeats * rng.uniform(0.2, 0.6), specular=0.1)
        yaw = np.radians(rng.uniform(-35, 35))
        level = np.arctan2(towards[0], towards[2]) + yaw
        back = np.array((np.sin(level), 0.0, np.cos(level)))  # the wall looks this way, roughly to the camera
        far = radius * rng.uniform(*((2.0, 6.0) if name == "desk" else (1.1, 2.5)))
        scene["wall"] = plane(GROUND, floor - far * back, np.cross(y, back), y, wall)
        light = pictures.ceiling(rng)
    else:
        light = pictures.sky(rng, draw(HORIZONS[name], rng)) * rng.uniform(0.7, 1.1)
        if name == "sea":
            scene["ground"] = water(bottom, rng)
        elif name != "sky":
            ground = surface(one_of(OUTDOORS[name], rng), 0.95, repeats * rng.uniform(0.3, 0.8), specular=0.1)
    if name in INDOORS or name in OUTDOORS:
        scene["ground"] = plane(GROUND, floor, z, x, ground)
    scene["surroundings"] = {"type": "envmap", "bitmap": mi.Bitmap(light)}
    return scene


def key_light(direction: np.ndarray, strength: float, softness: float, tint: np.ndarray) -> dict[str, Any]:
    """A round light far away in ``direction``; ``softness`` is its radius as a share of its distance."""
    mi, far = mitsuba(), 12.0
    turn = mi.ScalarTransform4f().look_at((far * direction).tolist(), [0, 0, 0], [0.01, 1.0, 0.02])
    radiance = strength * tint / (np.pi * softness**2)  # equal irradiance at every softness
    return {
        "type": "disk", "to_world": turn @ mi.ScalarTransform4f().scale((far * softness,) * 2 + (1.0,)),
        "light": {"type": "area", "radiance": {"type": "rgb", "value": radiance.tolist()}},
    }  # fmt: skip


# ---- the image -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Camera:
    """Where the camera stands: its position, the point in the middle of its image, its angle of view in degrees."""

    position: np.ndarray
    aim: np.ndarray
    angle: float


def outermost(points: np.ndarray, directions: int = 400) -> np.ndarray:
    """Those of ``points`` ``(N, 3)`` that lie farthest in one of many directions all round: no other bounds a view."""
    z = np.linspace(-1, 1, directions)
    turn = np.pi * (3 - np.sqrt(5)) * np.arange(directions)  # a spiral from pole to pole
    around = np.stack((np.sqrt(1 - z**2) * np.cos(turn), z, np.sqrt(1 - z**2) * np.sin(turn)))  # (3, directions)
    return points[np.unique((points @ around).argmax(0))]


def aim(points: np.ndarray, direction: np.ndarray, angle: float, fill: float, shift: np.ndarray) -> Camera:
    """The camera in ``direction`` (unit, from the object) whose image ``points`` fill to the share ``fill``.

    ``shift`` ``(2,)``, each of −1 … 1, moves the object off the middle by that share of the room left.
    """
    right = np.cross((0.0, 1.0, 0.0), direction)
    right /= np.linalg.norm(right)
    upward = np.cross(direction, right)
    half = np.tan(np.radians(angle / 2))
    middle, near = np.zeros(3), (points @ direction).max() + 0.02
    for _ in range(12):  # distance and middle depend on each other
        rays = points - middle
        low, high = near - middle @ direction, 60.0
        for _ in range(40):
            distance = (low + high) / 2
            depth = distance - rays @ direction
            seen = np.stack((rays @ right, rays @ upward), 1) / (depth[:, None] * half)  # (N, 2) of −1 … 1
            spread = (seen.max(0) - seen.min(0)).max() / 2
            low, high = (distance, high) if spread > fill else (low, distance)
        centre = (seen.max(0) + seen.min(0)) / 2
        middle = middle + (centre[0] * right + centre[1] * upward) * half * distance
    room = (1 - (seen.max(0) - seen.min(0)) / 2) * shift
    middle = middle - (room[0] * right + room[1] * upward) * half * distance
    return Camera(middle + distance * direction, middle, angle)


def develop(light: np.ndarray, exposure: float, rng: Stream) -> np.ndarray:
    """What a camera makes of linear light ``(H, W, 3)``: exposure, white balance, a curve with a shoulder, grain.

    ``exposure`` is the linear value that middle brightness (a mean of two quantiles) is brought to.
    """
    grey = light.mean(2)
    middle, bright = 0.6 * np.quantile(grey, 0.5) + 0.4 * np.quantile(grey, 0.9), np.quantile(grey, 0.985)
    light = light * min(exposure / max(middle, 1e-3), BRIGHTEST / max(bright, 1e-3))
    light = light * rng.uniform(0.94, 1.06, 3)
    light = np.where(light < 0.6, light, 0.6 + 0.4 * np.tanh((light - 0.6) / 0.4))
    screen = np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 1e-9) ** (1 / 2.4) - 0.055)
    smooth = np.clip(screen, 0, 1) ** 2 * (3 - 2 * np.clip(screen, 0, 1))
    screen = screen + rng.uniform(*CONTRAST) * (smooth - screen)
    screen = screen + rng.normal(0, rng.uniform(0.0, 0.012), screen.shape)
    return (np.clip(screen, 0, 1) * 255 + 0.5).astype(np.uint8)


def mitsuba() -> Any:
    """Mitsuba in its variant without compiler or graphics card; an absent one gets a sentence."""
    try:
        import mitsuba
    except ImportError:
        raise AsgError("Rendering needs mitsuba, which is not installed: pip install -e .[render]") from None
    if mitsuba.variant() != "scalar_rgb":
        mitsuba.set_variant("scalar_rgb")
    return mitsuba


def stream(mesh: str, view: int) -> Stream:
    """The random stream of one render: of the mesh's path, the number of the view and the renderer's version."""
    return np.random.default_rng(list(hashlib.sha256(f"{mesh} {view} {RENDERER}".encode()).digest()))


def leaning(mesh: Mesh, degrees: float) -> Mesh:
    """The mesh turned about the axis that comes towards the camera."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return replace(mesh, points=mesh.points @ np.array(((c, s, 0), (-s, c, 0), (0, 0, 1.0))))


def render(mesh: Mesh, look: Look, rng: Stream, pixels: int = PIXELS, samples: int = SAMPLES) -> np.ndarray:
    """One image of ``mesh``, uint8 ``(pixels, pixels, 3)``."""
    mi = mitsuba()
    where = draw(look.places, rng)
    if look.lean:
        mesh = leaning(mesh, rng.uniform(-look.lean, look.lean))
    lowest, highest = look.elevation
    if where != "sky":
        lowest = max(lowest, 1.0)
    elevation = np.radians(rng.uniform(lowest, highest))
    azimuth = np.radians(rng.uniform(-look.azimuth, look.azimuth))
    towards = np.array((np.sin(azimuth), 0.0, np.cos(azimuth)))
    direction = np.cos(elevation) * towards + np.sin(elevation) * np.array((0.0, 1.0, 0.0))
    bottom = mesh.points[:, 1].min()
    if where == "sea":
        bottom += rng.uniform(*SEA) * np.ptp(mesh.points[:, 1])
    camera = aim(
        outermost(mesh.points[mesh.points[:, 1] >= bottom]),
        direction,
        rng.uniform(*look.field_of_view),
        rng.uniform(*look.fill),
        rng.uniform(-0.7, 0.7, 2),
    )
    if where != "sky":  # never below the ground
        lift = np.array((0.0, max(0.0, bottom + 0.04 - camera.position[1]), 0.0))
        camera = replace(camera, position=camera.position + lift, aim=camera.aim + lift)
    radius = float(np.linalg.norm(mesh.points[:, ::2], axis=1).max())
    side = azimuth + np.radians(rng.uniform(-110, 110))
    height = np.radians(rng.uniform(25, 75))
    sun = np.array((np.sin(side) * np.cos(height), np.sin(height), np.cos(side) * np.cos(height)))
    indoors = where in INDOORS
    softness = rng.uniform(0.12, 0.5) if indoors else rng.uniform(0.01, 0.08)
    warmth = colour(rng.uniform(0.05, 0.13), rng.uniform(0.0, 0.25), 1.0)
    scene = {
        "type": "scene",
        "camera": {
            "type": "perspective", "fov": float(camera.angle), "near_clip": 0.01,
            "to_world": mi.ScalarTransform4f().look_at(camera.position.tolist(), camera.aim.tolist(), [0, 1, 0]),
            "film": {"type": "hdrfilm", "width": pixels, "height": pixels, "pixel_format": "rgb",
                     "rfilter": {"type": "box"}},
            "sampler": {"type": "multijitter", "sample_count": samples},
        },
        "key": key_light(sun, rng.uniform(*(LAMP if indoors else SUN)), softness, warmth),
        **place(where, bottom, radius, towards, rng),
    }  # fmt: skip
    normals, uv = mesh.smooth_normals, box_coordinates(mesh)
    for number, (faces, what) in enumerate(parts_of(mesh, look, rng)):
        corners = np.arange(3 * faces.sum()).reshape(-1, 3)  # no corner is shared, so that creases are sharp
        parts = (part[faces].reshape(len(corners) * 3, -1) for part in (mesh.corners, normals, uv))
        points, normal, place_of = parts
        scene[f"part{number}"] = triangles(points, corners, normal, place_of, what)
    loaded, seed = mi.load_dict(scene), int(rng.integers(1 << 31))
    light = np.array(mi.render(loaded, integrator=mi.load_dict({"type": "path", "max_depth": DEPTH}), seed=seed))
    guides = mi.load_dict({"type": "aov", "aovs": "albedo:albedo,normal:sh_normal,depth:depth"})
    seen = np.array(mi.render(loaded, integrator=guides, seed=seed, spp=GUIDE_SAMPLES))  # (H, W, 7)
    albedo, normal, depth = seen[..., -7:-4], seen[..., -4:-1], seen[..., -1]
    if not np.isfinite(light).all():
        raise AsgError("Mitsuba gave an image with invalid pixels: please report the mesh and the view.")
    exposure = rng.uniform(*(STUDIO_EXPOSURE if where == "studio" else EXPOSURE))
    return develop(denoise(light, albedo, normal, depth), exposure, rng)
