"""The wheel carries what the checkout offers, and puts nothing else into site-packages."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ASK = """
import json, edgeskin
from edgeskin import catalog
print(json.dumps({"file": edgeskin.__file__, "devices": catalog.device_names(), "recipes": catalog.recipe_names(),
                  "suites": catalog.suite_names(), "schemas": catalog.schema_names(),
                  "sweeps": catalog.sweep_names(), "trainings": catalog.training_recipe_names(),
                  "read": [catalog.device(n).name for n in catalog.device_names()]}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory, tracked) -> Path:
    """A wheel built from a copy of the tracked files, so that nothing lands in the checkout."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for path in tracked:
        copy = source / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(out.glob("*.whl"))


def names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def ask(folder: Path, cwd: Path) -> dict:
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, cwd=cwd, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_only_edgeskin_lands_in_site_packages(wheel):
    top = {name.split("/")[0] for name in names(wheel)}
    assert {name for name in top if not name.endswith(".dist-info")} == {"edgeskin"}


def test_recipes_devices_suites_and_schemas_are_in_it(wheel):
    inside = set(names(wheel))
    wanted = {
        "edgeskin/_data/export": ROOT / "export",
        "edgeskin/_data/benchmarks/recipes": ROOT / "benchmarks" / "recipes",
        "edgeskin/_data/benchmarks/suites": ROOT / "benchmarks" / "suites",
        "edgeskin/spec/schemas": ROOT / "edgeskin" / "spec" / "schemas",
    }
    for place, folder in wanted.items():
        files = list(folder.glob("*.toml"))
        assert files
        assert {f"{place}/{path.name}" for path in files} <= inside
    boards = {f"edgeskin/_data/devices/{path.parent.name}/profile.toml" for path in ROOT.glob("devices/*/profile.toml")}
    assert boards
    assert boards <= inside
    runtime = ROOT / "devices" / "runtime"
    for part in ("include/edgeskin.h", "src/api.cpp", "cmake/jetson.cmake", "examples/camera.c", "kit/build.sh"):
        assert (runtime / part).is_file()
        assert f"edgeskin/_data/devices/runtime/{part}" in inside  # what `edgeskin embed` writes
    assert "edgeskin/py.typed" in inside
    assert any(name.endswith("/licenses/LICENSE") for name in inside)


def test_nothing_strays_into_it(wheel):
    results = [name for name in names(wheel) if name.startswith("edgeskin/_data/benchmarks/results")]
    assert results == ["edgeskin/_data/benchmarks/results/models.json"]  # what `edgeskin models` lists
    for name in names(wheel):
        assert "__pycache__" not in name
        assert not name.endswith((".safetensors", ".jpg", ".onnx"))
    assert wheel.stat().st_size < 2 << 20


def test_the_catalog_says_the_same_from_the_wheel_and_from_the_checkout(wheel, tmp_path):
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    from_wheel, from_checkout = ask(site, tmp_path), ask(ROOT, tmp_path)
    assert from_wheel.pop("file").startswith(str(site))
    assert from_checkout.pop("file").startswith(str(ROOT))
    assert from_wheel == from_checkout
    assert from_wheel["devices"]
    assert from_wheel["recipes"]
