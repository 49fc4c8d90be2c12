"""What the book was built with, and what things cost."""

import json

import pandas as pd
from IPython.display import Markdown
from pandas.io.formats.style import Styler

from asg import records
from asg_book.binding import each_profile
from asg_book.build import STAGED
from asg_book.catalogue import EXPERIMENTS
from asg_book.formatting import captioned, styled


def status() -> Styler:
    """Versions and platform that this page was executed with."""
    provenance = records.provenance()
    rows = {"platform": provenance["platform"], "cpu": provenance["cpu"], **provenance["versions"]}
    return styled(pd.DataFrame({"version": rows}))


def chapter_times() -> pd.DataFrame:
    """Seconds that each chapter took when it was last executed; this page itself is still running."""
    stamps = sorted((STAGED / "chapters").glob("*.json"))
    return pd.DataFrame({"seconds": {s.stem: f"{json.loads(s.read_text('utf-8'))['seconds']:.0f}" for s in stamps}})


def run_times(profile: str = "") -> pd.DataFrame:
    """Number of records, median seconds, greatest memory and hardware of each experiment's runs, profile by profile."""
    rows = {}
    for name in (name for name, declared in EXPERIMENTS.items() if not profile or declared.is_run_in(profile)):
        for one, bound in each_profile(name, profile).items():
            if recorded := [r for runs in bound.arms.values() for r in runs]:
                seconds = pd.Series([r["seconds"] for r in recorded]).median()
                devices = ", ".join(
                    sorted({f"{r['platform']} {r['device']} {r.get('cpu', '')}".strip() for r in recorded})
                )
                rows[f"{name}, {one}"] = {
                    "runs": len(recorded), "median s": f"{seconds:.0f}",
                    "peak MB": max(r["peak_memory_mb"] for r in recorded), "device": devices,
                }  # fmt: skip
    return pd.DataFrame(rows).T


def benchmarks(name: str) -> Styler | Markdown:
    """Ratios that ``benchmarks/NAME.py`` measured, with their setting; a sentence where nobody has run it."""
    path = records.results_root() / "benchmarks" / f"{name}.json"
    if not path.exists():
        return Markdown(f"Not measured: `python benchmarks/{name}.py` measures it.")
    measured = json.loads(path.read_text("utf-8"))
    rows = {what: f"{ratio:.2f}" for what, ratio in measured["ratios"].items()}
    return captioned(pd.DataFrame({"ratio": rows}), f"{measured['setting']}; {measured['date']}")


def gpu() -> Styler | Markdown:
    """What ``benchmarks/gpu.py`` measured on a GPU, with its name; a sentence where nobody has run it."""
    path = records.results_root() / "gpu.json"
    if not path.exists():
        return Markdown(
            "Not measured: `python benchmarks/gpu.py` measures it on any machine with a GPU, in ten minutes."
        )
    measured = json.loads(path.read_text("utf-8"))
    rows = {
        name: {"images/s": case["error"]}
        if "error" in case
        else {
            "images/s": f"{case['images_per_second']:.0f}",
            "s a step": f"{case['seconds_per_step']:.3f}",
            "batch": str(case["batch"]),
            "peak MB": str(case["memory_mb"] or ""),
            "planned MB": str(case["planned_mb"]),
            "images/s, evaluated": f"{case['evaluated_per_second']:.0f}",
        }
        for name, case in measured["cases"].items()
    }
    made_with = f"{measured['processes']} process(es), torch {measured['versions']['torch']}"
    caption = f"{measured['device']}, {made_with}, {measured['date']}"
    return styled(pd.DataFrame(rows).T.fillna("").rename_axis(columns=caption))
