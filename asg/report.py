"""The report of a training on own folders: every number as JSON, and a page as Markdown."""

from __future__ import annotations

import json
from pathlib import Path

from asg import records
from asg.config import RunConfig
from asg.data.images import Domains


def write_report(folder: Path, result: dict, config: RunConfig, domains: Domains) -> None:
    """Write ``report.json``, every number, and ``report.md``, a page; ``domains``: what was read for the run."""
    records.write_text(folder / "report.json", json.dumps({**result, **records.provenance()}, indent=1))
    records.write_text(folder / "report.md", markdown(result, config))


def ending(config: RunConfig) -> str:
    """Which network a training ends with, in words."""
    network = "an average over the iterates" if config.average else "the last iterate"
    if config.interpolate is None:
        return network
    return f"{network}, its backbone {config.interpolate:.0%} of the way from ImageNet's weights"


def markdown(result: dict, config: RunConfig) -> str:
    """A page about one run on own folders, as Markdown: what was trained, what it reaches, what it keeps."""
    first, final = result["evaluations"][0], result["final"]
    names = {
        "validation": "accuracy on held-out source images",
        "accuracy": "accuracy on the target (mean per class)",
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
        rows = (f"| {c.replace('|', chr(92) + '|')} | {a:.3f} |" for c, a in final["per_class"].items())
        lines += ["\n| target class | accuracy |\n|---|---|", *rows]
    return "\n".join(lines) + "\n"
