"""The plan of the house, enforced: who may import whom, who owns which library, what a room is.

Read from the source with ``ast``: nothing is imported, so a broken module cannot hide.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from registry import errors

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "registry"
MODULES = sorted(PACKAGE.rglob("*.py"))
NAMES = [str(path.relative_to(ROOT)) for path in MODULES]

# Columns of architecture.md section 3, from right to left; a room sees the columns before its own.
COLUMNS = (
    ("wording",),
    ("errors", "__init__"),
    ("digest", "moment", "plainfile", "reference", "settings", "resources", "wholefile"),
    ("foreign", "tensorfile"),
    ("artifact", "checkpoint"),
    ("measure", "live"),
    ("store", "remote", "report", "kinds"),
    ("workflows",),
    ("cli",),
    ("__main__",),
)
COLUMN = {room: number for number, rooms in enumerate(COLUMNS) for room in rooms}

OWNERS = {
    "click": ("registry/cli/",),
    "rich": ("registry/cli/",),
    "sqlalchemy": ("registry/store/",),
    "alembic": ("registry/store/",),
    "huggingface_hub": ("registry/remote/",),
    "jsonschema": ("registry/artifact/schema.py",),
    "cryptography": ("registry/artifact/signing.py",),
    "blake3": ("registry/digest.py",),
    "safetensors": ("registry/artifact/tensors.py",),
    "zstandard": ("registry/kinds/esi_mask/_gap8.py",),
    "jinja2": ("registry/report/",),
    "matplotlib": ("registry/report/",),
    "torch": ("registry/live/", "registry/measure/", "registry/kinds/", "registry/workflows/"),
    "transformers": ("registry/live/", "registry/measure/", "registry/kinds/",
                     "registry/workflows/"),
    "peft": ("registry/live/", "registry/measure/", "registry/kinds/", "registry/workflows/"),
}  # fmt: skip
"""Who may import a heavy library at all."""
WITHOUT_TORCH = ("body.py", "inspect.py", "__init__.py", "safety_lock/guard.py")
"""Files of a kind that run where torch is not: ``safety_lock`` has nothing to guard."""
LATE = ("numpy", "torch", "transformers", "peft", "blake3", "safetensors", "jsonschema",
        "huggingface_hub", "alembic", "cryptography", "zstandard")  # fmt: skip
"""Imported only inside the function that needs them (or for types)."""
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "common", "base", "manager", "misc"}
VERBS = ("body", "extract", "guard", "apply", "verify", "inspect")


@dataclass(frozen=True)
class Import:
    """One imported module, where, and whether it runs when the file is imported."""

    file: str
    line: int
    target: str
    is_late: bool
    is_for_types: bool


def imports_of(path: Path) -> list[Import]:
    tree = ast.parse(path.read_text("utf-8"))
    found: list[Import] = []

    def walk(node: ast.AST, *, late: bool, types: bool) -> None:
        for child in ast.iter_child_nodes(node):
            inside = late or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            typed = types
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                for statement in child.body:
                    walk(ast.Module([statement], []), late=late, types=True)
                for statement in child.orelse:
                    walk(ast.Module([statement], []), late=late, types=types)
                continue
            name = str(path.relative_to(ROOT))
            if isinstance(child, ast.Import):
                found.extend(
                    Import(name, child.lineno, alias.name, late, typed) for alias in child.names
                )
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{name}:{child.lineno}: a relative import"
                module = child.module or ""
                targets = {module}
                if module == "registry" or module.startswith("registry."):
                    targets = {
                        f"{module}.{alias.name}" if is_module(f"{module}.{alias.name}") else module
                        for alias in child.names
                    }
                found.extend(Import(name, child.lineno, target, late, typed) for target in targets)
            walk(child, late=inside, types=typed)

    walk(tree, late=False, types=False)
    return found


def is_module(dotted: str) -> bool:
    path = ROOT.joinpath(*dotted.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


IMPORTS = [found for path in MODULES for found in imports_of(path)]


def room_of(dotted_or_file: str) -> str:
    parts = dotted_or_file.removesuffix(".py").replace("/", ".").split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def kind_of(dotted_or_file: str) -> str | None:
    parts = dotted_or_file.removesuffix(".py").replace("/", ".").split(".")
    is_folder = len(parts) > 2 and (PACKAGE / "kinds" / parts[2]).is_dir()
    return parts[2] if parts[1:2] == ["kinds"] and is_folder else None


def show(found: list[Import]) -> str:
    return "\n".join(f"{one.file}:{one.line} imports {one.target}" for one in found)


def test_every_room_has_its_column():
    rooms = {room_of(name) for name in NAMES}
    assert rooms <= set(COLUMN), f"rooms without a column: {sorted(rooms - set(COLUMN))}"


def test_arrows_go_right_only():
    """Imports for types count: they are knowledge too."""
    wrong = []
    for one in IMPORTS:
        if not one.target.startswith("registry") or one.file == "registry/__init__.py":
            continue
        here, there = room_of(one.file), room_of(one.target)
        if here != there and COLUMN[there] >= COLUMN[here]:
            wrong.append(one)
    assert not wrong, show(wrong)


def test_the_root_imports_its_public_names_for_types_only():
    eager = [
        one for one in IMPORTS
        if one.file == "registry/__init__.py" and one.target.startswith("registry")
        and not (one.is_for_types or one.is_late)
    ]  # fmt: skip
    assert not eager, show(eager)


def test_a_kind_never_imports_another_kind():
    wrong = [
        one for one in IMPORTS
        if kind_of(one.file) is not None and one.target.startswith("registry.kinds")
        and kind_of(one.target) != kind_of(one.file)
        and not (one.target == "registry.kinds.contract" and one.is_for_types)
    ]  # fmt: skip
    assert not wrong, show(wrong)


def test_the_table_of_kinds_imports_no_kind():
    wrong = [
        one for one in IMPORTS
        if one.file == "registry/kinds/__init__.py" and kind_of(one.target) is not None
    ]  # fmt: skip
    assert not wrong, show(wrong)


@pytest.mark.parametrize("library", OWNERS)
def test_a_heavy_library_is_imported_by_its_owner_alone(library):
    wrong = [
        one for one in IMPORTS
        if one.target.split(".")[0] == library and not one.is_for_types
        and not one.file.startswith(OWNERS[library])
    ]  # fmt: skip
    assert not wrong, show(wrong)


@pytest.mark.parametrize("library", LATE)
def test_a_heavy_library_is_imported_where_it_is_used(library):
    wrong = [
        one for one in IMPORTS
        if one.target.split(".")[0] == library and not one.is_late and not one.is_for_types
    ]  # fmt: skip
    assert not wrong, show(wrong)


def test_the_files_of_a_kind_that_run_without_torch_do_not_import_it():
    wrong = [
        one for one in IMPORTS
        if kind_of(one.file) is not None and one.file.endswith(WITHOUT_TORCH)
        and one.target.split(".")[0] in {"torch", "transformers", "peft"}
    ]  # fmt: skip
    assert not wrong, show(wrong)


def test_checkpoint_and_artifact_know_nothing_of_torch():
    wrong = [
        one for one in IMPORTS
        if room_of(one.file) in {"checkpoint", "artifact", "store", "remote", "report"}
        and one.target.split(".")[0] in {"torch", "transformers", "peft"}
    ]  # fmt: skip
    assert not wrong, show(wrong)


@pytest.mark.parametrize("name", NAMES)
def test_a_module_has_at_most_300_lines(name):
    count = len((ROOT / name).read_text("utf-8").splitlines())
    assert count <= 300, f"{name} has {count} lines: it is two rooms"


def test_no_module_is_named_after_nothing():
    wrong = [name for name in NAMES if Path(name).stem.lstrip("_") in FORBIDDEN_NAMES]
    wrong += [name for name in NAMES if FORBIDDEN_NAMES & set(Path(name).parts)]
    assert not wrong


@pytest.mark.parametrize("name", NAMES)
def test_every_module_says_what_it_is(name):
    assert (ast.get_docstring(ast.parse((ROOT / name).read_text("utf-8"))) or "").strip()


def test_every_folder_of_modules_is_a_package():
    folders = {path.parent for path in MODULES}
    assert not [folder for folder in folders if not (folder / "__init__.py").is_file()]


def kind_folders() -> list[Path]:
    return [
        path for path in sorted((PACKAGE / "kinds").iterdir()) if (path / "__init__.py").is_file()
    ]


def test_each_kind_is_a_row_a_folder_with_six_verbs_and_a_schema():
    from registry.kinds import KINDS

    folders = {folder.name for folder in kind_folders()}
    assert folders == {kind.folder for kind in KINDS.values()}
    for kind in KINDS.values():
        files = {path.stem for path in (PACKAGE / "kinds" / kind.folder).glob("*.py")}
        assert set(VERBS) <= files
        public = {name for name in files - {"__init__"} if not name.startswith("_")}
        assert public == set(VERBS), "other files of a kind are private"
        schema = json.loads((ROOT / "schemas" / f"{kind.folder}.v1.schema.json").read_text())
        assert schema["$id"] == f"safelatch/{kind.name}/v1"
        assert schema["additionalProperties"] is False


@pytest.mark.parametrize("name", NAMES)
def test_nobody_catches_everything(name):
    """Outside the two edges; ``BaseException`` may be caught to clean up and go on raising."""
    if name in {"registry/cli/main.py", "registry/foreign.py"}:
        return
    for node in ast.walk(ast.parse((ROOT / name).read_text("utf-8"))):
        if not isinstance(node, ast.ExceptHandler):
            continue
        caught = "BaseException" if node.type is None else ast.unparse(node.type)
        last = node.body[-1]
        goes_on = isinstance(last, ast.Raise) and last.exc is None and "BaseException" in caught
        words = set(caught.replace("(", " ").replace(")", " ").replace(",", " ").split())
        assert goes_on or not {"Exception", "BaseException"} & words, f"{name}:{node.lineno}"


@pytest.mark.parametrize("name", NAMES)
def test_no_input_is_checked_with_assert(name):
    tree = ast.parse((ROOT / name).read_text("utf-8"))
    lines = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    assert not lines, f"{name}: {lines}"


def test_importing_the_package_and_the_command_loads_nothing_heavy():
    modules = ["registry"]
    if (PACKAGE / "cli" / "main.py").is_file():
        modules.append("registry.cli.main")
    code = f"import sys, {', '.join(modules)}; print(' '.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    heavy = set(OWNERS) - {"click"} | {"numpy"}
    assert not loaded & heavy


ERRORS = {
    name
    for name, value in vars(errors).items()
    if isinstance(value, type) and issubclass(value, errors.SafelatchError)
}


@pytest.mark.parametrize("path", MODULES, ids=NAMES)
def test_an_error_names_its_repair(path: Path) -> None:
    """A wrong argument may speak for itself; what the world did wrong comes with the way out."""
    silent = [
        f"line {call.lineno}: {call.func.id}"
        for call in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name)
        if call.func.id in ERRORS - {"UsageError"}
        if not any(keyword.arg == "hint" for keyword in call.keywords)
    ]
    assert not silent
