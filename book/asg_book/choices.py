"""What was tried before settings were chosen: trials, strengths, policies and searches."""

import json
from collections.abc import Mapping, Sequence

import pandas as pd
from IPython.display import Markdown, display
from pandas.io.formats.style import Styler

from asg.controllers.learned import load_policy
from asg.controllers.windows import policy_path
from asg_book import selection
from asg_book.binding import Bound
from asg_book.formatting import TITLES, captioned, styled
from asg_book.profiles import policy_name


def trials(bound: Bound) -> pd.DataFrame:
    """Plain training in each setting, in per cent: what the ImageNet network knew, what training reached and kept."""
    rows = {}
    for arm, record in ((arm, runs[0]) for arm, runs in bound.arms.items() if runs):
        knew, end = record["evaluations"][0]["kept"], record["final"]
        shares = {
            "ImageNet network": knew, "trained, last": end["accuracy"],
            "trained, best": record["best_on_target"]["accuracy"], "left unreached": knew - end["accuracy"],
            "kept head, last": end["kept"], "agreement, last": end["agreement"],
        }  # fmt: skip
        rows[arm] = {name: f"{100 * share:.1f}" for name, share in shares.items()}
        rows[arm]["validation loss"] = f"{end['validation_loss']:.2f}"
    return pd.DataFrame(rows).T


def choices(bound: Bound, kinds: Sequence[str]) -> Styler:
    """The strengths that were tried, weakest first, their loss on held-out renders, and the chosen one of each kind."""
    rows = {}
    for kind in kinds:
        tried = {arm: runs for arm, runs in bound.arms.items() if arm.startswith(f"{kind}, ") and runs}
        chosen = selection.best_kept(list(tried.values())) if tried else None
        for k, (arm, runs) in enumerate(tried.items()):
            final = pd.DataFrame([record["final"] for record in runs])
            loss, error = final["validation_loss"].mean(), final["validation_loss_error"].mean()
            penalty = bound.configs[arm].regulariser
            rows[kind, arm.removeprefix(f"{kind}, ")] = {
                "strength": f"{penalty.strength:g}" if penalty else "—",
                "held-out loss": f"{loss:.2f} ± {error:.2f}", "held-out KL": f"{final['kl'].mean():.2f}",
                "held-out accuracy": f"{100 * final['validation'].mean():.1f}", "chosen": "✓" if k == chosen else "",
            }  # fmt: skip
    return styled(pd.DataFrame(rows).T)


def tried(bound: Bound) -> Styler:
    """Trials of lengths and base rates of plain training, and which the rule chooses (asg_book.selection.shortest)."""
    made = {arm: runs for arm, runs in bound.arms.items() if runs}
    keys = {arm: (bound.configs[arm].steps, bound.configs[arm].lr) for arm in made}
    chosen = selection.shortest({keys[arm]: made[arm] for arm in made}) if made else None
    rows = {}
    for arm, runs in made.items():
        loss, error = (selection.mean_final(runs, m) for m in ("validation_loss", "validation_loss_error"))
        shares = {"held-out accuracy": "validation", "photos": bound.experiment.metric, "agreement": "agreement"}
        rows[arm] = {
            "held-out loss": f"{loss:.2f} ± {error:.2f}",
            **{name: f"{100 * selection.mean_final(runs, metric):.1f}" for name, metric in shares.items()},
            "chosen": "✓" if keys[arm] == chosen else "",
        }
    return captioned(pd.DataFrame(rows).T, TITLES.get(bound.profile, bound.profile))


def policy_cards(profile: str, names: Sequence[str]) -> dict[str, dict]:
    """Name → card of the policies that have been trained; which have not is said, with the command that trains them."""
    cards, missing = {}, []
    for name in names:
        path = policy_path(policy_name(profile, name))
        if path.exists():
            cards[name] = load_policy(path)[1]
        else:
            missing.append(f"`asg policy train {name} --profile {profile}`")
    if missing:
        display(Markdown(f"Policies that are not trained yet: {', '.join(missing)}."))
    return cards


def search_trials(profile: str, name: str) -> list[dict]:
    """The trials of a search of rates, best first; none where it has not been made, which is said with the command."""
    path = policy_path(policy_name(profile, f"{name}-search"), ".json")
    if path.exists():
        return json.loads(path.read_text("utf-8"))["trials"]
    display(Markdown(f"No search yet. `asg policy search {name} --profile {profile}` makes it."))
    return []


def cards(made: Mapping[str, dict]) -> Styler:
    """How each policy was trained, and the held-out losses at the end of its last ten episodes, from its card."""
    rows = {}
    for name, card in made.items():
        meta, last = card["meta"], pd.DataFrame(card["curve"][-10:])
        rows[name] = {
            "reward": meta["reward"], "λ": f"{meta['student']['guidance']:g}", "episodes": len(card["curve"]),
            "steps each": meta["student"]["steps"], "γ": f"{meta['gamma']:g}", "meta rate": f"{meta['lr']:g}",
            "baseline": "yes" if meta["baseline"] else "no", "minutes": f"{card['seconds'] / 60:.0f}",
            "end loss": f"{last['held_task'].mean():.2f}", "end KL": f"{last['held_guidance'].mean():.2f}",
        }  # fmt: skip
    return styled(pd.DataFrame(rows).T)
