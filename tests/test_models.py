"""`edgeskin models`: the record that the package carries, and any other backbone on the spot."""

import json
import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from edgeskin import backends, catalog
from edgeskin.cli import app
from edgeskin.errors import EdgeskinError
from edgeskin.model.weights import package_of
from edgeskin.spec.backbones import TARGET_TITLES
from edgeskin.spec.manifest import MODES

TESTED = catalog.backbones().backbones
SMALLEST = sorted(TESTED, key=lambda one: one.parameters)[:2]


def cli(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["models", *arguments])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


def test_every_family_and_target_is_in_it() -> None:
    names = {one.name for one in TESTED}
    assert {"resnet50", "convnext_tiny", "tf_efficientnet_lite0", "mobilenetv4_conv_small"} <= names
    assert {"swin_tiny_patch4_window7_224", "mobilevitv2_050", "efficientformerv2_s0"} <= names
    assert {one.family for one in TESTED} == {"CNN", "Transformer"}
    for one in TESTED:
        assert set(one.exports) == set(backends.NAMES)
        for found in one.exports.values():
            assert set(found) == {"fp32", "int8"}
            assert all(status.ok == (not status.why) for status in found.values())
            if found["int8"].ok:
                assert set(found["int8"].sqnr_db) == set(found["int8"].int8_share) == set(MODES)


def test_one_encoder_takes_little_more_than_half_of_two() -> None:
    for one in TESTED:
        assert 0.5 < one.share <= 0.55, one.name


@pytest.mark.parametrize("known", SMALLEST, ids=lambda one: one.name)
def test_the_record_agrees_with_a_count_made_now(known) -> None:
    """Parameters of torch, and products that torch counts against those of the exported graph in the record."""
    pytest.importorskip("timm", reason="needs the extra train")
    from edgeskin.model.backbones import examine

    found, kept = examine(known.name, known.size_px).to_json(), known.to_json()
    assert found == {key: kept[key] for key in found}


def test_the_list_tells_size_and_status() -> None:
    shown = cli()
    for one in TESTED:
        row = next(line for line in shown.splitlines() if line.strip().startswith(f"{one.name} "))
        assert f"{one.parameters / 1e6:.2f} M" in row
        assert f"{one.pair_macs / 1e9:.2f} G" in row
        assert one.family in row
        for target, found in one.exports.items():
            for precision, status in found.items():
                assert status.ok or f" {precision.upper()}: {status.why}"[:60] in shown, (one.name, target)
    assert list(TARGET_TITLES) == list(backends.NAMES)
    told = json.loads(cli("--json"))
    assert [one["name"] for one in told["backbones"]] == [one.name for one in TESTED]
    assert all({"share", "weights_here", "exports", "pair_macs"} <= set(one) for one in told["backbones"])


def test_the_list_says_where_weights_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it, but for the name of a package: beside it those of backbones would be cut."""
    lite = "tf_efficientnet_lite0"
    found = {"resnet50": "timm's cache", lite: f"package {package_of(lite)}"}
    monkeypatch.setattr("edgeskin.model.weights.at_hand", lambda name, _: found.get(name, ""))
    cells = {line.split()[0]: re.split(r"\s{2,}", line.strip()) for line in cli().splitlines() if "ok / " in line}
    assert [cells[name][6] for name in ("resnet50", lite, "convnext_tiny")] == ["timm's cache", "package", "no"]
    assert {one["name"]: one["weights_here"] for one in json.loads(cli("--json"))["backbones"]}[lite] == found[lite]


def test_the_list_needs_no_torch() -> None:
    code = "import sys; sys.modules['torch'] = sys.modules['timm'] = None; sys.argv = ['edgeskin', 'models']\n"
    code += "from edgeskin.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "resnet50" in done.stdout


def test_another_backbone_is_counted_on_the_spot() -> None:
    pytest.importorskip("timm", reason="needs the extra train")
    shown = cli("--backbone", "test_efficientnet", "--size", "64")
    assert shown.startswith("test_efficientnet at 64 px: ")
    assert "blocks.4" in shown
    assert "exports: not tested" in shown
    told = json.loads(cli("--backbone", SMALLEST[0].name, "--json"))
    assert told["tested"] is True
    assert told["exports"] == SMALLEST[0].to_json()["exports"]
    assert told["stages"] == [stage.to_json() for stage in SMALLEST[0].stages]


def test_without_timm_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(EdgeskinError, match=r"'timm' is not installed; fix: pip install 'edgeskin\[train\]'"):
        cli("--backbone", "resnet50")


def test_refusals() -> None:
    pytest.importorskip("timm", reason="needs the extra train")
    with pytest.raises(EdgeskinError, match="--size goes with --backbone"):
        cli("--size", "128")
    with pytest.raises(EdgeskinError, match="no feature pyramid"):
        cli("--backbone", "vit_tiny_patch16_224")
    with pytest.raises(EdgeskinError, match="did you mean 'resnet50'"):
        cli("--backbone", "resnt50")
