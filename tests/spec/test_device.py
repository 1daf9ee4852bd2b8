"""Device profiles as a vocabulary: old files parse, figures agree among themselves."""

import pytest

from edgeskin import catalog
from edgeskin.errors import EdgeskinError
from edgeskin.spec.device import Device

BOARDS = {name: catalog.device(name) for name in catalog.device_names()}
# What the JetPack release notes say, whichever board names it.
RELEASES = {
    "5.0.2": "8.4.1",
    "5.1.x": "8.5.2",
    "6.0": "8.6.2",
    "6.1 to 6.2.2": "10.3.0",
    "7.0": "10.13.3",
    "7.1": "10.13",
    "7.2 to 7.2.1": "10.16.2",
    "7.2.2 and later": "11.4.1",
}


def test_a_profile_of_the_first_kind_still_parses() -> None:
    old = {"name": "mine", "title": "Mine", "arch": "aarch64", "targets": ["onnxruntime"], "int8_tops": 4.0}
    device = Device.parse(old, "mine.toml")
    assert device.software == ()
    assert (device.camera.width, device.camera.height) == (1920, 1080)
    assert device.cpu_cores is None


@pytest.mark.parametrize("name", sorted(BOARDS))
def test_figures_of_a_board_agree(name: str) -> None:
    device = BOARDS[name]
    if device.int8_sparse_tops is not None:
        assert device.int8_dense_tops == pytest.approx(device.int8_sparse_tops / 2)
        assert device.int8_tops == device.int8_sparse_tops
    if device.gpu_int8_dense_tops is not None:
        assert device.int8_dense_tops is not None
        assert device.gpu_int8_dense_tops <= device.int8_dense_tops
        assert (device.gpu_int8_dense_tops == device.int8_dense_tops) == (device.dla_cores == 0)
    speed = [device.cpu_cores, device.cpu_ghz, device.int8_macs_per_cycle, device.fp32_macs_per_cycle]
    assert all(speed) or not any(speed), "a core's products are worth nothing without cores and clock"


@pytest.mark.parametrize("name", sorted(BOARDS))
def test_software_is_of_jetsons_and_each_release_is_told_alike(name: str) -> None:
    device = BOARDS[name]
    assert bool(device.software) == bool(device.sm)
    for release in device.software:
        assert RELEASES[release.jetpack] == release.tensorrt
    seen = [number for release in device.software for number in release.l4t]
    assert len(seen) == len(set(seen))


def test_boards_that_were_not_named_by_a_release_do_not_promise_it() -> None:
    newest = {name for name, device in BOARDS.items() if any(r.tensorrt == "11.4.1" for r in device.software)}
    assert newest == {"jetson-agx-orin", "jetson-thor"}


def test_a_misspelt_release_key_names_its_near_match() -> None:
    data = {"name": "a", "title": "A", "arch": "aarch64", "targets": ["tensorrt"]}
    with pytest.raises(EdgeskinError, match=r"unknown key.*software.0.cud.*did you mean 'cuda'"):
        Device.parse({**data, "software": [{"jetpack": "6.0", "tensorrt": "8.6", "cud": "12.2"}]}, "a.toml")
