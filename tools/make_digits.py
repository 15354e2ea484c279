"""Makes kdcache/datasets/digits.npz from scikit-learn's copy of the UCI digits (not a dependency).

pip install scikit-learn && python tools/make_digits.py
"""

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits  # type: ignore[import-not-found, import-untyped, unused-ignore]

digits = load_digits()
np.savez_compressed(
    Path(__file__).parents[1] / "kdcache" / "datasets" / "digits.npz",
    counts_NHW=digits.images.astype(np.uint8),
    labels_N=digits.target.astype(np.uint8),
)
