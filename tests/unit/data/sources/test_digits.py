"""The digits of scikit-learn."""

import subprocess
import sys

import numpy as np
from sklearn.datasets import load_digits

from simfl.data import Digits


def test_digits_are_the_1797_images_of_8_by_8_in_unit_range():
    data = Digits().load(seed=0)
    assert data.train.inputs.shape == (1797, 1, 8, 8)
    assert data.train.inputs.dtype == np.float32
    assert data.train.inputs.min() == 0
    assert data.train.inputs.max() == 1
    assert data.test is None


def test_the_first_image_is_a_zero():
    """The first line of the data set begins 0, 0, 5, 13, 9, 1, 0, 0 of 16, and is a zero."""
    train = Digits().load(seed=0).train
    assert (train.inputs[0, 0, 0] * 16).tolist() == [0, 0, 5, 13, 9, 1, 0, 0]
    assert train.targets[:10].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert train.targets.dtype == np.int64


def test_digits_are_those_of_scikit_learn():
    ours, theirs = Digits().load(seed=0).train, load_digits()
    assert np.array_equal(ours.inputs[:, 0] * 16, theirs.images)
    assert np.array_equal(ours.targets, theirs.target)


def test_loading_them_does_not_import_scikit_learn():
    script = "import sys; from simfl.data import Digits; Digits().load(seed=0); "
    script += "assert 'sklearn' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)
