import re
from pathlib import Path

import pytest

from edgeskin import catalog
from edgeskin.errors import EdgeskinError
from edgeskin.spec.device import Device

ROOT = Path(__file__).resolve().parents[1]
BOARDS = catalog.device_names()


def test_every_shipped_file_is_valid_and_bears_its_own_name():
    for names, read in (
        (catalog.schema_names(), catalog.schema),
        (catalog.recipe_names(), catalog.recipe),
        (catalog.suite_names(), catalog.suite),
        (catalog.sweep_names(), catalog.sweep),
        (catalog.training_recipe_names(), catalog.training_recipe),
        (catalog.device_names(), catalog.device),
    ):
        assert names
        assert [read(name).name for name in names] == names


@pytest.mark.parametrize("name", BOARDS)
def test_a_device_says_where_its_figures_come_from(name):
    device = catalog.device(name)
    text = (ROOT / "devices" / name / "profile.toml").read_text(encoding="utf-8")
    figures = re.findall(r"^(memory_gb|bandwidth_gb_s|int8_tops|sm|power_modes_w) =", text, flags=re.MULTILINE)
    assert device.sources or not figures
    assert set(device.unverified) <= set(Device.model_fields), "unverified names fields"
    assert set(device.targets) <= {"tensorrt", "openvino", "onnxruntime"}
    assert ("tensorrt" in device.targets) == bool(device.sm), "a compute capability goes with TensorRT"


def test_the_boards_people_ask_for_are_there():
    assert {"generic-x86", "generic-aarch64", "jetson-orin-nano", "raspberry-pi-5"} <= set(BOARDS)


def test_a_near_miss_is_named():
    with pytest.raises(EdgeskinError, match=r"unknown device.*'raspbery-pi-5'.*did you mean 'raspberry-pi-5'"):
        catalog.device("raspbery-pi-5")
    with pytest.raises(EdgeskinError, match=r"unknown schema.*possible: .*spc"):
        catalog.schema("nothing-like-it")


def test_a_path_is_read_as_a_path(tmp_path):
    board = tmp_path / "mine.toml"
    board.write_text('name = "mine"\ntitle = "Mine"\narch = "aarch64"\ntargets = ["onnxruntime"]\n')
    assert catalog.device(str(board)).title == "Mine"
    with pytest.raises(EdgeskinError, match="no such device file"):
        catalog.device(str(tmp_path / "absent.toml"))


def test_an_unknown_key_names_its_near_match(tmp_path):
    board = tmp_path / "mine.toml"
    board.write_text('name = "mine"\ntitle = "Mine"\narch = "aarch64"\ntargets = ["onnxruntime"]\nint8_top = 4\n')
    with pytest.raises(EdgeskinError, match=r"unknown key.*int8_top.*did you mean 'int8_tops'"):
        catalog.device(str(board))


def test_package_data_comes_before_the_checkout(tmp_path, monkeypatch):
    package = tmp_path / "site" / "edgeskin"
    (package / "_data" / "devices" / "here").mkdir(parents=True)
    (tmp_path / "site" / "devices" / "there").mkdir(parents=True)
    monkeypatch.setattr(catalog, "_PACKAGE", package)
    assert catalog.data_dir("devices") == package / "_data" / "devices"
    (package / "_data" / "devices" / "here").rmdir()
    (package / "_data" / "devices").rmdir()
    assert catalog.data_dir("devices") == tmp_path / "site" / "devices"


def test_an_installation_without_data_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(catalog, "_PACKAGE", tmp_path / "edgeskin")
    with pytest.raises(EdgeskinError, match=r"installation is incomplete.*reinstall"):
        catalog.data_dir("export")


def test_a_training_recipe_names_no_place_and_near_matches(tmp_path):
    text = (ROOT / "benchmarks" / "recipes" / "phantom.toml").read_text(encoding="utf-8")
    path = tmp_path / "mine.toml"
    for line, words in (
        ('[data]\nroot = "here"', r"data.root.*fix: remove it"),
        ('[data]\nshema_name = "spc"', "did you mean 'schema_name'"),
    ):
        path.write_text(text.replace("[data]", line))
        with pytest.raises(EdgeskinError, match=words):
            catalog.training_recipe(str(path))
    path.write_text(text.replace("epochs", "epoch"))
    with pytest.raises(EdgeskinError, match=r"train\.epoch.*did you mean 'epochs'"):
        catalog.training_recipe(str(path))
    with pytest.raises(EdgeskinError, match=r"unknown training recipe.*did you mean 'phantom'"):
        catalog.training_recipe("phantm")
    path.write_text(text)
    assert catalog.training_recipe(str(path)).data.at("somewhere").roles.control == 0.15
