"""Own folders over time: what a run continues, what names it keeps, what it says of the files."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from bs4 import BeautifulSoup
from PIL import Image
from typer.testing import CliRunner, Result

from asg import AsgError, episodes, model_files, models, own, own_recipes, places, predict, records
from asg.cli import parse_sources
from asg.config import RunConfig, make_config
from asg.controllers.learned import load_policy
from asg.data import folder
from asg.data.images import Draws, Repeated
from asg.metrics import ranked
from asg.trainers import classification, self_training
from asg_book.cli import app
from asg_book.policies import policy_config

TINY = {
    "backbone": "timm:test_efficientnet", "weights": "random", "size": 32, "head_width": 8, "steps": 4, "batch": 4,
    "warmup": 2, "evaluations": 1,
}  # fmt: skip


@pytest.fixture
def stopped(workplace, image_folders) -> Path:
    """A model's folder whose run looks as if it had been stopped."""
    out = workplace.data / "model"
    own.model_of(image_folders.source, image_folders.target, out, TINY, "cpu")
    (out / "checkpoint.pt").write_bytes(b"of a run that was stopped")
    return out


def rename(folders, name: str, to: str) -> None:
    for images in vars(folders).values():
        if (images / name).exists():
            (images / name).rename(images / to)


def test_a_stopped_run_is_not_continued_on_renamed_classes(stopped, image_folders):
    rename(image_folders, "apple", "zebra")
    with pytest.raises(AsgError, match=r"unfinished run of other images and classes: give another --out"):
        own.model_of(image_folders.source, image_folders.target, stopped, TINY, "cpu")


def test_nor_with_another_class(stopped, image_folders):
    (image_folders.source / "dog").mkdir()
    for k in range(3):
        Image.new("RGB", (32, 32), (k, 0, 0)).save(image_folders.source / "dog" / f"{k}.png")
    with pytest.raises(AsgError, match="other images and classes"):
        own.model_of(image_folders.source, image_folders.target, stopped, TINY, "cpu")


def test_nor_with_a_changed_image(stopped, image_folders):
    Image.new("RGB", (32, 32), "red").save(image_folders.target / "cup" / "00.png")
    with pytest.raises(AsgError, match=r"unfinished run of other images: "):
        own.model_of(image_folders.source, image_folders.target, stopped, TINY, "cpu")


def test_nor_where_nothing_can_be_told_of_what_it_was_made_of(stopped, image_folders):
    (stopped / "config.json").write_text("{ no JSON", "utf-8")
    with pytest.raises(AsgError, match="other settings and images and classes: give another --out"):
        own.model_of(image_folders.source, image_folders.target, stopped, TINY, "cpu")


def test_a_rename_during_the_training_does_not_reach_the_names_of_the_model(workplace, image_folders, monkeypatch):
    train = classification.train

    def renaming(*given: object, **named: object) -> tuple:
        done = train(*given, **named)
        rename(image_folders, "apple", "zebra")  # it would be the last class now
        return done

    monkeypatch.setattr(classification, "train", renaming)
    out = workplace.data / "model"
    own.model_of(image_folders.source, image_folders.target, out, {**TINY, "interpolate": 0.5}, "cpu")
    assert model_files.load_model(out)[2] == ("apple", "boat", "cup")


def test_an_adaptation_is_not_continued_from_a_model_that_was_trained_anew(workplace, image_folders, monkeypatch):
    source, target = image_folders.source, image_folders.target
    model, out = workplace.data / "model", workplace.data / "adapted"
    adapt_settings = {"rounds": 1}
    result = own.model_of(source, None, model, TINY, "cpu")
    monkeypatch.setattr(own.self_training, "train", lambda config, folder, start, device: (result, start))
    own.adapt(model, source, target, out, adapt_settings, "cpu")
    (out / "round-1").mkdir()
    (out / "round-1" / "checkpoint.pt").write_bytes(b"of a round that was stopped")
    own.model_of(source, None, model, {**TINY, "steps": 5}, "cpu")
    with pytest.raises(AsgError, match=r"unfinished run of other settings and start: "):
        own.adapt(model, source, target, out, adapt_settings, "cpu")
    photo = next(target.rglob("*.png"))
    Image.new("RGB", (32, 32), "red").save(photo)
    with pytest.raises(AsgError, match="other settings and images and start"):
        own.adapt(model, source, target, out, adapt_settings, "cpu")


def test_what_was_read_and_what_was_left_out_is_said(workplace, image_folders):
    (image_folders.source / "cup" / "a.heic").touch()
    hidden = image_folders.target / "cup" / ".thumbnails"
    hidden.mkdir()
    Image.new("RGB", (8, 8)).save(hidden / "a.png")
    settings = [word for name, value in TINY.items() for word in ("--set", f"{name}={json.dumps(value)}")]
    folders = ["--source", image_folders.source, "--target", image_folders.target, "--out", workplace.data / "model"]
    done = CliRunner().invoke(app, ["train", *map(str, folders), "--device", "cpu", *settings])
    assert done.exit_code == 0, done.output
    source, target = done.stderr.splitlines()[:2]
    assert source == (
        f"source {image_folders.source}: 36 images of 3 classes; left out: 1 × no image that can be read here (.heic)"
    )
    assert target == f"target {image_folders.target}: 8 images of 2 classes; left out: 1 × hidden"


POOR = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}  # ASCII alone, as in a bare container


@pytest.mark.parametrize("name", ["tasse ☕", b"b\xf6t".decode("utf-8", "surrogateescape")], ids=["UTF-8", "Latin-1"])
def test_any_name_is_trained_on_reported_and_predicted_under_a_poor_locale(workplace, image_folders, name: str):
    rename(image_folders, "cup", name)
    out, photo = workplace.data / "model", image_folders.target / name / "00.png"
    settings = [word for field, value in TINY.items() for word in ("--set", f"{field}={json.dumps(value)}")]
    folders = ["--source", image_folders.source, "--target", image_folders.target, "--out", out]
    asg = [sys.executable, "-m", "asg.cli"]
    process = subprocess.run([*asg, "train", *folders, *settings], env={**os.environ, **POOR}, capture_output=True)
    assert process.returncode == 0, process.stderr.decode()
    printed = rb"tasse \u2615" if name.startswith("tasse") else os.fsencode(name)
    assert printed in process.stdout and rb"\u03bb = 0.1" in process.stdout  # a letter that ASCII lacks is an escape
    report = (out / "report.md").read_bytes()
    assert os.fsencode(name) in report and "λ = 0.1".encode() in report
    assert name in model_files.load_model(out)[2]  # read under this locale
    rows = subprocess.run([*asg, "predict", out, photo], env={**os.environ, **POOR}, capture_output=True).stdout
    assert os.fsencode(photo) in rows


def ramps(folder: Path, classes: dict[str, int], count: int, seed: int) -> None:
    """Images that grow brighter from one side to the other, with noise: 1 to the right, −1 to the left."""
    generator = np.random.default_rng(seed)
    for name, direction in classes.items():
        (folder / name).mkdir(parents=True)
        for k in range(count):
            steps = np.linspace(0, 255, 32)[::direction] + generator.normal(0, 8, (32, 32))
            pixels = np.stack([steps.clip(0, 255).astype(np.uint8)] * 3, 2)
            Image.fromarray(pixels).save(folder / name / f"{k:02}.png")


LONG = {**TINY, "steps": 60, "batch": 16, "lr": 0.05, "warmup": 5}


def test_of_classes_that_are_mirror_images_the_answers_are_of_the_image_alone(workplace, tmp_path):
    ramps(tmp_path / "renders", {"left": -1, "right": 1}, 20, 0)
    ramps(tmp_path / "photos", {"left": -1, "right": 1}, 8, 1)
    out = workplace.data / "model"
    final = own.model_of(tmp_path / "renders", tmp_path / "photos", out, LONG, "cpu")["final"]
    assert final["validation"] == final["accuracy"] == 1.0
    assert final["mirror"] is False and final["validation_mirrored"] < 1.0
    assert "Answers are of the image alone" in (out / "report.md").read_text("utf-8")
    for name in ("left", "right"):
        photo = tmp_path / "photos" / name / "00.png"
        assert [one.answers[0][0] for one in predict.predict(out, [photo])] == [name]
    forced = own.model_of(tmp_path / "renders", tmp_path / "photos", out, {**LONG, "mirror": True}, "cpu")["final"]
    assert "mirror" not in forced and forced["accuracy"] < 1.0  # the switch is obeyed


def test_of_other_classes_they_average_both(workplace, image_folders):
    out = workplace.data / "model"
    final = own.model_of(image_folders.source, image_folders.target, out, LONG, "cpu")["final"]
    assert final["mirror"] is True and model_files.load_model(out)[1].mirror is True


@pytest.mark.parametrize("where", ["source", "target"])
def test_results_do_not_go_among_the_images(workplace, image_folders, where: str):
    out = getattr(image_folders, where) / "model"
    with pytest.raises(AsgError, match="whose folders are read as images"):
        own.model_of(image_folders.source, image_folders.target, out, TINY, "cpu")
    assert not out.exists()


def test_an_adaptation_does_not_overwrite_its_start_and_has_a_report(workplace, image_folders, monkeypatch):
    model, target = workplace.data / "model", image_folders.target
    result = own.model_of(image_folders.source, None, model, TINY, "cpu")
    monkeypatch.setattr(own.self_training, "train", lambda config, folder, start, device: (result, start))
    with pytest.raises(AsgError, match="give another --out"):
        own.adapt(model, image_folders.source, target, model, {}, "cpu")
    own.adapt(model, image_folders.source, target, workplace.data / "adapted", {}, "cpu")
    assert (workplace.data / "adapted" / "report.md").exists()


def test_a_bar_in_a_name_does_not_break_the_reports_table(workplace, image_folders):
    rename(image_folders, "cup", "cup|mug")
    out = workplace.data / "model"
    own.model_of(image_folders.source, image_folders.target, out, TINY, "cpu")
    assert r"| cup\|mug | " in (out / "report.md").read_text("utf-8")


def test_half_precision_on_a_cpu_is_refused(workplace, image_folders):
    with pytest.raises(AsgError, match="fp16 needs a GPU"):
        own.model_of(image_folders.source, None, workplace.data / "model", {**TINY, "precision": "fp16"}, "cpu")


def test_a_missing_file_and_one_that_may_not_be_read_are_said_as_they_are(workplace, image_folders, monkeypatch):
    out = workplace.data / "model"
    own.model_of(image_folders.source, None, out, TINY, "cpu")
    (missing,) = predict.predict(out, [Path("nowhere.png")])
    assert missing.reason == "The image nowhere.png is missing: restore it, or give the right path."

    def closed(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(models, "load_file", closed)
    with pytest.raises(AsgError, match=r"model\.safetensors may not be read \(Permission denied\)"):
        list(predict.predict(out, [Path("nowhere.png")]))


def test_a_batch_of_one_is_adapted_with_an_image_of_either_side():
    config = make_config(own_recipes.PROFILES["classification"], {"source": "renders", "batch": 1, "adapt": {}})
    assert self_training.round_config(config, 0, 10).batch == 2
    assert self_training.round_config(config.model_copy(update={"batch": 8}), 0, 10).batch == 8


@pytest.fixture
def model(workplace, image_folders) -> Path:
    out = workplace.data / "model"
    own.model_of(image_folders.source, image_folders.target, out, LONG, "cpu")
    return out


def predicted(*words: object) -> Result:
    return CliRunner().invoke(app, ["predict", *map(str, words), "--device", "cpu"])


def test_folders_and_patterns_are_predicted_and_a_broken_image_is_a_row(model, image_folders, tmp_path):
    photos, broken = image_folders.target, image_folders.target / "cup" / "01.png"
    broken.write_text("no image")
    (photos / "cup" / "a.heic").touch()
    done = predicted(model, photos, photos / "**" / "0[02].png", "nowhere.png", "--top", 2)
    assert isinstance(done.exception, AsgError)  # which ends the command with code 1
    assert str(done.exception) == "2 of 13 images were not read: why is said in their rows."
    assert "8 images; left out: 1 × no image that can be read here (.heic)" in done.stderr
    assert "\r" not in done.stdout
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert list(rows[0]) == ["image", "class", "probability", "class 2", "probability 2", "reason"]
    everything = sorted(photos.rglob("*.png"))
    named = [path for path in everything if path.stem in ("00", "02")]
    assert [row["image"] for row in rows] == [*map(str, everything), *map(str, named), "nowhere.png"]
    for row in rows:
        if row["image"] in (str(broken), "nowhere.png"):
            assert row["class"] == row["probability 2"] == "" and row["reason"]
        else:
            assert float(row["probability"]) >= 0.25 and row["class"] != row["class 2"] and not row["reason"]


def test_json_holds_the_same_and_a_file_is_written_whole(model, image_folders, tmp_path):
    photos, to = image_folders.target, tmp_path / "answers.json"
    done = predicted(model, photos, "--top", 9, "--format", "json", "--output", to)
    assert done.exit_code == 0 and done.stdout == ""
    rows = json.loads(to.read_text("utf-8"))
    table = list(csv.DictReader(io.StringIO(predicted(model, photos).stdout)))
    assert [row["image"] for row in rows] == [row["image"] for row in table]
    assert [row["answers"][0]["class"] for row in rows] == [row["class"] for row in table]
    assert all(len(row["answers"]) == 3 for row in rows)  # as many classes as there are
    assert sum(answer["probability"] for answer in rows[0]["answers"]) == pytest.approx(1, abs=2e-4)


def test_a_pattern_that_matches_nothing_is_named(model):
    with pytest.raises(AsgError, match=r"Nothing matches photos/\*\.jpg"):
        predict.images_of([Path("photos/*.jpg")])


def test_the_best_classes_are_in_the_order_of_the_mean_sigmoid():
    """By brute force over the classes; ties are answered as arg max answers them."""
    plain, mirrored = (torch.randn(20, 5, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    order, sure = ranked(plain, mirrored, 3)
    score = plain.sigmoid() + mirrored.sigmoid()
    for i in range(20):
        assert order[i].tolist() == sorted(range(5), key=lambda k: -float(score[i, k]))[:3]
        both = (plain[i].softmax(0) + mirrored[i].softmax(0)) / 2
        assert sure[i].tolist() == pytest.approx([float(both[k]) for k in order[i]])
    level = torch.zeros(2, 4)
    assert ranked(level, level, 1)[0].flatten().tolist() == level.argmax(1).tolist()


def test_a_policy_is_trained_on_own_renders_and_sets_the_rates(workplace, image_folders):
    policy, out = workplace.data / "mine.safetensors", workplace.data / "model"
    short = {name: TINY[name] for name in ("backbone", "weights", "size", "head_width", "steps", "batch")}
    student = json.dumps({**short, "control": {"kind": "learned", "shortest": 2, "schedule": True}})
    meta = ["--set", "episodes=2", "--set", "groups=3", "--set", f"student={student}"]
    given = ["policy", "train", "asg", "--source", str(image_folders.source), *meta, "--device", "cpu"]
    alone = CliRunner().invoke(app, given)
    assert "needs a place: give --out FILE" in str(alone.exception)
    with pytest.raises(AsgError, match="An episode of 4 steps is over before its first decision, after 7"):
        episodes.Episodes(
            policy_config("asg", "cartoon", {"student": short}, image_folders.source).student, workplace.runs, "cpu"
        )
    done = CliRunner().invoke(app, [*given, "--out", str(policy)])
    assert done.exit_code == 0, done.output
    card = load_policy(policy)[1]
    assert len(card["curve"]) == 2 and card["meta"]["student"]["data"] == "folder"
    settings = [
        word for name, value in {**TINY, "steps": 12}.items() for word in ("--set", f"{name}={json.dumps(value)}")
    ]
    folders = ["--source", str(image_folders.source), "--out", str(out), "--device", "cpu"]
    done = CliRunner().invoke(app, ["train", *folders, "--policy", str(policy), *settings])
    assert done.exit_code == 0, done.output
    assert json.loads((out / "report.json").read_text("utf-8"))["decisions"]


def test_a_stopped_policy_is_not_continued_on_changed_renders(workplace, image_folders):
    meta = policy_config("asg", "cartoon", {"student": TINY}, image_folders.source)
    with records.meta_folder("policy", meta) as before:
        pass
    Image.new("RGB", (32, 32), "red").save(image_folders.source / "cup" / "00.png")
    with records.meta_folder("policy", meta) as after:
        assert after != before


def test_of_several_sources_each_is_seen_as_often_as_it_says(workplace, image_folders, tmp_path, monkeypatch):
    more = tmp_path / "more"
    for name in ("apple", "dog"):
        (more / name).mkdir(parents=True)
        for k in range(4):
            Image.new("RGB", (32, 32), (60 * k, 0, 0)).save(more / name / f"{k}.png")
    sources = {image_folders.source: 1, more: 3}
    domains = folder.load(sources, image_folders.target, 32)
    assert domains.source.classes == ("apple", "boat", "cup", "dog")
    names = [Path(name) for name in domains.source.names]
    times = {path.is_relative_to(more): n for path, n in zip(names, domains.source.repeats.tolist(), strict=True)}
    assert times == {False: 1, True: 3} and domains.validation.repeats is None
    plain = folder.load(image_folders.source, None, 32)
    assert plain.source.repeats is None and plain.source.fingerprint != domains.source.fingerprint
    count = int(domains.source.repeats.sum())
    a_pass = [
        i for batch in Repeated(Draws, domains.source.repeats, len(domains.source), 3, 5, 0, count // 3) for i in batch
    ]
    seen = Counter(i for i, _ in a_pass)
    assert sum(seen.values()) == count // 3 * 3 and all(n <= domains.source.repeats[i] for i, n in seen.items())
    out, settings = workplace.data / "model", []
    for field, value in TINY.items():
        settings += ["--set", f"{field}={json.dumps(value)}"]
    given = ["--source", str(image_folders.source), "--source", f"{more}=3", "--device", "cpu", *settings]
    done = CliRunner().invoke(app, ["train", *given, "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert f"source {more}: 8 images of 2 classes" in done.stderr
    assert model_files.load_model(out)[2] == ("apple", "boat", "cup", "dog")
    adapted = workplace.data / "adapted"
    rounds = ["--target", str(image_folders.target), "--out", str(adapted), "--set", "rounds=1", "--set", "portion=1.0"]
    asked = []

    def train(config: RunConfig, folder: Path, start: torch.nn.Module, device: str) -> tuple:
        asked.append(config)
        result = json.loads((out / "report.json").read_text("utf-8"))
        return {**result, "final": {**result["final"], "labelled": [1, 1, 1, 1]}}, start

    monkeypatch.setattr(own.self_training, "train", train)
    done = CliRunner().invoke(app, ["adapt", str(out), *given[:4], *rounds, "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert asked[0].sources == {str(image_folders.source): 1, str(more): 3} and asked[0].source is None


def test_epochs_do_not_count_images_that_a_pass_sees_more_often():
    several = {"source": None, "sources": {"renders": 1, "more": 2}}
    with pytest.raises(AsgError, match="epochs count every image once, and sources say more: give steps"):
        make_config(own_recipes.PROFILES["classification"], several, {"epochs": 2})
    assert make_config(own_recipes.PROFILES["classification"], several).steps
    assert make_config(own_recipes.PROFILES["classification"], {"sources": {"a": 1, "b": 1}, "epochs": 2}).epochs == 2


def test_a_policy_is_not_written_into_an_installed_package(workplace, monkeypatch):
    monkeypatch.setattr(places, "is_checkout", lambda: False)
    for command in ("train", "search"):
        done = CliRunner().invoke(app, ["policy", command, "asg", "--profile", "toy"])
        assert "needs a place: give --out FILE" in str(done.exception)


@pytest.mark.parametrize(("text", "message"), [("a=0", "a whole number"), ("a=b", "a whole number"), ("=2", "FOLDER")])
def test_how_often_a_source_is_seen_is_a_whole_number(text: str, message: str):
    with pytest.raises(AsgError, match=message):
        parse_sources([text])


def test_a_source_is_given_once_and_its_name_may_hold_an_equals_sign(tmp_path):
    (odd := tmp_path / "size=3").mkdir()
    assert parse_sources([str(odd), f"{odd}=2", "b=2"][::2]) == {odd: 1, Path("b"): 2}
    with pytest.raises(AsgError, match="given twice"):
        parse_sources(["b", "b=2"])


def test_photos_without_class_folders_are_answered_and_not_judged(workplace, image_folders, caplog):
    photos, out = workplace.data / "photos", workplace.data / "model"
    photos.mkdir()
    for k, path in enumerate(sorted(image_folders.target.rglob("*.png"))):
        path.rename(photos / f"{k}.png")
    with caplog.at_level(logging.INFO, "asg"):
        result = own.model_of(image_folders.source, photos, out, TINY, "cpu")
    count = len(list(photos.iterdir()))
    assert f"target {photos}: {count} images; without class folders they have no labels to report on" in caplog.messages
    final = result["final"]
    assert len(final["predicted"]) == count and 0 <= final["agreement"] <= 1
    assert not {"accuracy", "overall", "per_class", "ece"} & final.keys() and result["best_on_target"] is None
    labels = [one.answers[0][0] for one in predict.predict(out, sorted(photos.iterdir(), key=lambda p: p.name))]
    assert labels == [("apple", "boat", "cup")[k] for k in final["predicted"]]
    page = BeautifulSoup((out / "report.html").read_text("utf-8"), "html.parser")
    table = page.find("h2", string="What the target is taken for").find_next("table")
    rows = {row.th.get_text(): int(row.td.get_text()) for row in table.tbody.select("tr")}
    assert rows == {name: labels.count(name) for name in ("apple", "boat", "cup")}
    assert len(page.select(".gallery img")) == count
