"""Meshes without materials, made fit to be rendered: read, stood upright, cut into parts, with normals and texture
coordinates.

A mesh of the collection is an OBJ file of positions and triangles alone. What its parts are made of is guessed from
its connected pieces: pieces of one size are of one material (the four wheels of a car, the keys of a keyboard).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from asg import AsgError

AXES = {sign + "xyz"[k]: (1 - 2 * (sign == "-")) * np.eye(3)[k] for sign in ("", "-") for k in range(3)}
CREASE = 40.0  # degrees between two faces above which their common edge is sharp


@dataclass(frozen=True)
class Mesh:
    """A triangle mesh, upright in a y-up world: its middle at the origin, its longest side of length 1."""

    points: np.ndarray  # (V, 3)
    faces: np.ndarray  # (F, 3) indices of points
    pieces: np.ndarray  # (F,) number of the connected piece, 0 … P − 1

    @cached_property
    def corners(self) -> np.ndarray:
        """The corners of each face, ``(F, 3, 3)``."""
        return self.points[self.faces]

    @cached_property
    def areas(self) -> np.ndarray:
        """The area of each face, ``(F,)``."""
        return np.linalg.norm(self._cross, axis=1) / 2

    @cached_property
    def normals(self) -> np.ndarray:
        """The unit normal of each face, ``(F, 3)``."""
        return self._cross / np.linalg.norm(self._cross, axis=1, keepdims=True)

    @cached_property
    def smooth_normals(self) -> np.ndarray:
        """Unit normals of the corners, ``(F, 3, 3)``: see :func:`smooth_normals`."""
        return smooth_normals(self)

    @cached_property
    def _cross(self) -> np.ndarray:
        a, b, c = np.moveaxis(self.corners, 1, 0)
        return np.cross(b - a, c - a)


def read_obj(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Positions ``(V, 3)`` and triangles ``(F, 3)`` of an OBJ file; a polygon is cut into a fan of triangles."""
    points, triangles = [], []
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        raise AsgError(f"The mesh {path} is missing: run `python data_scripts/cad.py` to obtain it.") from None
    for number, line in enumerate(lines, 1):
        kind, _, rest = line.strip().partition(" ")
        try:
            if kind == "v":
                x, y, z = map(float, rest.split()[:3])
                points.append((x, y, z))
            elif kind == "f":
                polygon = [int(corner.split("/")[0]) for corner in rest.split()]
                polygon = [i - 1 if i > 0 else len(points) + i for i in polygon]
                triangles += [(polygon[0], a, b) for a, b in pairwise(polygon[1:])]
        except ValueError:
            what = f"{line.strip()!r} is no line of an OBJ mesh"
            raise AsgError(f"{path}, line {number}: {what}: obtain it again.") from None
    vertices, faces = np.array(points).reshape(-1, 3), np.array(triangles, dtype=np.int64).reshape(-1, 3)
    if not len(faces) or not np.isfinite(vertices).all() or faces.min() < 0 or faces.max() >= len(vertices):
        raise AsgError(f"{path} is no OBJ mesh (no faces, or faces of missing or infinite points): obtain it again.")
    return vertices, faces


def rotation(up: str, front: str | None = None) -> np.ndarray:
    """The rotation ``(3, 3)`` that takes the file's direction ``up`` to y and, if it is given, the axis ``front`` to z.

    ``up``: one of AXES, or three numbers, ``"0.1 0 0.995"``, for a mesh that leans in its file.
    """
    above = AXES[up] if up in AXES else np.array(up.split(), float)
    above = above / np.linalg.norm(above)
    towards = AXES[front] if front else np.roll(np.eye(3)[np.abs(above).argmax()], 1)
    towards = towards - (towards @ above) * above
    towards /= np.linalg.norm(towards)
    return np.stack((np.cross(above, towards), above, towards))


def prepare(path: Path, up: str = "y", front: str | None = None) -> Mesh:
    """Read a mesh, join points at one place, drop faces without area, and stand it upright, in the unit cube."""
    points, faces = read_obj(path)
    points = points @ rotation(up, front).T
    low, high = points[faces].min((0, 1)), points[faces].max((0, 1))
    if not (size := (high - low).max()) > 0:
        raise AsgError(f"The mesh {path} has no extent: obtain it again.")
    points = (points - (low + high) / 2) / size
    _, first, same = np.unique(np.round(points, 6), axis=0, return_index=True, return_inverse=True)
    points, faces = points[first], same.reshape(-1)[faces]
    a, b, c = np.moveaxis(points[faces], 1, 0)
    faces = faces[np.linalg.norm(np.cross(b - a, c - a), axis=1) > 1e-12]
    used, faces = np.unique(faces, return_inverse=True)
    points, faces = points[used], faces.reshape(-1, 3)
    edges = coo_array((np.ones(2 * len(faces)), (faces[:, :2].ravel(), faces[:, 1:].ravel())), (len(points),) * 2)
    return Mesh(points, faces, np.unique(connected_components(edges)[1][faces[:, 0]], return_inverse=True)[1])


def smooth_normals(mesh: Mesh) -> np.ndarray:
    """Normals of the corners ``(F, 3, 3)``: of a point's faces, those within CREASE of the corner's own, by area.

    Faces of such meshes are wound either way, so a neighbour's normal counts with the sign that agrees.
    """
    areas, normals = mesh.areas, mesh.normals
    corner_point = mesh.faces.ravel()  # (3F,)
    order = np.argsort(corner_point, kind="stable")
    counts = np.bincount(corner_point, minlength=len(mesh.points))
    starts = np.concatenate(([0], np.cumsum(counts)[:-1]))
    size = counts[corner_point]  # (3F,) corners at the point of each corner
    mine = np.repeat(np.arange(len(corner_point)), size)  # pairs (mine, other) of corners at one point
    within = np.arange(len(mine)) - np.repeat(np.cumsum(size) - size, size)
    other = order[starts[corner_point[mine]] + within]
    cosine = (normals[mine // 3] * normals[other // 3]).sum(1)
    weight = np.where(np.abs(cosine) > np.cos(np.radians(CREASE)), np.sign(cosine), 0.0) * areas[other // 3]
    summed = np.stack([np.bincount(mine, weight * normals[other // 3, k], len(corner_point)) for k in range(3)], 1)
    return (summed / np.linalg.norm(summed, axis=1, keepdims=True)).reshape(-1, 3, 3)


def box_coordinates(mesh: Mesh) -> np.ndarray:
    """Texture coordinates of the corners ``(F, 3, 2)``: seen along the axis that a face looks to, v upwards."""
    corners = mesh.corners
    along = np.abs(mesh.normals).argmax(1)
    picks = np.array([(2, 1), (0, 2), (0, 1)])[along]  # (F, 2) the two axes of the face's plane
    return np.take_along_axis(corners, picks[:, None, :].repeat(3, 1), 2)


def kinds(mesh: Mesh) -> np.ndarray:
    """Number of the kind of each face's piece ``(F,)``, 0 for the largest; pieces of one size are of one kind."""
    total = np.bincount(mesh.pieces, mesh.areas)
    low, high = piece_bounds(mesh)
    size = np.sort(high - low, axis=1)  # (P, 3)
    key = np.round(4 * np.log2(np.concatenate((size, np.sqrt(total)[:, None]), 1) + 0.02)).astype(int)
    _, kind = np.unique(key, axis=0, return_inverse=True)
    kind = kind.reshape(-1)
    rank = np.argsort(np.argsort(-np.bincount(kind, total), kind="stable"), kind="stable")
    return rank[kind][mesh.pieces]


def piece_bounds(mesh: Mesh) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest coordinates ``(P, 3)`` of each piece."""
    count = mesh.pieces.max() + 1
    low, high = np.full((count, 3), np.inf), np.full((count, 3), -np.inf)
    corners = mesh.corners
    np.minimum.at(low, mesh.pieces, corners.min(1))
    np.maximum.at(high, mesh.pieces, corners.max(1))
    return low, high
