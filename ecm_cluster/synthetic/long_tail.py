"""The frequencies of classes: Zipf distribution, LVIS's frequency groups, and the assignment of classes to images."""

from __future__ import annotations

import numpy as np

MOST_CLASSES = 5  # in an image
CLASSES_PER_IMAGE = 2.5  # on average


def frequency(images: int) -> str:
    """LVIS's group of a class by its number of training images: r(are) to 10, c(ommon) to 100, f(requent) above.

    Source: Gupta, Dollar, Girshick, LVIS (CVPR 2019), section 3.
    """
    return "r" if images <= 10 else "c" if images <= 100 else "f"


def image_counts(classes: int, images: int, least: int) -> np.ndarray:
    """The number of images of each class, in decreasing order: Zipf-Mandelbrot, (rank + 4) to a power.

    The power is chosen so that images have ``CLASSES_PER_IMAGE`` classes on average; the rarest class has ``least``
    images, and no class has more than 60 % of all images.

    Returns:
        int array (classes,), non-increasing.
    """
    rank = np.arange(1, classes + 1) + 4.0
    low, high = 0.0, 8.0
    counts = np.full(classes, float(least))
    for _ in range(40):  # bisections: 8 / 2**40 changes no rounded count
        power = (low + high) / 2
        counts = np.clip(least * (rank[-1] / rank) ** power, least, max(least, 0.6 * images))
        low, high = (power, high) if counts.sum() < images * CLASSES_PER_IMAGE else (low, power)
    return np.rint(counts).astype(int)


def assign(rng: np.random.Generator, counts: np.ndarray, images: int) -> list[list[int]]:
    """The classes of each image: class c in ``counts[c]`` images, one to ``MOST_CLASSES`` per image.

    An image that would be empty shows the most frequent class, which may thus exceed its count.
    """
    shown: list[list[int]] = [[] for _ in range(images)]
    load = np.zeros(images, dtype=int)
    for c in np.argsort(-counts, kind="stable"):
        # prefer images with few classes, with enough noise to mix classes
        key = np.where(load < MOST_CLASSES, load + 2 * rng.random(images), np.inf)
        chosen = np.argsort(key, kind="stable")[: counts[c]]
        load[chosen] += 1
        for i in chosen:
            shown[i].append(int(c))
    top = int(np.argmax(counts))
    return [classes or [top] for classes in shown]
