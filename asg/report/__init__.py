"""The report of a training on own folders: every number as JSON, a page as Markdown, and one to look at as HTML.

The HTML page holds its figures and pictures itself: it asks no other host for anything and runs no script.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import jinja2
import torch
from markupsafe import Markup

from asg import records
from asg.config import RunConfig
from asg.data.images import Domains
from asg.data.segmentation import SegmentationDomains
from asg.dense_metrics import confusion_matrix
from asg.recipes import is_dense
from asg.report.figures import curves, drift_bars, measure_of
from asg.report.pictures import Scene, examples, legend, unlabelled_examples
from asg.report.tables import answers_of, class_rows, confused_pairs, shown_matrix
from asg.report.warnings import labelled_target, percent, unlabelled_target, warnings_of

TEMPLATE = Path(__file__).with_name("page.html.jinja")


def write_report(
    folder: Path, result: dict, config: RunConfig, domains: Domains | SegmentationDomains, scenes: Sequence[Scene] = ()
) -> None:
    """Write ``report.json``, every number, and two pages, ``report.md`` and ``report.html``.

    ``domains``: what was read for the run; ``scenes``: what a segmentation model answers
    (:func:`asg.report.pictures.answered`). A picture whose file is gone by now is left out, its name stays.
    """
    made_by = records.provenance()
    records.write_text(folder / "report.json", json.dumps({**result, **made_by}, indent=1))
    records.write_text(folder / "report.md", markdown(result, config, domains))
    records.write_text(folder / "report.html", page(result, config, domains, made_by, scenes))


def ending(config: RunConfig) -> str:
    """Which network a training ends with, in words."""
    network = "an average over the iterates" if config.average else "the last iterate"
    if config.interpolate is None:
        return network
    return f"{network}, its backbone {config.interpolate:.0%} of the way from ImageNet's weights"


def markdown(result: dict, config: RunConfig, domains: Domains | SegmentationDomains) -> str:
    """A page about one run on own folders, as Markdown: what was trained, what it reaches, what it keeps, warnings."""
    first, final, measure = result["evaluations"][0], result["final"], measure_of(config)
    names = {
        "validation": f"{measure.name} on held-out source images",
        measure.field: measure.of_target,
        "agreement": "agreement with the ImageNet network on the target",
        "kl": "divergence from the ImageNet network (nats)",
    }
    lines = [
        f"# ASG report\n\n{config.backbone}, {config.size} px, {result['steps']} steps of {config.batch}, "
        f"λ = {config.guidance:g}, seed {config.seed}; {result['seconds']:.0f} s on {result['device']}. "
        f"Result: {ending(config)}.\n\n| | before | after |\n|---|---|---|",
        *(f"| {text} | {first[k]:.3f} | {final[k]:.3f} |" for k, text in names.items() if k in final),
    ]
    if "mirror" in final:
        alone, both = final["validation"], final["validation_mirrored"]
        use = "average an image and its mirror image" if final["mirror"] else "are of the image alone"
        lines += [f"\nAnswers {use}: right on held-out images {both:.3f} averaged, {alone:.3f} alone."]
    if "per_class" in final:
        rows = (f"| {table_cell(c)} | {a:.3f} |" for c, a in final["per_class"].items())
        lines += [f"\n| target class | {'IoU' if is_dense(config) else 'accuracy'} |\n|---|---|", *rows]
    lines += [f"\nwarning: {warning}" for warning in warnings_of(result, config, domains)]
    return "\n".join(lines) + "\n"


def table_cell(name: str) -> str:
    """A name as a cell of a Markdown table: what would end the cell or the line is an escape."""
    lines = re.sub(r"[\x00-\x1f\x7f\x85\u2028\u2029]", lambda letter: letter[0].encode("unicode_escape").decode(), name)
    return lines.replace("|", r"\|")


def left_of_imagenet(first: dict, final: dict) -> list[tuple[str, str | None, str]]:
    """What was measured of the ImageNet network that is left: name, before (None: not measured then), after."""
    names = {
        "agreement": ("same top-1 class as the ImageNet network, target images (real)", percent),
        "kl": ("divergence from its answers in nats, held-out images (synthetic)", "{:z.3f}".format),
        "cka": ("likeness of the features to its own (CKA, 1: the same), target images (real)", "{:z.3f}".format),
        "imagenet": ("right ImageNet class, target images (real) that have one", percent),
        "kept": ("accuracy through the ImageNet classifier, target images (real)", percent),
    }
    return [
        (name, show(first[field]) if field in first else None, show(final[field]))
        for field, (name, show) in names.items()
        if field in final
    ]


def adaptation_rounds(evaluations: Iterable[dict]) -> list[dict]:
    """The last evaluation of each round of an adaptation, which holds the round's pseudo-labels."""
    return list({e["round"]: e for e in evaluations if "round" in e}.values())


def settings(config: RunConfig) -> list[tuple[str, str, str]]:
    """Every setting: name, value as JSON, what it means."""
    values = config.model_dump()
    return [
        (name, json.dumps(values[name], ensure_ascii=False), field.description)
        for name, field in type(config).model_fields.items()
    ]


def readable(value: object) -> object:
    """Text that has bytes of a file's name in it, which are no UTF-8, with these as escapes; all else as it is."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return value


def page(
    result: dict, config: RunConfig, domains: Domains | SegmentationDomains, made_by: dict, scenes: Sequence[Scene] = ()
) -> str:
    """The HTML page of one run; ``made_by``: :func:`asg.records.provenance`. Every text in it is escaped."""
    environment = jinja2.Environment(
        autoescape=True, finalize=readable, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["percent"] = percent
    final, target, measure = result["final"], labelled_target(result, domains), measure_of(config)
    photos = domains.target if measure.field in final else None
    parts: dict[str, object] = {}
    if target is not None:
        confusion = confusion_matrix(torch.tensor(final["predicted"]), target.labels, len(target.classes))
        parts = {
            "rows": class_rows(confusion, target.classes),
            "matrix": shown_matrix(confusion, target.classes),
            "pairs": confused_pairs(confusion, target.classes),
            "examples": examples(final, target, config.target),
        }
    if (photos_alone := unlabelled_target(result, domains)) is not None:
        parts = {
            "answers": answers_of(final, photos_alone.classes),
            "examples": unlabelled_examples(final, photos_alone, config.target),
        }
    return environment.from_string(TEMPLATE.read_text("utf-8")).render(
        result=result, config=config, final=final, target=target,
        held=domains.validation, source=domains.source, warnings=warnings_of(result, config, domains),
        measure=measure, photos=photos, scenes=scenes, scenes_of_target=domains.target is not None,
        legend=legend(domains.source), dense=is_dense(config),
        curves=curves(result, measure), drift=drift_bars(final["drift"]), first=result["evaluations"][0],
        left=left_of_imagenet(result["evaluations"][0], final),
        rounds=adaptation_rounds(result["evaluations"]), settings=settings(config), made_by=made_by,
        ending=ending(config), **{**dict.fromkeys(("rows", "matrix", "pairs", "examples", "answers")), **parts},
    )  # fmt: skip
