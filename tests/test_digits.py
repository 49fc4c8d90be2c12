"""The digits of another domain: printed, written, whole and repeatable."""

import numpy as np
import pytest
import torch
from PIL import ImageFont
from sklearn.datasets import load_digits

from asg.data import digits


@pytest.fixture(scope="module")
def domains():
    return digits.load(48)


def test_every_font_draws_ten_different_digits():
    assert len(digits.fonts()) > 15
    for font in digits.fonts():
        face = ImageFont.truetype(str(font), 40)
        drawn = {bytes(face.getmask(c)) for c in digits.CLASSES}
        assert len(drawn) == 10 and all(any(glyph) for glyph in drawn), font


def test_the_fonts_of_validation_are_not_trained_on(domains):
    trained, held = ({name.split()[0] for name in s.names} for s in (domains.source, domains.validation))
    assert trained and held and not trained & held
    assert len(trained) + len(held) == len(digits.fonts())


def test_renders_of_a_font_are_one_cluster(domains):
    for images, copies in ((domains.source, digits.PER_FONT), (domains.validation, digits.PER_HELD_OUT)):
        fonts = {cluster: {n.split()[0] for n, c in zip(images.names, images.cluster.tolist(), strict=True) if c == cluster}
                 for cluster in images.cluster.unique().tolist()}  # fmt: skip
        assert all(len(names) == 1 for names in fonts.values())
        assert len(set.union(*fonts.values())) == len(fonts)
        assert images.cluster.bincount().tolist() == [10 * copies] * len(fonts)
    assert domains.target.cluster is None


def test_classes_are_even_on_the_printed_side_and_labels_are_what_is_drawn(domains):
    for images in (domains.source, domains.validation):
        assert len(set(torch.bincount(images.labels).tolist())) == 1
        assert all(int(y) == int(name.split()[1]) for y, name in zip(images.labels, images.names, strict=True))


def test_the_handwriting_is_scikit_learns(domains):
    known = load_digits()
    for k in (0, 299, 599):
        i = int(domains.target.names[k].split()[1])
        assert int(domains.target.labels[k]) == known.target[i]
        coarse = domains.target.decode(k)[::6, ::6, 0].astype(float)
        assert np.corrcoef(coarse.ravel(), known.images[i].ravel())[0, 1] > 0.7
    assert len(domains.target) == digits.PHOTOS == len(set(domains.target.names))


def test_an_image_is_the_same_whenever_it_is_drawn(domains):
    again = digits.load(48)
    for i in (700, 3, 1200):
        assert np.array_equal(domains.source.decode(i), again.source.decode(i))
    assert domains.fingerprint == again.fingerprint != digits.load(64).fingerprint


def test_a_mirrored_digit_is_no_digit(domains):
    assert not domains.mirror and domains.imagenet_classes is None
