"""What a machine is for TensorRT, on laid-out trees; every mismatch of a kit or an engine in one line with a cure."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

from edgeskin import catalog, doctor
from edgeskin import tensorrt_here as module
from edgeskin.backends import _cuda
from edgeskin.errors import EdgeskinError
from edgeskin.spec.manifest import Compatibility
from edgeskin.tensorrt_here import ANYWHERE, check, check_engine, dla, here, package_version, software

ORIN = _cuda.Gpu("Orin", "8.7", 8 << 30, 4 << 30, "12.6", True)
CARD = _cuda.Gpu("NVIDIA A2", "8.6", 16 << 30, 15 << 30, "13.0", False)
NANO = Compatibility(
    device="jetson-orin-nano",
    arch="aarch64",
    sm="8.7",
    tensorrt="10.3.0",
    cuda="12.6",
    jetpack="6.1 to 6.2.2",
    gpu="Orin",
    driver="12.6",
)


def but(base: Compatibility, **changes: object) -> Compatibility:
    return Compatibility.model_validate(base.model_dump() | changes)


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An Orin Nano with JetPack 6.2: its files, its architecture and its GPU."""
    (tmp_path / "proc/device-tree").mkdir(parents=True)
    model = "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0"
    (tmp_path / "proc/device-tree/model").write_text(model)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").write_text("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic\n")
    monkeypatch.setattr(doctor.platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(_cuda, "unsupported", lambda: None)
    monkeypatch.setattr(_cuda, "gpu", lambda: ORIN)
    return tmp_path


def installed(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    fake = ModuleType("tensorrt")
    fake.__version__ = version  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt", fake)


def test_an_orin_nano(board: Path, monkeypatch: pytest.MonkeyPatch):
    installed(monkeypatch, "10.3.0")
    assert here(board) == NANO


def test_trtexec_knows_its_version_better(board: Path):
    found = here(board, tensorrt="10.3.0.30")
    assert isinstance(found, Compatibility)
    assert found.tensorrt == "10.3.0.30"


def test_trtexec_alone_takes_the_gpu_from_the_profile(board: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_cuda, "unsupported", lambda: "the package 'cuda-bindings' is not installed")
    monkeypatch.delattr(_cuda, "gpu")
    assert here(board, tensorrt="10.3.0") == but(NANO, gpu="", driver="")
    assert here(board) == "the package 'cuda-bindings' is not installed"


def test_another_gpu_in_the_board_is_not_the_board(board: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_cuda, "gpu", lambda: CARD)
    found = here(board, tensorrt="10.3.0")
    assert isinstance(found, Compatibility)
    assert (found.device, found.sm, found.gpu, found.jetpack) == (ANYWHERE, "8.6", "NVIDIA A2", "")


def test_a_workstation_has_no_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(_cuda, "unsupported", lambda: None)
    monkeypatch.setattr(_cuda, "gpu", lambda: CARD)
    found = here(tmp_path, tensorrt="10.16.1.11")
    assert found == Compatibility(
        device=ANYWHERE, arch="x86_64", sm="8.6", tensorrt="10.16.1.11", gpu="NVIDIA A2", driver="13.0"
    )


def test_an_unknown_release_has_no_jetpack(board: Path):
    (board / "etc/nv_tegra_release").write_text("# R36 (release), REVISION: 40.1, GCID: 1\n")
    found = here(board, tensorrt="10.3.0")
    assert isinstance(found, Compatibility)
    assert (found.device, found.jetpack, found.cuda) == ("jetson-orin-nano", "", "")


def test_without_a_driver_tensorrt_is_not_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_cuda, "unsupported", lambda: "no NVIDIA driver on this machine")
    monkeypatch.setattr(module, "import_module", lambda name: pytest.fail(f"imported {name}"))
    assert here(tmp_path) == "no NVIDIA driver on this machine"


def test_a_failing_gpu_and_another_processor_are_reasons(board: Path, monkeypatch: pytest.MonkeyPatch):
    def broken() -> _cuda.Gpu:
        raise EdgeskinError("CUDA's cudaMemGetInfo failed")

    monkeypatch.setattr(_cuda, "gpu", broken)
    assert here(board) == "CUDA's cudaMemGetInfo failed"
    monkeypatch.setattr(doctor.platform, "machine", lambda: "riscv64")
    assert "no TensorRT for this processor: got 'riscv64'" in str(here(board))


@pytest.mark.parametrize(
    ("said", "read"), [("10.3.0", "10.3.0"), ("10.16.1.11", "10.16.1.11"), ("11.4.1.post1", "11.4.1")]
)
def test_the_version_of_the_package(monkeypatch: pytest.MonkeyPatch, said: str, read: str):
    installed(monkeypatch, said)
    assert package_version() == read


def test_an_unknown_version_of_the_package(monkeypatch: pytest.MonkeyPatch):
    installed(monkeypatch, "head")
    with pytest.raises(EdgeskinError, match="unknown version: got 'head'"):
        package_version()


def test_a_virtual_environment_that_hides_the_systems_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setattr(sys, "prefix", "/venv")
    with pytest.raises(EdgeskinError, match="sudo apt install nvidia-jetpack"):
        package_version(tmp_path)
    package = tmp_path / "python3.10/dist-packages/tensorrt/__init__.py"
    package.parent.mkdir(parents=True)
    package.touch()
    with pytest.raises(EdgeskinError, match=r"does not see the system's packages; fix: .*--system-site"):
        package_version(tmp_path)
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    with pytest.raises(EdgeskinError, match="is not installed"):
        package_version(tmp_path)


def test_missing_libraries_are_told(monkeypatch: pytest.MonkeyPatch):
    def broken(name: str) -> ModuleType:
        raise ImportError("libnvinfer.so.10: cannot open shared object file\nmore")

    monkeypatch.setattr(module, "import_module", broken)
    with pytest.raises(
        EdgeskinError, match=r"cannot be loaded: got 'libnvinfer\.so\.10: cannot open shared object file'"
    ):
        package_version()
    monkeypatch.setattr(module, "import_module", lambda name: importlib.import_module("no_such_part"))
    with pytest.raises(EdgeskinError, match="cannot be loaded: got \"No module named 'no_such_part'\""):
        package_version()


def refused(kit: Compatibility, machine: Compatibility, engine: bool = False) -> str:
    with pytest.raises(EdgeskinError) as caught:
        (check_engine if engine else check)(kit, machine)
    line = caught.value.line()
    assert "\n" not in line
    return line


def test_a_kit_fits_its_board_to_the_last_number():
    check(NANO, NANO)
    check(NANO, but(NANO, tensorrt="10.3.0.30"))
    check(but(NANO, tensorrt="10.13"), but(NANO, tensorrt="10.13.3.9"))
    check(NANO, but(NANO, device="jetson-agx-orin"))  # a kit is a graph: the engine is built for what is here


def test_a_kit_for_another_architecture():
    machine = but(NANO, device=ANYWHERE, arch="x86_64", sm="8.6", gpu="NVIDIA A2")
    line = refused(NANO, machine)
    assert line.startswith(
        "the kit is for another architecture: got 'x86_64 here'; possible: aarch64 (jetson-orin-nano)"
    )
    assert "no profile has x86_64 and SM 8.6" in line


def test_a_kit_for_another_gpu_names_the_profile_to_export_for():
    thor = but(NANO, device="jetson-thor", sm="11.0", tensorrt="10.13.3", gpu="NVIDIA Thor")
    line = refused(NANO, thor)
    assert "got 'SM 11.0 (NVIDIA Thor) here'; possible: SM 8.7 (jetson-orin-nano)" in line
    assert "--device jetson-thor`" in line
    assert "--device jetson-thor`" in refused(NANO, but(thor, device=ANYWHERE))


def test_a_kit_for_another_tensorrt_names_the_jetpack_to_export_for():
    line = refused(NANO, but(NANO, tensorrt="10.16.2.10"))
    assert line == (
        "the kit is for another TensorRT: got '10.16.2.10 here'; possible: 10.3.0; fix: export it again with "
        "`edgeskin export RUN --target tensorrt --device jetson-orin-nano --jetpack 7.2`"
    )
    named = line.split("--jetpack ")[1].rstrip("`")
    assert software(catalog.device("jetson-orin-nano"), named).tensorrt == "10.16.2", "the cure works"


def test_a_kit_on_a_tensorrt_that_no_jetpack_has():
    assert "fix: install JetPack 6.1 to 6.2.2 on this board" in refused(NANO, but(NANO, tensorrt="10.9.0"))
    assert "fix: install JetPack 6.1 to 6.2.2 on this board" in refused(NANO, but(NANO, tensorrt="8.6.2"))
    own = but(NANO, device=ANYWHERE, jetpack="")
    assert "fix: install TensorRT 10.3.0 on this machine" in refused(own, but(own, tensorrt="10.9.0"))


ENGINE = but(NANO, tensorrt="10.3.0.30")


def test_an_engine_runs_where_it_was_built():
    check_engine(ENGINE, ENGINE)
    check_engine(ENGINE, NANO)
    check_engine(ENGINE, but(ENGINE, gpu="NVIDIA Orin", driver="12.8"))  # a Jetson is told by its board
    check_engine(ENGINE, but(ENGINE, device=ANYWHERE))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tensorrt": "10.3.0.26"}, "of another TensorRT: got '10.3.0.26 here'; possible: 10.3.0.30"),
        ({"tensorrt": "10.16.2"}, "of another TensorRT"),
        ({"sm": "11.0"}, "for another GPU architecture: got 'SM 11.0 (Orin) here'; possible: SM 8.7"),
        ({"arch": "x86_64"}, "for another architecture"),
        ({"device": "jetson-agx-orin"}, "of another board: got 'jetson-agx-orin here'; possible: jetson-orin-nano"),
    ],
)
def test_an_engine_elsewhere_is_built_again(changes: dict[str, str], said: str):
    line = refused(ENGINE, but(ENGINE, **changes), engine=True)
    assert line.startswith(f"the engine is {said}")
    assert line.endswith("fix: build the kit again on this machine with `edgeskin build KIT`")


def test_an_engine_of_another_graphics_card():
    card = Compatibility(device=ANYWHERE, arch="x86_64", sm="8.6", tensorrt="10.16.1.11", gpu="NVIDIA A2")
    check_engine(card, card)
    line = refused(card, but(card, gpu="NVIDIA RTX A6000"), engine=True)
    assert "of another GPU: got 'NVIDIA RTX A6000 here'; possible: NVIDIA A2" in line


@pytest.mark.parametrize(
    ("device", "jetpack", "tensorrt"),
    [
        ("jetson-orin-nano", "", "10.16.2"),
        ("jetson-orin-nano", "6.1", "10.3.0"),
        ("jetson-orin-nano", "6.2", "10.3.0"),
        ("jetson-orin-nano", "6.2.2", "10.3.0"),
        ("jetson-orin-nano", "6.1 to 6.2.2", "10.3.0"),
        ("jetson-agx-orin", "", "11.4.1"),
        ("jetson-agx-orin", "7.2.1", "10.16.2"),
        ("jetson-agx-orin", "7.3", "11.4.1"),
        ("jetson-thor", "7.0", "10.13.3"),
        ("jetson-thor", "7.1", "10.13"),
    ],
)
def test_the_software_of_a_jetpack(device: str, jetpack: str, tensorrt: str):
    assert software(catalog.device(device), jetpack).tensorrt == tensorrt


@pytest.mark.parametrize(
    ("device", "jetpack", "said"),
    [
        ("jetson-orin-nano", "6.0", "JetPack 6.0 has TensorRT 8.6.2, and strongly typed INT8 needs 10.3"),
        ("jetson-orin-nano", "5.1.3", "JetPack 5.1.x has TensorRT 8.5.2"),
        ("jetson-orin-nano", "7.2.2", "got '7.2.2'; possible: 6.1 to 6.2.2, 7.2 to 7.2.1; fix: did you mean 7.2?"),
        ("jetson-orin-nano", "6.2.3", "did you mean 6.1?"),
        ("jetson-agx-orin", "8.0", "got '8.0'; possible: 6.1 to 6.2.2, 7.2 to 7.2.1, 7.2.2 and later"),
        ("jetson-agx-orin", "latest", "unknown JetPack for device jetson-agx-orin: got 'latest'"),
        ("jetson-xavier-nx", "", "JetPack 5.1.x has TensorRT 8.5.2, and strongly typed INT8 needs 10.3"),
        ("jetson-xavier-nx", "6.2", "unknown JetPack for device jetson-xavier-nx: got '6.2'; possible: 5.0.2, 5.1.x"),
        ("raspberry-pi-5", "", "no TensorRT is known for device raspberry-pi-5; possible: jetson-agx-orin, "),
    ],
)
def test_a_jetpack_that_cannot_be_used(device: str, jetpack: str, said: str):
    with pytest.raises(EdgeskinError) as caught:
        software(catalog.device(device), jetpack)
    assert said.split("; possible")[0] in caught.value.line()
    assert said.split("; ")[-1] in caught.value.line()


def test_every_line_of_every_profile_can_be_named():
    for name in catalog.device_names():
        device = catalog.device(name)
        for line in device.software:
            assert [other for other in device.software if module.within(module._first(line), other.jetpack)] == [line]


@pytest.mark.parametrize(
    ("device", "tensorrt", "core", "said"),
    [
        ("jetson-orin-nano", "10.3.0", 0, "device jetson-orin-nano has no DLA: got '--dla 0'; fix: leave out --dla"),
        ("jetson-agx-orin", "10.3.0", 2, "no such DLA core: got 2; possible: 0, 1"),
        ("jetson-agx-orin", "10.3.0", -1, "no such DLA core"),
        ("jetson-agx-orin", "10.16.2", 0, "possible: JetPack 6.1 to 6.2.2 (TensorRT 10.3.0), JetPack 7.2.2 and later"),
        ("jetson-orin-nx", "11.4.1", 1, "TensorRT 11.4.1 cannot use the DLA of jetson-orin-nx"),
        ("jetson-thor", "11.4.1", 0, "device jetson-thor has no DLA"),
    ],
)
def test_a_dla_that_cannot_be_used(device: str, tensorrt: str, core: int, said: str):
    with pytest.raises(EdgeskinError) as caught:
        dla(catalog.device(device), tensorrt, core)
    assert said in caught.value.line()


def test_a_dla_that_can():
    dla(catalog.device("jetson-agx-orin"), "10.3.0", 1)
    dla(catalog.device("jetson-agx-orin"), "11.4.1", 0)
    dla(catalog.device("jetson-orin-nano"), "10.3.0", None)
