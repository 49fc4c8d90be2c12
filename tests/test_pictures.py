"""What figures of networks show: computed once, named by what they are made of, read without data, networks and runs."""

from __future__ import annotations

import ast
import errno
import shutil

import nbformat
import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from IPython.display import Markdown
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from typer.testing import CliRunner

from asg import AsgError
from asg.config import make_config
from asg.data import load_domains, read_domains, subset
from asg.models import build
from asg.run import run, trained
from asg_book import binding, figures, illustrations, inspection, pictures, plots
from asg_book.build import BOOK, benchmarks
from asg_book.catalogue import get
from asg_book.cli import app
from asg_book.pictures import SHOWN, Picture, Shown
from asg_book.profiles import PROFILES

CHAPTERS = {"oracle": "02_the_gap", "comparison": "09_looking_inside", "segmentation": "12_segmentation"}
EACH = pytest.mark.parametrize(
    ("experiment", "profile", "make"), pictures.wanted(), ids=lambda given: getattr(given, "__name__", given)
)


def toy(experiment: str, *arms: str, seed: int = 0) -> dict:
    return {arm: get(experiment).config("toy", arm, seed) for arm in arms}


def fail(*_: object, **__: object) -> None:
    raise AssertionError("is called")


@EACH
def test_a_picture_is_computed_once_and_then_read_without_data_networks_and_runs(
    workplace, monkeypatch, experiment, profile, make
) -> None:
    configs = toy(experiment, *SHOWN[experiment].arms)
    first = make(configs).arrays()
    for folder in (workplace.data, workplace.runs):
        shutil.rmtree(folder)
    for name in ("asg.run.trained", "asg.models.build", "asg_book.pictures.load_domains"):
        monkeypatch.setattr(name, fail)
    again = make(configs).arrays()
    assert first.keys() == again.keys()
    assert all(np.array_equal(first[k], again[k]) and first[k].dtype == again[k].dtype for k in first)
    with pytest.raises((AssertionError, AsgError)):
        make(configs).arrays(fresh=True)
    assert [path.name for path in workplace.results.glob("figures/*")] == [make(configs).path.name]


def test_fresh_computes_and_leaves_what_is_kept(workplace) -> None:
    picture = Picture("one", (), lambda: {"x": np.array([1])})
    other = Picture("one", (), lambda: {"x": np.array([2])})
    assert other.arrays(fresh=True)["x"] == 2 and not other.path.exists()
    assert picture.arrays()["x"] == 1 and other.arrays()["x"] == 1 and other.arrays(fresh=True)["x"] == 2
    assert picture.arrays()["x"] == 1


def test_another_seed_arm_setting_or_version_is_another_file(workplace, monkeypatch) -> None:
    made = [
        pictures.attention(toy("comparison", "vanilla", "guidance")),
        pictures.attention(toy("comparison", "vanilla", "guidance", seed=1)),
        pictures.attention(toy("comparison", "vanilla")),
        pictures.attention(toy("comparison", "vanilla", "SI")),
        pictures.attention(toy("comparison", "vanilla", "guidance"), count=5),
        pictures.attention(toy("comparison", "vanilla", "guidance"), layer="blocks.2"),
        pictures.embeddings(toy("comparison", "vanilla", "guidance")),
    ]
    paths = [picture.path for picture in made]
    assert pictures.attention(toy("comparison", "vanilla", "guidance")).path == paths[0]
    monkeypatch.setattr(pictures, "VERSION", pictures.VERSION + 1)
    assert len({*paths, made[0].path}) == len(made) + 1


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[: len(b) // 2], lambda b: b"no picture", lambda b: b[:60] + b"?" * 20 + b[80:]])  # fmt: skip
def test_a_damaged_file_is_one_sentence_with_the_remedy(workplace, damage) -> None:
    picture = Picture("one", (), lambda: {"x": np.arange(100)})
    picture.arrays()
    picture.path.write_bytes(damage(picture.path.read_bytes()))
    with pytest.raises(AsgError, match=r"one-\w{12}\.npz is damaged \(.+\): remove it") as error:
        picture.arrays()
    assert "\n" not in str(error.value)


def test_an_unwritable_place_is_said_before_anything_is_computed(workplace) -> None:
    (workplace.results / "figures").write_text("in the way")
    with pytest.raises(AsgError, match=r"Cannot write into .*figures"):
        Picture("one", (), fail).arrays()


def test_a_full_disk_leaves_nothing_half_written(workplace, monkeypatch) -> None:
    def full(file, **_: object) -> None:
        file.write(b"a part")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(AsgError, match=r"cannot be written \(No space left on device\): free some space"):
        Picture("one", (), lambda: {"x": np.array([1])}).arrays()
    assert list(workplace.results.glob("figures/*")) == []


def test_an_embedding_is_the_tsne_of_principal_components() -> None:
    generator = torch.Generator().manual_seed(0)
    for count, components in ((40, 40), (70, 50)):
        features = torch.randn(count, 60, generator=generator) + 5 * (torch.arange(count) % 3)[:, None]
        parts = PCA(components, random_state=0).fit_transform(features.numpy())
        expected = TSNE(random_state=0, init="pca", perplexity=30).fit_transform(parts)
        np.testing.assert_array_equal(inspection.embedding(features), expected)


def test_points_are_embeddings_of_each_networks_features(workplace, monkeypatch) -> None:
    monkeypatch.setattr(inspection, "embedding", lambda features: features[:, :2].numpy())  # t-SNE amplifies last bits
    configs = toy("comparison", "oracle", "vanilla", "guidance")
    arrays = pictures.embeddings(configs).arrays()
    domains = load_domains(configs["vanilla"])
    some = subset(domains.source, range(0, 48, 2))
    assert arrays["networks"].tolist() == ["ImageNet", "vanilla", "guidance"]  # of the oracle nothing is trained
    for images, names in ((some, arrays["synthetic"]), (domains.target, arrays["photos"])):
        assert names.tolist() == [images.classes[k] for k in images.labels.tolist()]
    networks = [build(configs["vanilla"], 3), trained(configs["vanilla"]), trained(configs["guidance"])]
    for network, points in zip(networks, arrays["points"], strict=True):
        with torch.inference_mode():
            features = torch.cat([network.features(images.batch(range(24))) for images in (some, domains.target)])
        np.testing.assert_allclose(points, features[:, :2], rtol=1e-3, atol=1e-4)


def test_attention_is_grad_cam_for_what_each_network_answers(workplace) -> None:
    configs = toy("comparison", "vanilla", "guidance")
    arrays = pictures.attention(configs, count=3, layer="blocks.2").arrays()
    domains = read_domains(configs["vanilla"])
    photos = subset(domains.target, [4, 12, 20])
    assert arrays["chosen"].tolist() == [4, 12, 20]
    assert arrays["networks"].tolist() == ["ImageNet", "vanilla", "guidance"]
    assert arrays["titles"][:, 0].tolist() == [photos.classes[k] for k in photos.labels.tolist()]
    networks = [build(configs["vanilla"], 3), *(trained(config) for config in configs.values())]
    for k, network in enumerate(networks):
        head = "task_head" if k else "kept_head"
        answers = network(photos.batch(range(3)))[0 if k else 1].argmax(1).tolist()
        maps = inspection.grad_cam(network, photos, "blocks.2", head, answers)
        np.testing.assert_allclose(arrays["maps"][k], maps, atol=1e-3)
        assert arrays["titles"][:, 1 + k].tolist() == inspection.names_of(answers, head, photos.classes)


def test_label_maps_are_what_the_networks_answer(workplace) -> None:
    configs = toy("segmentation", "vanilla", "whole map")
    arrays = pictures.label_maps(configs, every=3).arrays()
    domains = read_domains(configs["vanilla"])
    scenes = [domains.validation.decode(0), *(domains.target.decode(i) for i in range(0, len(domains.target), 3))]
    assert arrays["networks"].tolist() == list(configs) and arrays["held_out"].tolist() == [0]
    assert arrays["photos"].tolist() == list(range(0, len(domains.target), 3))
    for config, maps in zip(configs.values(), arrays["maps"], strict=True):
        network = trained(config)
        for (image, _), answered in zip(scenes, maps, strict=True):
            with torch.inference_mode():
                logits = network(torch.from_numpy(image.transpose(2, 0, 1).copy())[None])[0]
            assert np.array_equal(answered, logits[0].argmax(0))
    drawn = illustrations.scenes(
        ([*pair, m] for pair, m in zip(scenes, arrays["maps"][0], strict=True)), "abc", domains.target.classes
    )
    assert len(drawn.axes) == 3 * len(scenes)


def test_the_untouched_networks_answers_are_named(workplace) -> None:
    configs = toy("oracle", "imagenet")
    photos = load_domains(configs["imagenet"]).target
    answers = inspection.answers(build(configs["imagenet"], 3), photos, "kept_head")
    assert pictures.answers(configs).arrays()["names"].tolist() == inspection.names_of(answers, "kept_head", ())


def test_the_figures_draw_what_is_kept(workplace) -> None:
    configs = toy("comparison", "vanilla", "guidance")
    drawn = illustrations.feature_maps(**pictures.embeddings(configs).arrays())
    assert [axis.get_title() for axis in drawn.axes] == ["ImageNet", "vanilla", "guidance"]
    photos, arrays = read_domains(configs["vanilla"]).target, pictures.attention(configs, count=3).arrays()
    drawn = illustrations.heat_maps(photos, **arrays)
    rows = np.reshape(drawn.axes, (3, 4))
    for i, row in enumerate(rows):
        assert [axis.get_title().split("\n")[-1] for axis in row] == arrays["titles"][i].tolist()
        assert np.array_equal(row[0].images[0].get_array(), photos.decode(4 + 8 * i))
        for axis, coarse in zip(row[1:], arrays["maps"][:, i], strict=True):
            photo, heat = axis.images
            assert np.array_equal(heat.get_array(), coarse) and heat.get_extent() == photo.get_extent()
    plots.plt.close("all")


def test_images_that_cannot_be_read_are_replaced_by_what_says_how_to_get_them(workplace) -> None:
    domains = read_domains(make_config(PROFILES["cartoon"]))
    arrays = {"networks": ["ImageNet"], "maps": np.zeros((1, 1, 4, 4)), "titles": [["dog", "beagle"]]}
    outputs = [
        figures.pictured(illustrations.gallery, domains.source),
        figures.pictured(illustrations.heat_maps, domains.target, chosen=np.array([3]), **arrays),
    ]
    for output in outputs:
        assert isinstance(output, Markdown) and "run `python data_scripts/pacs.py`" in output.data
        assert (
            str(workplace.data) not in output.data and " data/pacs/" in output.data
        )  # of this machine a page says nothing
    assert plots.plt.get_fignums() == []
    photos = read_domains(make_config(PROFILES["toy"])).target
    assert isinstance(figures.pictured(illustrations.gallery, photos), Figure)
    assert plots.plt.get_fignums() == []


def test_a_chapter_is_out_of_date_when_a_benchmark_comes(workplace) -> None:
    for made_by_a_build in ("mini", "cache", "demo", "downloads"):
        (workplace.data / made_by_a_build).mkdir(parents=True, exist_ok=True)
    assert benchmarks() == []
    (workplace.data / "pacs").mkdir()
    assert benchmarks() == ["pacs"]


@EACH
def test_every_figure_of_the_book_has_its_record(monkeypatch, experiment, profile, make) -> None:
    monkeypatch.setenv("ASG_RESULTS", str(REPOSITORY / "results"))
    picture = make(pictures.configs_of(experiment, profile))
    assert picture.path.exists(), "run `asg figures` and commit what it makes"
    assert all(len(array) for array in picture.arrays().values())


@EACH
def test_chapters_show_the_figures_of_the_book(monkeypatch, experiment, profile, make) -> None:
    monkeypatch.setenv("ASG_RESULTS", str(REPOSITORY / "results"))
    cells = nbformat.read(BOOK / "chapters" / f"{CHAPTERS[experiment]}.ipynb", 4).cells
    (parameters,) = (cell.source for cell in cells if "parameters" in cell.metadata.get("tags", []))
    given = {node.targets[0].id: ast.literal_eval(node.value) for node in ast.parse(parameters).body}
    assert given["arms"] == [] and any(f"pictures.{make.__name__}(" in cell.source for cell in cells)
    bound = binding.bind(experiment, profile, given["seeds"], SHOWN[experiment].arms)
    assert make(bound.configs).path == make(pictures.configs_of(experiment, profile)).path
    assert given["profile"] in ("", *SHOWN[experiment].profiles)


def test_the_command_makes_what_is_missing_of_runs_that_have_records(workplace, monkeypatch) -> None:
    asked = (pictures.embeddings, pictures.attention)
    monkeypatch.setattr(pictures, "SHOWN", {"comparison": Shown(("toy",), ("vanilla", "guidance"), asked)})
    configs = pictures.configs_of("comparison", "toy")
    run(configs["vanilla"])
    refused = CliRunner().invoke(app, ["figures"])
    assert refused.exit_code and "Runs of guidance (toy) have no record" in refused.output
    assert "`asg reproduce --experiment comparison --profile toy` makes them." in refused.output
    assert "2 of 2 figures are missing" in str(refused.exception)
    run(configs["guidance"])
    shutil.rmtree(workplace.runs)
    made = CliRunner().invoke(app, ["figures"])
    assert made.exit_code == 0, made.output
    assert "making embeddings of vanilla, guidance (toy) …" in made.output
    paths = [make(configs).path for make in asked]
    assert all(path.exists() and str(path) in made.output for path in paths)
    times = [path.stat().st_mtime_ns for path in paths]
    assert "no more" not in made.output
    pictures.label_maps(toy("segmentation", "vanilla")).arrays()
    again = CliRunner().invoke(app, ["figures"])
    assert "The book shows no more, or never did: label_maps-" in again.output
    assert "making" not in again.output and times == [path.stat().st_mtime_ns for path in paths]


def test_the_command_says_which_data_are_missing_and_makes_the_rest(workplace, monkeypatch) -> None:
    missing = Shown(("cartoon",), ("imagenet",), (pictures.answers,))
    present = Shown(("toy",), ("vanilla",), (pictures.attention,))
    monkeypatch.setattr(pictures, "SHOWN", {"oracle": missing, "comparison": present})
    monkeypatch.setattr("asg.records.find", lambda config: {})
    result = CliRunner().invoke(app, ["figures"])
    assert result.exit_code and "1 of 2 figures are missing" in str(result.exception)
    assert (
        "answers of oracle (cartoon): error:" in result.output and "run `python data_scripts/pacs.py`" in result.output
    )
    assert pictures.attention(pictures.configs_of("comparison", "toy")).path.exists()
