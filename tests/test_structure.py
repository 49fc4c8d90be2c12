"""The package's shape: which way imports point, what is documented, what it must not do."""

import ast
from pathlib import Path

import pytest

import asg
import asg_book
from asg import records

PACKAGES = [Path(package.__file__).parent for package in (asg, asg_book)]
# From the lowest to the highest: a module imports from levels below its own only; a new one must be given its level.
LEVELS = [
    ["asg"],
    ["asg.benchmarks"],
    ["asg.config", "asg.places", "asg.packages", "asg.launcher", "asg.own_recipes", "asg.interrupts", "asg.memory"],
    ["asg.messages"],
    ["asg.recipes"],
    ["asg.processes", "asg.tensors", "asg.tracking"],
    ["asg.data.images", "asg.data.indexed", "asg.data.grounds", "asg.data.augment"],
    ["asg.data.segmentation", "asg.data.pixels", "asg.data.scanner"],
    ["asg.data.looks"],
    [
        "asg.data.folder",
        "asg.data.toy",
        "asg.data.mini",
        "asg.data.digits",
        "asg.data.imagenet",
        "asg.data.visda",
        "asg.data.cad",
        "asg.data.pacs",
    ],
    ["asg.data.masks", "asg.data.scenes", "asg.data.street"],
    ["asg.data.folder_scenes"],
    ["asg.data"],
    ["asg.controllers.base"],
    ["asg.losses", "asg.dense_losses", "asg.metrics", "asg.dense_metrics", "asg.controllers.hand_tuned"],
    ["asg.signals", "asg.guidance"],
    ["asg.pseudo_labels"],
    ["asg.controllers.windows", "asg.controllers.gradients"],
    ["asg.controllers.chance", "asg.controllers.learned", "asg.grouping", "asg.folding"],
    ["asg.controllers"],
    ["asg.rates"],
    ["asg.contrastive", "asg.weights"],
    ["asg.models"],
    ["asg.dense_models"],
    ["asg.model_files"],
    ["asg.trainers"],
    ["asg.trainers.checkpoints", "asg.trainers.devices", "asg.trainers.divergence", "asg.trainers.task"],
    ["asg.trainers.average", "asg.trainers.optimiser", "asg.trainers.projection", "asg.trainers.frozen"],
    ["asg.trainers.loop", "asg.trainers.regularisers", "asg.trainers.weighing"],
    ["asg.trainers.conduct"],
    ["asg.trainers.classification", "asg.trainers.segmentation"],
    ["asg.trainers.self_training", "asg.trainers.interpolation"],
    ["asg.rewards"],
    ["asg.episodes"],
    ["asg.reinforce"],
    ["asg.meta_training", "asg.policy_search"],
    ["asg.records"],
    ["asg.progress", "asg.report.warnings"],
    ["asg.run"],
    ["asg.remembering"],
    ["asg.report.figures", "asg.report.tables", "asg.report.pictures"],
    ["asg.report"],
    ["asg.dryrun", "asg.own", "asg.replay", "asg.export", "asg.predict"],
    ["asg.predict_masks"],
    ["asg.cli"],
    ["asg_book"],
    ["asg_book.workers", "asg_book.profiles"],
    ["asg_book.cluster", "asg_book.policies"],
    ["asg_book.experiment"],
    ["asg_book.catalogue.published"],
    [
        "asg_book.catalogue.guidance",
        "asg_book.catalogue.settings",
        "asg_book.catalogue.learned_rates",
        "asg_book.catalogue.rivals",
        "asg_book.catalogue.successors",
        "asg_book.catalogue.synthetic_data",
        "asg_book.catalogue.scenes",
    ],
    ["asg_book.catalogue.adaptation"],
    ["asg_book.catalogue"],
    ["asg_book.estimates", "asg_book.selection", "asg_book.measures"],
    ["asg_book.analysis", "asg_book.inspection", "asg_book.build", "asg_book.glance", "asg_book.golden"],
    ["asg_book.plots", "asg_book.paying", "asg_book.pictures"],
    ["asg_book.automatic", "asg_book.illustrations"],
    ["asg_book.figures", "asg_book.formatting"],
    ["asg_book.binding"],
    ["asg_book.choices", "asg_book.pages", "asg_book.status"],
    ["asg_book.since"],
    ["asg_book.engines"],
    ["asg_book.policy_commands"],
    ["asg_book.cli"],
]
LEVEL = {module: level for level, modules in enumerate(LEVELS) for module in modules}


def module_name(path: Path) -> str:
    package = next(package for package in PACKAGES if package in path.parents)
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for package in PACKAGES for path in sorted(package.rglob("*.py"))}


def imports(name: str, source: str, is_package: bool = False) -> set[str]:
    """Modules of the package that ``source`` (module ``name``) imports, also inside functions."""
    modules = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = name.split(".")
                parents = parents[: len(parents) - node.level + is_package]
                base = ".".join([*parents, base] if base else parents)
            for alias in node.names:  # "from asg.data import toy" is the module, "… import Domains" the package
                inner = f"{base}.{alias.name}"
                modules.add(inner if inner in FILES else base)
    return {module for module in modules if module.split(".")[0] in ("asg", "asg_book")}


def test_the_import_reader_sees_every_way_of_importing():
    source = (
        "import asg.run\nfrom asg import records, AsgError\nfrom asg.data import toy\nimport torch\n"
        "def f():\n    from .loop import fit\n    from ..config import RunConfig\n"
    )
    expected = {"asg.run", "asg.records", "asg", "asg.data.toy", "asg.trainers.loop", "asg.config"}
    assert imports("asg.trainers.classification", source) == expected
    assert imports("asg.data", "from . import toy", is_package=True) == {"asg.data.toy"}


def test_every_module_has_a_level():
    assert FILES.keys() == LEVEL.keys()


@pytest.mark.parametrize("name", FILES)
def test_no_import_points_upward(name: str):
    imported = imports(name, FILES[name].read_text(), FILES[name].name == "__init__.py")
    upward = [module for module in imported if LEVEL.get(module, len(LEVELS)) >= LEVEL.get(name, -1)]
    assert upward == []


def public(tree: ast.Module) -> list[tuple[str, ast.AST]]:
    """Public classes and functions at the top of a module, and the public methods of its classes."""
    members = []

    def visit(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.name[0] != "_":
                members.append((prefix + node.name, node))
                if isinstance(node, ast.ClassDef):
                    visit(node.body, f"{prefix}{node.name}.")

    visit(tree.body, "")
    return members


@pytest.mark.parametrize("name", FILES)
def test_everything_public_has_a_docstring(name: str):
    tree = ast.parse(FILES[name].read_text())
    bare = [what for what, node in [("the module", tree), *public(tree)] if not ast.get_docstring(node)]
    assert bare == []


def test_the_docstring_check_finds_what_lacks_one():
    tree = ast.parse('class A:\n    """A."""\n    def f(self): ...\n    def _g(self): ...\ndef h(): ...\n')
    assert [what for what, node in public(tree) if not ast.get_docstring(node)] == ["A.f", "h"]


@pytest.mark.parametrize("name", FILES)
def test_device_and_random_generator_are_never_global(name: str):
    """A library that draws from torch's global generator may be given a seed where that generator is forked."""
    tree = ast.parse(FILES[name].read_text())
    forked = [n for n in ast.walk(tree) if isinstance(n, ast.With) and "fork_rng" in ast.unparse(n.items[0])]
    inside = {id(call) for block in forked for call in ast.walk(block)}
    calls = [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call) and id(node) not in inside]
    seeds = {"torch.manual_seed", "torch.cuda.manual_seed_all", "np.random.seed", "random.seed", "set_seed"}
    assert [call for call in calls if call.endswith(".cuda") or call in seeds] == []


READING = sorted(
    path
    for part in ("asg", "book/asg_book", "data_scripts", "benchmarks")
    for path in (records.REPOSITORY / part).rglob("*.py")
)


@pytest.mark.parametrize("path", READING, ids=lambda path: path.stem)
def test_whatever_is_read_or_written_as_text_names_its_encoding(path: Path):
    """The locale's is another one from machine to machine."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        named = {keyword.arg for keyword in node.keywords}
        before = {"read_text": 0, "write_text": 1}.get(node.func.attr)
        ours = isinstance(node.func.value, ast.Name) and node.func.value.id == "records"
        if before is not None and not ours:
            assert "encoding" in named or len(node.args) > before, f"{path.name}, line {node.lineno}"


LONGEST = {ast.FunctionDef: 60, ast.Module: 400}  # lines, of what one reads at once


@pytest.mark.parametrize("path", READING, ids=lambda path: path.stem)
def test_functions_and_modules_can_be_read_at_once(path: Path):
    tree = ast.parse(text := path.read_text("utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    long = [f.name for f in functions if f.end_lineno - f.lineno + 1 > LONGEST[ast.FunctionDef]]
    assert long == [] and len(text.splitlines()) <= LONGEST[ast.Module]
