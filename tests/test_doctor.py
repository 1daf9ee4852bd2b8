import re
import subprocess
import sys
from importlib import metadata, util
from pathlib import Path

import pytest

from edgeskin import catalog, doctor, tensorrt_here
from edgeskin.doctor import Check, Machine, match_device, read_machine
from edgeskin.spec.base import read_toml
from edgeskin.spec.manifest import Compatibility

ROOT = Path(__file__).resolve().parents[1]


def machine(arch="x86_64", processor="", board="", flags=()):
    return Machine(arch, processor, board, frozenset(flags), 4)


def find(checks: list[Check], name: str) -> Check:
    return next(check for check in checks if check.name == name)


def test_this_machine_is_not_broken():
    checks = doctor.doctor()
    assert doctor.exit_code(checks) == 0, [c for c in checks if c.status == "broken"]
    assert find(checks, "python").found == ".".join(str(n) for n in sys.version_info[:3])
    assert len({check.name for check in checks}) == len(checks)
    assert all(check.to_json()["status"] in ("ok", "absent", "broken") for check in checks)


def test_every_absent_extra_says_what_it_enables_and_how_to_get_it(monkeypatch):
    monkeypatch.setattr(doctor, "_package", lambda name, module, minimum: ("absent", f"no {name}"))
    for extra in doctor.EXTRAS:
        check = doctor._packages(f"extra {extra.name}", extra.packages, extra.enables, extra.pip)
        assert check.status == "absent"
        assert check.enables
        assert check.fix == f"pip install 'edgeskin[{extra.name}]'"
    engine = doctor._engine()
    assert engine.status == "absent"
    assert "onnxruntime" in engine.fix
    assert doctor.exit_code([check, engine]) == 0


def test_a_package_that_is_not_there_is_absent_and_one_that_lost_its_module_is_broken(monkeypatch):
    assert doctor._package("edgeskin-no-such-package", "edgeskin_no_such_module", None)[0] == "absent"
    status, text = doctor._package("numpy", "edgeskin_no_such_module", None)
    assert status == "broken"
    assert "edgeskin_no_such_module" in text


def test_a_module_without_metadata_counts_as_there():
    assert doctor._package("edgeskin-no-such-package", "json", None)[0] == "ok"


def test_too_old_is_broken_and_says_what_is_needed():
    version = metadata.version("numpy")
    assert doctor._package("numpy", "numpy", version)[0] == "ok"
    status, text = doctor._package("numpy", "numpy", "9999.1")
    assert status == "broken"
    assert "needs >= 9999.1" in text


@pytest.mark.parametrize(
    ("older", "newer"), [("1.9", "1.10"), ("2.15.0+cpu", "2.15.1"), ("1.0rc1", "1.0.1"), ("2", "2.0.1")]
)
def test_versions_are_compared_as_numbers(older, newer):
    assert doctor._numbers(older) < doctor._numbers(newer)


def test_equal_versions_written_differently_are_equal():
    assert doctor._numbers("2.15") == doctor._numbers("2.15.0") == doctor._numbers("2.15.0+cpu")


def test_old_python_is_broken():
    assert doctor._python((3, 9, 18)).status == "broken"
    assert doctor._python((3, 10, 0)).status == "ok"


def test_minimum_versions_come_from_the_package_metadata():
    asked = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    minimum = doctor._minimum_versions()
    assert f'"torch>={minimum["torch"]}"' in asked
    assert f'"numpy>={minimum["numpy"]}"' in asked


def test_extras_agree_with_pyproject():
    project = read_toml(ROOT / "pyproject.toml")["project"]

    def names(lines):
        found = {re.match(r"[A-Za-z0-9._-]+", line)[0].lower() for line in lines if ";" not in line}
        return found - {"edgeskin"}

    assert names(project["dependencies"]) == set(doctor.CORE)
    for extra in doctor.EXTRAS:
        assert names(project["optional-dependencies"][extra.name]) == set(extra.packages), extra.name
    told = {extra.name for extra in doctor.EXTRAS}
    assert told == set(project["optional-dependencies"]) - {"all", "dev", "tensorrt"}


def test_every_module_named_is_the_packages_own():
    for packages in (doctor.CORE, *(extra.packages for extra in doctor.EXTRAS)):
        for name, module in packages.items():
            try:
                files = metadata.files(name)
            except metadata.PackageNotFoundError:
                continue
            assert util.find_spec(module) is not None
            assert any(str(file).startswith(module) for file in files or []), f"{name} has no module {module}"


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (machine("aarch64", board="NVIDIA Jetson Orin Nano Developer Kit"), "jetson-orin-nano"),
        (machine("aarch64", board="NVIDIA Jetson AGX Orin Developer Kit"), "jetson-agx-orin"),
        (machine("aarch64", board="NVIDIA Jetson Xavier NX Developer Kit"), "jetson-xavier-nx"),
        (machine("aarch64", board="NVIDIA Jetson AGX Thor Developer Kit"), "jetson-thor"),
        (machine("aarch64", board="NXP i.MX8MPlus EVK board"), "imx8m-plus"),
        (machine("aarch64", board="Raspberry Pi 5 Model B Rev 1.0"), "raspberry-pi-5"),
        (machine("x86_64", processor="Intel(R) Core(TM) Ultra 7 165H"), "core-ultra-165h"),
        (machine("x86_64", processor="Intel Atom(R) x7425E"), "atom-x7425e"),
    ],
)
def test_a_known_board_finds_its_profile(given, name):
    assert match_device(given) == (name, True)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (machine("x86_64", processor="Intel(R) Xeon(R) Platinum"), "generic-x86"),
        (machine("aarch64", board="Raspberry Pi 4 Model B Rev 1.5"), "generic-aarch64"),
        (machine("aarch64"), "generic-aarch64"),
        (machine("x86_64", board="Raspberry Pi 5"), "generic-x86"),
        (machine("riscv64"), ""),
    ],
)
def test_another_machine_gets_the_generic_profile(given, name):
    assert match_device(given) == (name, False)
    assert not name or name in catalog.device_names()


def test_proc_is_read_on_both_architectures(tmp_path):
    (tmp_path / "proc" / "device-tree").mkdir(parents=True)
    (tmp_path / "proc" / "cpuinfo").write_text("processor\t: 0\nFeatures\t: fp asimd asimddp\n\nprocessor\t: 1\n")
    (tmp_path / "proc" / "device-tree" / "model").write_bytes(b"Raspberry Pi 5 Model B Rev 1.0\0")
    arm = read_machine(tmp_path)
    assert arm.board == "Raspberry Pi 5 Model B Rev 1.0"
    assert arm.flags == {"fp", "asimd", "asimddp"}
    (tmp_path / "proc" / "cpuinfo").write_text("model name\t: Intel Atom(R) x7425E\nflags\t\t: sse avx2 avx_vnni\n")
    intel = read_machine(tmp_path)
    assert intel.processor == "Intel Atom(R) x7425E"
    assert intel.flags == {"sse", "avx2", "avx_vnni"}


def test_no_proc_is_no_fault(tmp_path):
    bare = read_machine(tmp_path)
    assert (bare.processor, bare.board, bare.flags) == ("", "", frozenset())
    assert bare.cores >= 1
    assert doctor.exit_code(doctor.doctor(tmp_path)) == 0


@pytest.mark.parametrize(
    ("given", "status", "word"),
    [
        (machine(flags=["avx2", "avx512_vnni"]), "ok", "VNNI"),
        (machine(flags=["avx2"]), "absent", "AVX2"),
        (machine(flags=["sse2"]), "absent", "none"),
        (machine(flags=[]), "absent", "unknown"),
        (machine("aarch64", flags=["asimd", "asimddp"]), "ok", "SDOT"),
        (machine("aarch64", flags=["asimd"]), "absent", "NEON"),
    ],
)
def test_int8_instructions(given, status, word):
    check = doctor._int8(given)
    assert check.status == status
    assert word in check.found


def target(name: str, given: Machine) -> Check:
    return find(doctor._targets(given), f"target {name}")


def test_targets_with_a_recipe_run_here():
    for check in doctor._targets(doctor.read_machine()):
        if check.name == "target tensorrt":
            continue  # needs a GPU
        assert check.status == "ok", check
        assert check.found.startswith("runs here: ")


def test_a_target_that_the_board_cannot_run_names_another():
    board = machine("aarch64", board="NXP i.MX8MPlus EVK board")
    check = target("openvino", board)
    assert check.status == "absent"
    assert check.found.startswith("not on imx8m-plus, which runs onnxruntime; openvino ")
    assert check.fix == "export for onnxruntime"
    assert target("onnxruntime", board).status == "ok"


def test_a_target_without_a_recipe_is_not_promised(monkeypatch):
    recipes = [name for name in catalog.recipe_names() if not name.startswith("openvino")]
    monkeypatch.setattr(catalog, "recipe_names", lambda: recipes)
    check = target("openvino", machine("x86_64"))
    assert check.status == "absent"
    assert check.found.endswith("edgeskin has no recipe for it yet")
    assert check.fix == "export for onnxruntime"


def test_tensorrt_is_told_by_the_gpu_and_not_by_the_profile(monkeypatch):
    monkeypatch.setattr(tensorrt_here, "here", lambda: "no NVIDIA driver on this machine; fix: install it")
    check = doctor._tensorrt()
    assert (check.status, check.fix) == ("absent", "install it")
    assert check.found == "no NVIDIA driver on this machine; build kits are made without it"
    found = Compatibility(device="this machine", arch="x86_64", sm="9.0", tensorrt="10.16.1", gpu="NVIDIA H200")
    monkeypatch.setattr(tensorrt_here, "here", lambda: found)
    assert doctor._tensorrt().status == "ok"
    assert doctor._tensorrt().found == "runs here: TensorRT 10.16.1, NVIDIA H200, SM 9.0"


def test_a_target_whose_engine_is_missing_says_what_to_install(monkeypatch):
    monkeypatch.setattr(doctor, "_package", lambda name, module, minimum: ("absent", f"no {name}"))
    check = target("openvino", machine("x86_64"))
    assert (check.status, check.found) == ("absent", "no openvino installed")
    assert check.fix == "pip install 'edgeskin[openvino]'"
    monkeypatch.setattr(doctor, "_package", lambda name, module, minimum: ("broken", "openvino 1, needs >= 2"))
    assert target("openvino", machine("x86_64")).status == "broken"


def test_a_machine_without_a_profile_promises_no_target():
    for check in doctor._targets(machine("riscv64")):
        assert check.status == "absent"
        if check.name == "target tensorrt":
            continue  # says what it lacks itself
        assert check.found.startswith("no profile for")


def test_sensors_stand_among_the_checks():
    sensor = Check("energy sensor", "absent", "no INA3221", "millijoules")
    checks = doctor.doctor(sensors=[sensor])
    assert find(checks, "energy sensor") is sensor
    assert doctor.exit_code(checks) == 0


def test_avx2_alone_warns_of_saturating_sums():
    assert "verify" in doctor._int8(machine(flags=["avx2"])).fix


def test_disk_counts_the_space_where_a_folder_would_be_made(tmp_path, monkeypatch):
    assert doctor._disk("disk", tmp_path / "not" / "yet").status == "ok"
    monkeypatch.setattr(doctor, "_MIN_FREE_BYTES", 1 << 62)
    check = doctor._disk("disk", tmp_path)
    assert check.status == "broken"
    assert check.fix


def test_nothing_heavy_is_imported():
    code = (
        "import sys; from edgeskin.doctor import doctor; doctor();"
        "print({n.split('.')[0] for n in sys.modules} & {'torch','openvino','onnxruntime','nncf','sklearn','scipy'})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
