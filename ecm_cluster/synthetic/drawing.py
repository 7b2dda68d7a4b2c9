"""Draws the synthetic images: textured shapes on cluttered backgrounds.

A class is a *look*: one of 18 shapes in one of 12 colours with one of 6 textures, a total of 1,296 looks, enough for
the 1,203 classes of LVIS v1. Neighbouring looks differ in all three, so that few classes are easy to distinguish and
many are hard. All randomness comes from the generator passed in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import pycocotools.mask as mask_api

LEAST_RADIUS = 5.0  # pixels; a smaller thin shape may not cover any pixel
COLOURS: dict[str, tuple[int, int, int]] = {  # RGB
    "red": (222, 40, 40), "green": (30, 140, 60), "yellow": (245, 225, 50), "blue": (45, 85, 220),
    "white": (242, 242, 242), "magenta": (230, 60, 190), "cyan": (60, 210, 225), "brown": (130, 78, 38),
    "lime": (150, 225, 50), "black": (22, 22, 22), "orange": (247, 140, 28), "purple": (138, 60, 215),
}  # fmt: skip
TEXTURES = ("plain", "striped", "checked", "dotted", "ringed", "shaded")


def _polar(radii: list[float], start: float = -90.0) -> np.ndarray:
    """Corners at equal angles with the given radii, the first one straight up."""
    angles = np.radians(start + 360.0 / len(radii) * np.arange(len(radii)))
    return np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.asarray(radii)[:, None]


def _corners(*xy: float) -> np.ndarray:
    return np.asarray(xy, dtype=float).reshape(-1, 2)


def _crescent() -> np.ndarray:
    outer = [(math.cos(a), math.sin(a)) for a in np.radians(np.linspace(60, 300, 17))]
    inner = [(0.3 + 0.8 * math.cos(a), 0.92 * math.sin(a)) for a in np.radians(np.linspace(285, 75, 13))]
    return np.asarray(outer + inner)


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * math.pi, 26, endpoint=False)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([16 * np.sin(t) ** 3, -y - 2.5], axis=1) / 16


def _drop() -> np.ndarray:
    arc = [(0.62 * math.cos(a), 0.38 + 0.62 * math.sin(a)) for a in np.radians(np.linspace(-30, 210, 20))]
    return np.asarray([*arc, (0.0, -1.0)])


# x to the right, y down; lists of parts, since an LVIS segmentation may have several
_RAW: dict[str, list[np.ndarray]] = {
    "disc": [_polar([1.0] * 24)],
    "square": [_polar([1.0] * 4, start=-45.0)],
    "triangle": [_polar([1.0] * 3)],
    "star": [_polar([1.0, 0.42] * 5)],
    "cross": [_corners(-.32, -1, .32, -1, .32, -.32, 1, -.32, 1, .32, .32, .32,
                       .32, 1, -.32, 1, -.32, .32, -1, .32, -1, -.32, -.32, -.32)],
    "bar": [_corners(-1, -.45, 1, -.45, 1, .45, -1, .45)],
    "heart": [_heart()],
    "hexagon": [_polar([1.0] * 6, start=0.0)],
    "crescent": [_crescent()],
    "arrow": [_corners(0, -1, .85, -.1, .33, -.1, .33, 1, -.33, 1, -.33, -.1, -.85, -.1)],
    "trefoil": [_polar([0.66 + 0.34 * math.cos(3 * (2 * math.pi * i / 36)) for i in range(36)])],
    "diamond": [_corners(0, -1, .6, 0, 0, 1, -.6, 0)],
    "tee": [_corners(-.85, -.9, .85, -.9, .85, -.3, .3, -.3, .3, .95, -.3, .95, -.3, -.3, -.85, -.3)],
    "gear": [_polar([1.0, 1.0, 0.7, 0.7] * 8, start=-84.4)],
    "pair": [_polar([0.46] * 16) + (-.52, 0), _polar([0.46] * 16) + (.52, 0)],
    "hourglass": [_corners(-.75, -.95, .75, -.95, .14, 0, .75, .95, -.75, .95, -.14, 0)],
    "ell": [_corners(-.75, -.9, -.15, -.9, -.15, .35, .8, .35, .8, .9, -.75, .9)],
    "drop": [_drop()],
}  # fmt: skip
# scaled so that the farthest corner is at radius 1
SHAPES = {name: [part / max(np.hypot(*p.T).max() for p in parts) for part in parts] for name, parts in _RAW.items()}
LOOKS = len(SHAPES) * len(COLOURS) * len(TEXTURES)


@dataclass(frozen=True)
class Look:
    """The appearance of a class; its name is the class's name."""

    shape: str
    colour: str
    texture: str

    @property
    def name(self) -> str:
        return f"{self.texture}_{self.colour}_{self.shape}"


def look(k: int) -> Look:
    """The k-th look, 0 <= k < LOOKS; all are different."""
    shapes, colours, textures = len(SHAPES), len(COLOURS), len(TEXTURES)
    # (k mod 18, k mod 12) repeats after 36: each round of 36 shifts the colour, each sixth the texture
    rounds = k // (shapes * colours // math.gcd(shapes, colours))
    repeats = math.gcd(shapes, colours)
    return Look(
        list(SHAPES)[k % shapes],
        list(COLOURS)[(k + rounds % repeats) % colours],
        TEXTURES[(k + rounds // repeats) % textures],
    )


def place(rng: np.random.Generator, count: int, width: int, height: int) -> np.ndarray:
    """Centres and radii of ``count`` objects with little overlap, largest first.

    Returns:
        float array (count, 3): x, y, radius in pixels; each disc lies inside the image.
    """
    side = min(width, height)
    least = max(0.11 * side, LEAST_RADIUS)
    radii = np.sort(least * (max(0.32 * side, least) / least) ** rng.random(count))[::-1]
    done = np.empty((count, 3))
    for i, radius in enumerate(radii):
        tries = radius + rng.random((12, 2)) * (np.array([width, height]) - 2 * radius)
        others = done[:i]
        apart = np.hypot(tries[:, None, 0] - others[:, 0], tries[:, None, 1] - others[:, 1])
        # overlap as a fraction of the smaller (this) disc's diameter; the first try with the smallest one
        overlap = ((radius + others[:, 2] - apart) / (2 * radius)).clip(0).max(axis=1, initial=0.0)
        done[i] = (*tries[int(np.argmin(overlap))], radius)
    return done


def outline(rng: np.random.Generator, shape: str, x: float, y: float, radius: float) -> list[np.ndarray]:
    """The shape at this place, rotated by up to 20 degrees: an (n, 2) array with two decimals per part."""
    angle = math.radians(rng.uniform(-20, 20))
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    return [np.round(part @ turn * radius + (x, y), 2) for part in SHAPES[shape]]


def _pattern(texture: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """The fraction of the second tone at (u, v), both in units of the object's radius."""
    if texture == "striped":
        return (np.floor((u + v) * 2.2) % 2 == 0).astype(float)
    if texture == "checked":
        return ((np.floor(u * 2.2) + np.floor(v * 2.2)) % 2 == 0).astype(float)
    if texture == "dotted":
        return ((u * 2 % 1 - 0.5) ** 2 + (v * 2 % 1 - 0.5) ** 2 < 0.09).astype(float)
    if texture == "ringed":
        return (np.floor(np.sqrt(u * u + v * v) * 4) % 2 == 1).astype(float)
    if texture == "shaded":
        return np.clip(0.5 + 0.6 * v, 0, 1)
    return np.zeros_like(u)


def paint(rng: np.random.Generator, image: np.ndarray, mask: np.ndarray, look: Look, x: float, y: float,
          radius: float) -> None:
    """Fill ``mask`` (uint8, height x width) in ``image`` (uint8 RGB) with the look's colour and texture."""
    tone = np.clip(np.array(COLOURS[look.colour]) * rng.uniform(0.88, 1.06) + rng.uniform(-8, 8, 3), 0, 255)
    # decided by the class's colour: by the tone, some objects of a class would be darkened and others lightened
    second = tone * 0.5 if sum(COLOURS[look.colour]) > 300 else tone + (255 - tone) * 0.5
    left, top = max(int(x - radius) - 1, 0), max(int(y - radius) - 1, 0)
    window = np.s_[top : int(y + radius) + 2, left : int(x + radius) + 2]
    inside = mask[window].astype(bool)
    rows, columns = np.nonzero(inside)
    share = _pattern(look.texture, (columns + left + 0.5 - x) / radius, (rows + top + 0.5 - y) / radius)
    image[window][inside] = np.rint(tone + share[:, None] * (second - tone)).astype(np.uint8)


def background(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Clutter without objects: muted blotches, streaks and specks, uint8 RGB (height, width, 3)."""
    coarse = rng.integers(60, 180, (6, 6, 1)) + rng.integers(-22, 23, (6, 6, 3))
    # INTER_LINEAR_EXACT uses integer arithmetic: the same bytes on every processor
    image = cv2.resize(coarse.astype(np.uint8), (width, height), interpolation=cv2.INTER_LINEAR_EXACT)
    for _ in range(int(rng.integers(5, 12))):
        grey = int(rng.integers(50, 190))
        colour = tuple(int(c) for c in grey + rng.integers(-20, 21, 3))
        ends = rng.integers(0, (width, height), (3, 2))
        if rng.random() < 0.5:
            thick = int(rng.integers(1, 3))
            cv2.line(image, ends[0].tolist(), ends[1].tolist(), colour, thick)
        else:  # a shard: three points close to each other
            shard = ends[0] + (ends[1:] - ends[0]) // 4
            cv2.fillPoly(image, [np.vstack([ends[:1], shard]).astype(np.int32)], colour)
    specks = rng.integers(-14, 15, (height, width, 1), dtype=np.int16)
    return np.clip(image + specks, 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Instance:
    """One drawn object; ``segmentation`` is in COCO's format, alternating x and y for each part."""

    segmentation: list[list[float]]
    area: float  # pixels of the polygons, rasterised as in lvis-api and mmdet
    bbox: list[float]  # x, y, width, height


def draw(rng: np.random.Generator, width: int, height: int, looks: list[Look]) -> tuple[np.ndarray, list[Instance]]:
    """An image with one object for each of ``looks``.

    If two overlap, the smaller one is in front; polygons cover the whole object, including its hidden part.

    Returns:
        The image, uint8 RGB (height, width, 3), and the instances in the order of ``looks``.
    """
    image = background(rng, width, height)
    instances: list[Instance | None] = [None] * len(looks)
    painted = rng.permutation(len(looks))  # else the first class would always be the largest
    for which, (x, y, radius) in zip(painted, place(rng, len(looks), width, height)):
        parts = outline(rng, looks[which].shape, x, y, radius)
        segmentation = [[float(f"{value:.2f}") for value in part.ravel()] for part in parts]
        mask = mask_api.decode(mask_api.merge(mask_api.frPyObjects(segmentation, height, width)))
        paint(rng, image, mask, looks[which], x, y, radius)
        low = np.min([part.min(axis=0) for part in parts], axis=0)
        high = np.max([part.max(axis=0) for part in parts], axis=0)
        bbox = [round(float(value), 2) for value in (*low, *(high - low))]
        instances[which] = Instance(segmentation, float(mask.sum()), bbox)
    soft = cv2.GaussianBlur(image, (3, 3), 0)
    return soft, [instance for instance in instances if instance is not None]
