"""The report of a run on own folders: its numbers from hand-made results, its page as a browser reads it."""

from __future__ import annotations

import math
import os
import re
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from bs4 import BeautifulSoup
from PIL import Image, ImageDraw

from asg import AsgError, own, own_recipes, report
from asg.config import RunConfig, make_config
from asg.data.images import Domains, ImageSet
from asg.report import figures, pictures, tables, warnings

MADE_BY = {"versions": {"python": "3.11"}, "platform": "Linux", "cpu": "DEFAULT", "commit": None}
ODD = ("<b>|&", b"b\xf6t".decode("utf-8", "surrogateescape"), "tasse ☕", "$x_1$ {{ 1 }}")


def images(labels: list[int], classes: tuple[str, ...], names: list[str] | None = None) -> ImageSet:
    def decode(i: int) -> np.ndarray:
        return np.full((32, 32, 3), 10 * (i % 20), np.uint8)

    paths = names or [f"photos/{i}.png" for i in range(len(labels))]
    return ImageSet(decode, torch.tensor(labels), classes, tuple(paths), "by hand")


def domains(classes: tuple[str, ...], labels: list[int] | None, held: int = 30, names: list[str] | None = None):
    target = None if labels is None else images(labels, classes, names)
    validation = images([i % len(classes) for i in range(held)], classes)
    return Domains(images(list(range(len(classes))) * 20, classes), validation, target)


def settings(**overrides: object) -> RunConfig:
    return make_config(own_recipes.PROFILES["classification"], {"source": "renders", "target": "photos", **overrides})


def result(predicted: list[int] | None, overall: tuple[float, ...] = (0.3, 0.6, 0.8), validation: float = 0.9) -> dict:
    """Three evaluations, at steps 0, 100 and 200."""
    evaluations = []
    for k, share in enumerate(overall):
        numbers = {
            "step": 100 * k, "validation": validation if k else 0.33, "validation_loss": 0.5, "kl": 0.1 * k,
            "drift": {"stem": 0.001 * k, "blocks.0": 0.002 * k},
        }  # fmt: skip
        if predicted is not None:
            numbers |= {"accuracy": share, "overall": share, "agreement": 1 - 0.1 * k, "per_class": {}}
        evaluations.append(numbers)
    final = evaluations[-1]
    if predicted is not None:
        final |= {
            "predicted": predicted,
            "confidence": [round(0.5 + 0.4 * math.sin(i), 4) for i in range(len(predicted))],
        }
    return {"evaluations": evaluations, "final": final, "steps": 200, "seconds": 12.0, "device": "cpu"}


def page(done: dict, config: RunConfig, data: Domains) -> BeautifulSoup:
    return BeautifulSoup(report.page(done, config, data, MADE_BY), "html.parser")


def words(soup: BeautifulSoup) -> str:
    return re.sub(r"\s+", " ", soup.get_text(" "))


def table(soup: BeautifulSoup, label: str) -> list[list[str]]:
    """The cells of the body of a table."""
    rows = soup.find(attrs={"aria-label": label}).select("tbody tr")
    return [[cell.get_text(strip=True) for cell in row.find_all(["th", "td"])] for row in rows]


LOADS = ("src", "srcset", "href", "xlink:href", "action", "formaction", "data", "poster", "background", "ping")


def outside(soup: BeautifulSoup) -> list[str]:
    """What a page would ask for elsewhere, or would run."""
    asked = [str(tag) for tag in soup.find_all(["script", "iframe", "object", "embed", "base", "form"])]
    for tag in soup.find_all(True):
        asked += [f"{k}={tag[k]}" for k in LOADS if tag.has_attr(k) and not tag[k].startswith(("#", "data:"))]
        asked += [name for name in tag.attrs if name.startswith("on")]
        style = tag.get_text() if tag.name == "style" else " ".join(map(str, tag.attrs.values()))
        asked += [url for url in re.findall(r"url\(\s*['\"]?([^)]*)", style) if not url.startswith(("#", "data:"))]
        asked += re.findall(r"@import.*", style)
    return asked


def test_the_check_for_what_is_outside_finds_it():
    html = (
        '<script>1</script><img src="http://a/b.png"><svg><use xlink:href="#a"/></svg><p style="background:url(x.png)">'
        '<style>@import "y.css"; b {fill: url(#c)}</style><link href="z.css"><img src="data:," onerror="1">'
    )
    assert len(outside(BeautifulSoup(html, "html.parser"))) == 6


@pytest.mark.parametrize(("right", "n"), [(0, 7), (7, 7), (3, 10), (97, 120)])
def test_the_interval_is_wilsons(right: int, n: int):
    z, p = 1.959963984540054, right / n
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    expected = [(centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)]
    assert warnings.wilson(right, n) == pytest.approx(expected, abs=1e-12)


def chance(right: int, n: int, classes: int) -> float:
    """Probability of that many right answers or more, summed up."""
    return sum(math.comb(n, k) * (classes - 1) ** (n - k) for k in range(right, n + 1)) / classes**n


@pytest.mark.parametrize(("n", "classes"), [(30, 3), (20, 2), (300, 100), (6, 3)])
def test_guessing_ends_where_the_binomial_test_says(n: int, classes: int):
    held = images([i % classes for i in range(n)], tuple(map(str, range(classes))))
    for right in range(n + 1):
        assert warnings.is_guessing(right / n, held) == (chance(right, n, classes) > 0.01), right


def test_of_unequal_classes_fewer_images_count_and_of_too_few_nothing_is_said():
    held = images([0] * 90 + [1] * 5, ("a", "b"))
    effective = round(4 / (1 / 90 + 1 / 5))  # 19
    first = next(k for k in range(effective) if chance(k, effective, 2) <= 0.01)
    assert warnings.is_guessing((first - 1) / effective, held) and not warnings.is_guessing(first / effective, held)
    assert chance(3, 3, 3) > 0.01 and not warnings.is_guessing(0.0, images([0, 1, 2], ("a", "b", "c")))


def test_a_row_a_class_has_its_interval_and_its_commonest_mistake_the_worst_first():
    confusion = torch.tensor([[5, 0, 3, 2], [0, 4, 0, 0], [6, 1, 1, 2], [0, 0, 0, 0]])
    rows = tables.class_rows(confusion, ("apple", "boat", "cup", "dog"))
    values = [(r.name, r.images, r.right, r.mistaken_for, r.times) for r in rows]
    assert values == [
        ("cup", 10, 1, "apple", 6), ("apple", 10, 5, "cup", 3), ("boat", 4, 4, None, 0), ("dog", 0, 0, None, 0)
    ]  # fmt: skip
    assert rows[0].interval == warnings.wilson(1, 10) and rows[-1].interval is None


def test_the_matrix_of_a_few_classes_is_whole_and_of_many_its_worst():
    confusion = torch.tensor([[3, 1], [0, 0]])
    few = tables.shown_matrix(confusion, ("a", "b"))
    assert few.complete and few.columns == ["a", "b"]
    assert few.rows == [("a", [tables.Cell(3, 0.75, True), tables.Cell(1, 0.25, False)])]  # b has no images
    many = torch.diag(torch.full((100,), 10))
    many[40, [2, 41]], many[7, 8] = torch.tensor([5, 20]), 3
    matrix = tables.shown_matrix(many, tuple(map(str, range(100))))
    assert (
        not matrix.complete
        and len(matrix.columns) == tables.WORST + 1
        and {"7", "40"} <= {name for name, _ in matrix.rows}
    )
    assert all(sum(c.images for c in cells) == int(many[int(name)].sum()) for name, cells in matrix.rows)
    assert tables.confused_pairs(many, tuple(map(str, range(100)))) == [
        ("40", "41", 20, 35), ("40", "2", 5, 35), ("7", "8", 3, 13)
    ]  # fmt: skip


def test_the_surest_mistakes_come_first_and_no_image_twice():
    labels = [0] * 20 + [1] * 20
    target = images(labels, ("a", "b"), [f"photos/x/{i}.png" for i in range(40)])
    predicted = [1 - y if i % 2 else y for i, y in enumerate(labels)]
    final = {"predicted": predicted, "confidence": [0.5 + i / 100 for i in range(40)]}
    groups = pictures.examples(final, target, "photos")
    wrong, unsure, right = groups.values()
    assert [one.file for one in wrong] == [f"x/{i}.png" for i in range(39, 15, -2)]
    assert [one.file for one in unsure] == [f"x/{i}.png" for i in range(6)]
    assert [one.truth for one in right] == ["b", "a"] * 3
    assert [one.file for one in right[:3]] == ["x/38.png", "x/18.png", "x/36.png"]
    assert all(one.truth == one.answer for one in right)


def test_a_picture_whose_file_is_gone_is_its_name():
    data = domains(("a", "b"), [0, 1] * 10)

    def gone(i: int) -> np.ndarray:
        raise AsgError("gone")

    data = replace(data, target=replace(data.target, decode=gone))
    soup = page(result([0, 1] * 10), settings(), data)
    assert not soup.select(".gallery img")
    texts = [one.get_text() for one in soup.select(".gallery .gone")]
    assert len(texts) == 12 and all(re.fullmatch(r"\d+\.png cannot be read any more", line) for line in texts)


ENOUGH = [0, 1, 2] * 20


def test_a_good_run_has_no_warning():
    assert warnings.warnings_of(result(ENOUGH, (0.3, 0.85, 0.8)), settings(), domains(("a", "b", "c"), ENOUGH)) == []


@pytest.mark.parametrize(
    ("sentence", "done", "labels", "held"),
    [
        ("no better than guessing among 3 classes", result(ENOUGH, validation=0.4), ENOUGH, 30),
        ("and 90.0% were at step 100: choosing a step by them would be an oracle", result(ENOUGH, (0.3, 0.9, 0.5)), ENOUGH, 30),
        ("Only 29 synthetic images are held out", result(ENOUGH), ENOUGH, 29),
        ("Fewer than 10 target images show c (9):", result([0, 1] * 20 + [2] * 9), [0, 1] * 20 + [2] * 9, 30),
        ("Every target image is answered 'b'", result([1] * 60), ENOUGH, 30),
    ],
)  # fmt: skip
def test_what_a_reader_must_know_is_one_warning_in_both_pages(sentence: str, done: dict, labels: list[int], held: int):
    data = domains(("a", "b", "c"), labels, held)
    (warning,) = warnings.warnings_of(done, settings(), data)
    assert sentence in warning and warning.endswith(".") and warning.count(". ") == 0
    assert f"\nwarning: {warning}\n" in report.markdown(done, settings(), data)
    assert warning in words(page(done, settings(), data).find(attrs={"aria-label": "Warnings"}))


def test_many_rare_classes_are_counted():
    classes = tuple(f"c{k}" for k in range(8))
    (warning,) = warnings.few(images(list(range(8)), classes))
    assert "c0 (1), c1 (1), c2 (1), c3 (1), c4 (1) and 3 more" in warning


def test_the_early_warning_is_said_once_between_start_and_end(caplog):
    watching = warnings.watch(settings(steps=100), domains(("a", "b", "c"), None))
    for step, accuracy in ((0, 0.33), (25, 0.9), (50, 0.4), (75, 0.4), (100, 0.4)):
        watching({"step": step, "validation": accuracy})
        assert len(caplog.messages) == (step >= 50)
    assert caplog.messages[0].startswith("early warning: at step 50 of 100 held-out accuracy is 40.0% on 30 images")
    caplog.clear()
    watching = warnings.watch(settings(steps=100), domains(("a", "b", "c"), None))
    for step in (0, 100):
        watching({"step": step, "validation": 0.3})
    assert caplog.messages == []


def test_odd_names_are_escaped_and_nothing_is_asked_for_elsewhere():
    labels = [0, 1, 2, 3] * 12
    names = [f"photos/{ODD[y]}/{i} <i>.png" for i, y in enumerate(labels)]
    data = domains(ODD, labels, names=names)
    html = report.page(result([0, 0, 2, 3] * 12), settings(), data, MADE_BY)
    html.encode("utf-8")  # no half of a character is left
    soup = BeautifulSoup(html, "html.parser")
    assert outside(soup) == [] and not soup.find("i")
    names = ["<b>|&", r"b\xf6t", "tasse ☕", "$x_1$ {{ 1 }}"]
    assert sorted(row[0] for row in table(soup, "Class by class")) == sorted(names)
    assert table(soup, "Class by class")[0] == [r"b\xf6t", "12", "0.0%", "0.0% – 24.2%", "<b>|& (12)"]
    assert r"b\xf6t/1 <i>.png" in words(soup)
    assert [row[0] for row in table(soup, "Confusion matrix")] == names
    assert table(soup, "Confusion matrix")[1][1:] == ["12", "", "", ""]
    assert len(soup.select(".gallery img[src^='data:image/jpeg;base64,']")) == 24


def test_a_hundred_classes_are_shown_by_their_worst():
    classes = tuple(f"class {k}" for k in range(100))
    labels = list(range(100)) * 3
    predicted = [(y + (y % 10 == 0)) % 100 for y in labels]
    soup = page(result(predicted), settings(), domains(classes, labels, 200))
    assert len(table(soup, "Class by class")) == 100
    assert len(table(soup, "Confusion matrix")) == tables.WORST and outside(soup) == []
    assert table(soup, "The most frequent mistakes")[0] == ["class 0", "class 1", "3", "3"]


def test_the_first_sentence_says_what_was_reached_of_how_many_images():
    answer = words(page(result(ENOUGH), settings(), domains(("a", "b", "c"), ENOUGH)).select_one(".answer"))
    assert "On 30 held-out synthetic images the model reaches 90.0% (33.0% before training)" in answer
    assert "on 60 real target images 80.0% (30.0% before training)" in answer


def test_without_a_labelled_target_its_sections_are_left_out():
    soup = page(result(None), settings(target=None), domains(("a", "b"), None))
    assert not soup.select(".gallery") and soup.find(attrs={"aria-label": "Confusion matrix"}) is None
    assert "target" not in words(soup.select_one("header")) and len(soup.select(".figures figure")) == 2
    assert outside(soup) == [] and soup.find("h2", string="Does guidance pay here?") is None


def test_what_was_measured_of_the_synthetic_images_is_shown():
    done = result(None)
    looks = {"grey": {"accuracy": 0.75, "loss": 0.625}, "edges": {"accuracy": 0.5, "loss": 1.25}}
    done["final"] |= {"looks": looks, "entropy": 3.5, "information": 0.25, "imagenet": 0.5}
    soup = page(done, settings(signals=True), domains(("a", "b"), None))
    assert ["held-out images, edges", "50.0%", "1.250"] in table(soup, "Does guidance pay here?")
    assert "an entropy of 3.500 nats and share 25.0% of the information" in words(soup)
    assert ["right ImageNet class, target images (real) that have one", "–", "50.0%"] in table(
        soup, "What is left of the ImageNet network"
    )


def test_an_adaptation_shows_the_pseudo_labels_of_every_round():
    done = result(None)
    for evaluation, number in zip(done["evaluations"], (1, 1, 2), strict=True):
        evaluation |= {"round": number, "labelled": [number, 4], "thresholds": [0.5, 0.25 * number], "pseudo": [0, 1]}
    soup = page(done, settings(target=None, adapt={"rounds": 2}), domains(("a", "b"), None))
    assert table(soup, "Pseudo-labels") == [["a", "1", "0.500", "2", "0.500"], ["b", "4", "0.250", "4", "0.500"]]
    assert "before adaptation" in words(soup) and "before training" not in words(soup)


def test_equal_numbers_give_equal_bytes_whatever_matplotlib_is_set_to():
    given = result(ENOUGH), settings(), domains(("a", "b", "c"), ENOUGH), MADE_BY
    before = report.page(*given)
    with matplotlib.rc_context({"font.size": 30, "svg.hashsalt": "other", "axes.spines.top": True}):
        assert report.page(*given) == before
        assert matplotlib.rcParams["font.size"] == 30
    ids = re.findall(r'\bid="([^"]+)"', before)
    assert len(ids) == len(set(ids)) > 0


@pytest.mark.parametrize("moved", [0.0, -1e-9, 1e-9])
def test_a_network_that_has_not_moved_is_drawn(moved: float):
    done = result(None)
    for evaluation in done["evaluations"]:
        evaluation |= {"kl": moved, "drift": {"all": abs(moved)}}
    assert len(page(done, settings(), domains(("a", "b"), None)).select("figure.figure svg")) == 3


def test_a_network_between_two_is_a_point_of_its_own():
    done = result(ENOUGH)
    done["evaluations"].append({**done["final"], "validation": 0.7})
    done["final"] = done["evaluations"][-1]
    plain, between = (
        figures.curves({**done, "evaluations": done["evaluations"][:n]}, figures.ACCURACY)[0].svg for n in (3, 4)
    )
    assert between.count("<use ") > plain.count("<use ")  # markers
    assert outside(page(done, settings(interpolate=0.5), domains(("a", "b", "c"), ENOUGH))) == []


def drawn(folder: Path, count: int) -> Path:
    """Three classes of shapes on plain grounds."""
    for name, sides in (("disc", 0), ("triangle", 3), ("box", 4)):
        (folder / name).mkdir(parents=True)
        for k in range(count):
            image = Image.new("RGB", (64, 64), (40 + 9 * k % 90, 60, 90))
            draw, circle = ImageDraw.Draw(image), (30 + k % 5, 32, 18 + k % 6)
            if sides:
                draw.regular_polygon(circle, sides, rotation=3 * k, fill=(230, 200, 40))
            else:
                x, y, r = circle
                draw.ellipse((x - r, y - r, x + r, y + r), fill=(230, 200, 40))
            image.save(folder / name / f"{k:02}.png")
    return folder


def test_a_training_writes_a_page_that_a_browser_can_read_alone(workplace, tmp_path: Path, caplog):
    out = workplace.data / "model"
    settings = {
        "backbone": "timm:test_efficientnet", "weights": "random", "size": 64, "head_width": 8, "steps": 30,
        "batch": 4, "warmup": 2, "evaluations": 3, "signals": True, "lr": 1e-6,
    }  # fmt: skip
    renders, photos = drawn(tmp_path / "renders", 30), drawn(tmp_path / "photos", 4)
    (photos / "disc" / "00.png").rename(photos / "disc" / os.fsdecode(b"b\xf6.png"))
    done = own.model_of(renders, photos, out, settings, "cpu")
    soup = BeautifulSoup((out / "report.html").read_text("utf-8"), "html.parser")
    assert outside(soup) == []
    rows = {row[0]: row for row in table(soup, "Class by class")}
    assert {name: f"{a:.1%}" for name, a in done["final"]["per_class"].items()} == {k: r[2] for k, r in rows.items()}
    matrix = table(soup, "Confusion matrix")
    assert [sum(int(n or 0) for n in row[1:]) for row in matrix] == [4, 4, 4]
    files = {Path(figure["title"].rpartition(", ")[2]) for figure in soup.select(".gallery figure")}
    assert len(files) == 12 and Path(r"disc/b\xf6.png") in files
    assert "Does guidance pay here?" in words(soup) and len(soup.select("figure.figure svg")) == 4
    early = [line for line in caplog.messages if line.startswith("early warning: at step 10 of 30")]
    assert len(early) == 1, "at this rate nothing is learned"
    assert "warning: Only 9 synthetic images" in (out / "report.md").read_text("utf-8")
