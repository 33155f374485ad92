"""Small data sets inside scikit-learn: tables and photographs. Nothing is fetched or cached."""

import hashlib

import numpy as np

from celo._errors import CeloError, unknown_name
from celo.data._formats import missing_package
from celo.data._pixels import resize_images
from celo.data._splits import Table, split_tenths

TABLES = {
    # name: (classes or 0, MD5 of the features and then the targets as little-endian float64)
    "breast_cancer": (2, "17c958427217681d16884a147febc48a"),
    "diabetes": (0, "76b2771a1293a3f7a42c6e4c6b6e891f"),
    "wine": (3, "bcac3a3850b7268d9164003b94a66373"),
}
"""Those in scikit-learn: 569 tumours with 30 measurements, benign or malignant; 442 diabetes patients with
10, disease progression after a year; 178 wines with 13, from one of three growers."""

PHOTOGRAPHS = ("china", "flower")
"""A Chinese temple; a dahlia."""

PHOTOGRAPH_PIXELS = 128


def bundled_table(name: str) -> Table:
    """One of `TABLES` in its published units; the splits have eight, one and one tenth of its rows.

    Raises:
      CeloError: scikit-learn is missing or has different numbers.
    """
    try:
        from sklearn import datasets
    except ImportError as error:
        raise missing_package("scikit-learn") from error
    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    classes, expected = TABLES[name]
    content = np.ascontiguousarray(x, "<f8").tobytes() + np.ascontiguousarray(y, "<f8").tobytes()
    if (md5 := hashlib.md5(content, usedforsecurity=False).hexdigest()) != expected:
        raise CeloError(
            f"scikit-learn's {name} has MD5 {md5}, not {expected}: install another version of scikit-learn"
        )
    y = y.astype(np.int32) if classes else y.astype(np.float32)[:, None]
    return Table(*split_tenths(x.astype(np.float32), y), classes)


def load_photograph(name: str) -> np.ndarray:
    """The middle of one of scikit-learn's photographs; uint8 [128, 128, 3].

    Raises:
      CeloError: the name is unknown, or scikit-learn or pillow is missing.
    """
    if name not in PHOTOGRAPHS:
        raise unknown_name("photograph", name, PHOTOGRAPHS)
    try:
        from sklearn.datasets import load_sample_image

        photograph = load_sample_image(f"{name}.jpg")
    except ImportError as error:
        raise missing_package("scikit-learn or pillow") from error
    # The largest square of whole 3 x 3 boxes.
    size = 3 * PHOTOGRAPH_PIXELS
    top, left = (photograph.shape[0] - size) // 2, (photograph.shape[1] - size) // 2
    square = photograph[None, top : top + size, left : left + size]
    return resize_images(square, PHOTOGRAPH_PIXELS, grey=False)[0]
