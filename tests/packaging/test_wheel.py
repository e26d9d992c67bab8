"""What is installed is what is in the repository, and it works away from the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from support.locks import bundle_of, make_lock, read_record
from support.tiny_models import llama_config, write_checkpoint

from registry import __version__
from registry.artifact.bundle import write_bundle

ROOT = Path(__file__).resolve().parents[2]
MOVED = {"schemas/": "registry/_schemas/", "migrations/": "registry/_migrations/"}


def run(*command, cwd, **options):
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        **options,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def tracked():
    """The files under version control, and those about to be; ``None`` without git."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        return None
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    return [name for name in listed.splitlines() if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built through the source distribution as an index would."""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    (built,) = folder.glob("*.whl")
    (source,) = folder.glob("*.tar.gz")
    assert source.name == f"safelatch-{__version__}.tar.gz"
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A folder with the installed package and nothing else of ours."""
    target = tmp_path_factory.mktemp("site")
    run(
        sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index",
        "--disable-pip-version-check", "--target", target, wheel, cwd=target,
    )  # fmt: skip
    return target


@pytest.fixture
def elsewhere(installed, tmp_path):
    """Run the installed command away from the checkout: no path leads back to it."""
    environment = {
        name: value for name, value in os.environ.items()
        if not name.startswith(("SAFELATCH_", "PYTHON"))
    } | {
        "PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1", "HOME": str(tmp_path),
        "SAFELATCH_HOME": str(tmp_path / "home"), "SAFELATCH_CACHE": str(tmp_path / "cache"),
    }  # fmt: skip
    folder = tmp_path / "work"
    folder.mkdir()

    def call(*arguments):
        return run(sys.executable, *arguments, cwd=folder, env=environment)

    return call


def test_the_wheel_holds_every_tracked_file_of_the_package_and_no_other(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    listed = tracked()
    if listed is None:
        pytest.skip("the tracked files are known to git alone, and it is not here")
    expected = set()
    for name in listed:
        top = next((prefix for prefix in MOVED if name.startswith(prefix)), None)
        if top is not None:
            expected.add(MOVED[top] + name.removeprefix(top))
        elif name.startswith("registry/"):
            expected.add(name)
    assert sorted(names - expected) == [], "in the wheel, not tracked"
    assert sorted(expected - names) == [], "tracked, not in the wheel"


def test_the_wheel_carries_its_licence_its_types_and_its_command(wheel):
    archive = zipfile.ZipFile(wheel)
    names = archive.namelist()
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    assert "registry/py.typed" in names
    (points,) = [name for name in names if name.endswith("entry_points.txt")]
    listed = archive.read(points).decode().splitlines()
    for name in ("safelatch", "hf-safelatch"):  # the second one as extensions of hf are called
        assert f"{name} = registry.cli.main:main" in listed


def test_the_installed_package_is_the_one_that_runs(elsewhere, installed):
    code = "import registry, registry.resources as r; print(registry.__file__, r.bundled_dir('schemas'))"
    module, schemas = elsewhere("-c", code).split()
    assert Path(module).is_relative_to(installed)
    assert Path(schemas) == installed / "registry" / "_schemas"


def test_the_installed_command_makes_a_registry_and_publishes(elsewhere, tmp_path):
    record = read_record(write_checkpoint(tmp_path / "base", llama_config()))
    bundle = write_bundle(bundle_of(record, make_lock()), tmp_path / "lock")
    elsewhere("-m", "registry", "init")
    elsewhere("-m", "registry", "init")
    assert (tmp_path / "home" / "registry.db").is_file()
    elsewhere(
        "-m", "registry", "publish", bundle, "--name", "tiny-lock", "--version", "1.0.0"
    )  # fmt: skip
    listed = elsewhere("-m", "registry", "list")
    assert "tiny-lock" in listed
    assert "1.0.0" in listed
    digest = bundle_of(record, make_lock()).named("tiny-lock", "1.0.0").manifest.digest
    assert digest in elsewhere("-m", "registry", "show", "tiny-lock@1.0.0", "--field", "digest")
