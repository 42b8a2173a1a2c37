"""The layout: few names a folder, no import circles, short functions, and what loads no torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("bench", "strategies", "datasets")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
BELOW = {
    "io": set(),
    "config": {"io"},
    "models": {"io"},
    "memory": {"io"},
    "detection": {"io"},
    "data": {"io", "config", "models", "memory"},
    "features": {"io", "config", "models", "memory", "data"},
    "training": {"io", "config", "models", "memory", "data", "features", "detection"},
    "records": {"io", "config", "detection", "memory", "training"},
    "plan": {"io", "config", "models", "memory", "data", "features", "training", "records"},
    "report": {"io", "config", "detection", "memory", "records"},
}
"""The folders of ``bench`` that each folder may import, besides itself; the other folders are commands."""
TORCH_FREE = (
    *("bench.io.*", "bench.config.*", "bench.detection.*", "bench.report.*", "bench.report.*.*"),
    *("bench.memory.constants", "bench.memory.allocator", "bench.models", "strategies.*", "strategies.*.*"),
    *(f"bench.records.{name}" for name in ("record", "schema", "paths", "locks", "progress", "failure")),
    *(f"bench.plan.{name}" for name in ("__main__", "request", "grid", "pool", "fits")),
    *(f"bench.measure.{name}" for name in ("__main__", "rows", "schedule", "suite", "summary", "worker")),
    *(f"bench.run.{name}" for name in ("__main__", "options", "specification", "pending", "matrix")),
    *("bench.run.scheduler", "bench.run.cluster.*", "bench.*"),
    *(f"bench.run.worker.{name}" for name in ("supervisor", "watchdog", "exit_status")),
)
LOADS_TORCH = {
    *("strategies.side_adapters", "strategies.testing", "strategies.controls.feature_blocks"),
    *("strategies.field.temporal_adapters", "strategies.field.ladder"),
}


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): path for path in FILES}


def imports_of(path: Path) -> set[str]:
    """Return the project's modules that a file imports, anywhere in it and in type hints too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in names}
    return {name for name in found if name in MODULES}


GRAPH = {name: imports_of(path) - {name} for name, path in MODULES.items()}


def test_no_import_circles():
    left = {name: set(found) for name, found in GRAPH.items()}
    while free := {name for name, found in left.items() if not found & left.keys()}:
        for name in free:
            del left[name]
    assert not left, f"these import each other: {sorted(left)}"


@pytest.mark.parametrize("folder", BELOW)
def test_a_folder_imports_only_what_lies_below_it(folder):
    for name, found in GRAPH.items():
        if name.split(".")[:2] != ["bench", folder] or name.endswith(".__main__"):  # a command
            continue
        others = {each.split(".")[1] for each in found if each.startswith("bench.")} - {folder}
        assert others <= BELOW[folder], (name, others - BELOW[folder])


def test_data_sets_and_strategies_import_little_of_the_bench():
    allowed = {
        "datasets": ("bench.io",),
        "strategies": ("bench.io", "bench.config.arguments", "bench.models.backbone"),
    }
    for name, found in GRAPH.items():
        package = name.split(".")[0]
        if package in allowed and name != "strategies.testing":
            names = found - {"bench.models"}  # names of models, without torch
            assert all(each.startswith((package, *allowed[package])) for each in names), (name, found)
    users = [name for name, found in GRAPH.items() if "strategies.testing" in found]
    assert not users


def test_few_names_a_folder():
    folders = {path.parent for path in FILES}
    for folder in folders:
        children = [path for path in folder.iterdir() if path.suffix == ".py" or path in folders]
        assert len(children) <= (25 if folder == ROOT / "bench" else 11), folder


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_and_parameter_lists_are_short(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            names = [each.arg for each in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            assert len(names) - (names[:1] in (["self"], ["cls"])) <= 7, node.name


def matches(name: str, pattern: str) -> bool:
    parts, wanted = name.split("."), pattern.split(".")
    return len(parts) == len(wanted) and all(w in ("*", p) for p, w in zip(parts, wanted, strict=True))


def test_what_starts_fast_loads_no_torch():
    wanted = [name for name in MODULES if any(matches(name, pattern) for pattern in TORCH_FREE)]
    packages = ("bench.data", "bench.features", "bench.training", "bench.predict", "bench.run", "bench.plan")
    packages += ("bench.measure", "bench.measure.suite")
    wanted = [name for name in wanted if name not in LOADS_TORCH]
    assert len(wanted) > 60
    assert not set(packages) - set(wanted)
    code = "import importlib, sys\nfor name in sys.argv[1:]:\n    importlib.import_module(name)\n"
    code += "    assert 'torch' not in sys.modules, name\n"
    done = subprocess.run([sys.executable, "-c", code, *wanted], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("bench.models", ["build_backbone", "build_head"]),
        ("bench.detection", ["soft_nms"]),
        ("bench.models.backbone", ["Backbone"]),
        ("strategies.base", ["Rule", "Stage", "Strategy"]),
        ("strategies.testing", ["check_strategy"]),
        ("datasets.video", ["probe", "read_frames"]),
    ],
)
def test_what_others_import_stays(module, names):
    assert all(hasattr(__import__(module, fromlist=names), name) for name in names)
