"""Pictures of what clients hold, looked at pixel by pixel."""

from __future__ import annotations

import numpy as np

from simfl.data import Examples, FederatedDataset
from simfl.report.population import _merge_rare, draw_population


def dataset(targets, sizes, *, holdout=0, test=None, names=()):
    """Build a data set of consecutive rows; each client keeps `holdout` of them."""
    offsets = np.cumsum([0, *sizes])
    targets = np.asarray(targets)
    return FederatedDataset(
        train=Examples(np.zeros((len(targets), 1), np.float32), targets),
        rows=np.arange(offsets[-1]),
        offsets=offsets,
        holdout_offsets=offsets[1:] - holdout,
        test=test,
        class_names=names,
    )


def test_the_classes_that_are_rarest_are_drawn_together():
    """22 classes, class k with k + 1 examples: the three rarest, 1 + 2 + 3, are one bar."""
    counts, names = _merge_rare(np.arange(1, 23)[np.newaxis], [str(k) for k in range(22)])
    assert names == [*map(str, range(3, 22)), "3 others"]
    assert counts.tolist() == [[*range(4, 23), 6]]


def pixels(path):
    from matplotlib.image import imread

    return imread(path)


def colours(path):
    """Return the colours that fill more than a hundredth of the picture."""
    flat = (pixels(path)[:, :, :3] * 255).round().astype(int).reshape(-1, 3)
    found, counts = np.unique(flat, axis=0, return_counts=True)
    return {tuple(colour) for colour in found[counts > len(flat) / 100].tolist()}


BLUE, ORANGE, RED = (0x4E, 0x79, 0xA7), (0xF2, 0x8E, 0x2B), (0xE1, 0x57, 0x59)


def test_the_picture_shows_each_class_in_its_colour(tmp_path):
    path = tmp_path / "skew.png"
    draw_population(dataset([0, 0, 1, 1, 1, 2], [3, 3], names=("a", "b", "c")), path)
    assert colours(path) >= {BLUE, ORANGE, RED}
    assert pixels(path).shape[1] == 1440


def test_one_class_is_drawn_in_one_colour(tmp_path):
    path = tmp_path / "skew.png"
    draw_population(dataset(np.zeros(50, int), [1] * 50), path)
    assert colours(path) & {BLUE, ORANGE, RED} == {BLUE}


def test_numbers_to_predict_have_a_histogram_only(tmp_path):
    path = tmp_path / "skew.png"
    draw_population(dataset(np.linspace(0, 1, 300), [1, 9, 90, 200]), path)
    assert colours(path) == {BLUE, (255, 255, 255)}


def test_drawing_leaves_the_state_of_pyplot_alone(tmp_path):
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    draw_population(dataset([0, 1], [1, 1]), tmp_path / "skew.png")
    assert plt.get_fignums() == before
