"""The handwritten digits that come with the package: 1,797 gray images of 8 by 8, ten classes.

E. Alpaydin and C. Kaynak (1998), "Optical Recognition of Handwritten Digits", UCI Machine Learning
Repository, doi 10.24432/C50P49, licence CC BY 4.0. This is the test portion, values unchanged.
"""

from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
import numpy.typing as npt

from convc.errors import InputError


@dataclass(frozen=True)
class Digits:
    """Images [n, 1, 8, 8] in [0, 1] and labels [n] in 0..9, for training and held out."""

    train_images: npt.NDArray[np.floating[Any]]
    train_labels: npt.NDArray[np.int64]
    test_images: npt.NDArray[np.floating[Any]]
    test_labels: npt.NDArray[np.int64]


def load_digits(dtype: npt.DTypeLike = np.float32, seed: int = 0, held_out: float = 0.2) -> Digits:
    """The digits, split at random but the same way for the same `seed`.

    The first round(held_out · 1797) images of `default_rng(seed).permutation(1797)` are held out:
    359 of them by default, which leaves 1,438 to train on. Raises ``InputError`` for another
    `held_out`.
    """
    if not 0.0 <= held_out < 1.0:
        raise InputError(f"held_out is a fraction in [0, 1), not {held_out}")
    with files(__package__).joinpath("digits.npz").open("rb") as file, np.load(file) as arrays:
        images = (arrays["images"][:, None] / 16.0).astype(dtype, order="C")
        labels = arrays["labels"].astype(np.int64)
    order = np.random.default_rng(seed).permutation(len(labels))
    test, train = np.split(order, [round(held_out * len(labels))])
    return Digits(images[train], labels[train], images[test], labels[test])
