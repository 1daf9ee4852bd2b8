"""What this machine is for TensorRT, and whether a kit or an engine belongs on it; if not, one sentence with a cure."""

import re
import sys
from importlib import import_module
from pathlib import Path

from edgeskin import catalog, doctor
from edgeskin.backends import _cuda
from edgeskin.errors import EdgeskinError
from edgeskin.spec.device import Device, Software
from edgeskin.spec.manifest import Compatibility

ANYWHERE = "this machine"  # the device of a machine that no profile names
LEAST = (10, 3)  # strong typing with INT8 needs 10; 10.3 is the first that a JetPack brought and that we know
_LAST_DLA = (10, 7)  # of TensorRT 10
_DLA_AGAIN = (11, 4, 1)  # on AGX Orin alone
_DLA_AGAIN_ON = "jetson-agx-orin"


def here(root: Path = Path("/"), tensorrt: str | None = None) -> Compatibility | str:
    """What an engine that is built on this machine is bound to, or the reason why none can be.

    Args:
        root: holds proc/ and etc/; another one in tests.
        tensorrt: version of TensorRT where it is not the Python package's, that of `trtexec`.
    """
    machine = doctor.read_machine(root)
    if machine.arch not in ("x86_64", "aarch64"):
        return EdgeskinError("no TensorRT for this processor", got=machine.arch, possible="x86_64, aarch64").line()
    name, exact = doctor.match_device(machine)
    board = catalog.device(name) if exact and catalog.device(name).sm else None
    reason = _cuda.unsupported()
    if reason and not (tensorrt and board):  # with trtexec alone the board's profile tells enough
        return reason
    try:
        gpu = None if reason else _cuda.gpu()
        version = tensorrt or package_version()
    except EdgeskinError as error:
        return error.line()
    if board and gpu and board.sm != gpu.sm:
        board = None  # another GPU than the board's own
    line = _line_of(board, l4t(root)) if board else None
    return Compatibility(
        device=board.name if board else ANYWHERE,
        arch="aarch64" if machine.arch == "aarch64" else "x86_64",
        sm=gpu.sm if gpu else board.sm if board else "",
        tensorrt=version,
        cuda=line.cuda if line else "",
        jetpack=line.jetpack if line else "",
        gpu=gpu.name if gpu else "",
        driver=gpu.driver if gpu else "",
    )


def package_version(system: Path = Path("/usr/lib")) -> str:
    """Version of the installed TensorRT, digits and dots.

    Ask `_cuda.unsupported` first: importing it without a driver may end the process.

    Raises:
        EdgeskinError: it is not installed, cannot be loaded, or lies where this Python does not look.
    """
    try:
        said = str(import_module("tensorrt").__version__)
    except ModuleNotFoundError as error:
        if error.name != "tensorrt":
            raise EdgeskinError("TensorRT cannot be loaded", got=str(error), fix="install it again") from error
        # JetPack brings the module as a package of the system, for the system's Python alone.
        apart = sys.prefix != sys.base_prefix and any(system.glob("python3*/dist-packages/tensorrt/__init__.py"))
        if apart:
            raise EdgeskinError(
                "TensorRT is installed, but this virtual environment does not see the system's packages",
                fix="make one with `/usr/bin/python3 -m venv --system-site-packages`, or build with --trtexec",
            ) from error
        raise EdgeskinError(
            "the package 'tensorrt' is not installed",
            fix="on a Jetson `sudo apt install nvidia-jetpack`, elsewhere pip install 'edgeskin[tensorrt]'",
        ) from error
    except (ImportError, OSError) as error:  # its libraries are missing or of another version
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise EdgeskinError("TensorRT cannot be loaded", got=first, fix="install it again") from error
    found = re.match(r"\d+\.\d+(\.\d+)*", said)
    if found is None:
        raise EdgeskinError("TensorRT of an unknown version", got=said, fix="install a released one")
    return found[0]


def l4t(root: Path = Path("/")) -> str:
    """Release of a Jetson's system, "36.4.3", out of /etc/nv_tegra_release; "" elsewhere."""
    try:
        return l4t_release((root / "etc" / "nv_tegra_release").read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return ""


def l4t_release(text: str) -> str:
    """The release of a Jetson's system out of the text of /etc/nv_tegra_release; "" where it names none.

    >>> l4t_release("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic")
    '36.4.3'
    """
    found = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", text)
    return f"{found[1]}.{found[2]}" if found else ""


def _line_of(device: Device, release: str) -> Software | None:
    """The line of a profile's software that has this L4T."""
    lines = [line for line in device.software for known in line.l4t if f"{release}.".startswith(f"{known}.")]
    return lines[0] if lines else None


def check(kit: Compatibility, machine: Compatibility) -> None:
    """Raise unless an engine can be built from this kit on this machine.

    Raises:
        EdgeskinError: another architecture, compute capability or TensorRT, with what to export instead.
    """
    _same_machine("kit", kit, machine, _export_for(machine))
    if same_version(kit.tensorrt, machine.tensorrt):
        return
    lines = [] if kit.device not in catalog.device_names() else list(catalog.device(kit.device).software)
    fits = [line for line in lines if same_version(line.tensorrt, machine.tensorrt)]
    if fits and numbers(machine.tensorrt) >= LEAST:
        fix = f"export it again with `edgeskin export RUN --target tensorrt --device {kit.device}"
        fix += f" --jetpack {_first(fits[0])}`"
    elif kit.jetpack:
        fix = f"install JetPack {kit.jetpack} on this board, which has TensorRT {kit.tensorrt}"
    else:
        fix = f"install TensorRT {kit.tensorrt} on this machine"
    raise EdgeskinError(
        "the kit is for another TensorRT", got=f"{machine.tensorrt} here", possible=kit.tensorrt, fix=fix
    )


def check_engine(made: Compatibility, machine: Compatibility) -> None:
    """Raise unless an engine that was built on `made` runs on this machine: TensorRT itself says it late and darkly.

    Raises:
        EdgeskinError: another architecture, compute capability, TensorRT, board or graphics card.
    """
    again = "build the kit again on this machine with `edgeskin build KIT`"
    _same_machine("engine", made, machine, again)
    if not same_version(made.tensorrt, machine.tensorrt):
        raise EdgeskinError(
            "the engine is of another TensorRT", got=f"{machine.tensorrt} here", possible=made.tensorrt, fix=again
        )
    # Jetsons call every GPU of a generation by one name, so there the board tells them apart.
    boards = {made.device, machine.device} - {ANYWHERE}
    if len(boards) > 1:
        raise EdgeskinError(
            "the engine is of another board", got=f"{machine.device} here", possible=made.device, fix=again
        )
    jetson = any(name.startswith("jetson") for name in boards)
    if not jetson and made.gpu and machine.gpu and made.gpu != machine.gpu:
        raise EdgeskinError("the engine is of another GPU", got=f"{machine.gpu} here", possible=made.gpu, fix=again)


def refuse_foreign(made: Compatibility) -> None:
    """Raise unless an engine that was built on `made` runs here; before TensorRT is asked, which says it late.

    Raises:
        EdgeskinError: no TensorRT, driver or GPU here, or what `check_engine` refuses.
    """
    found = here()
    if isinstance(found, str):
        raise EdgeskinError("this TensorRT engine does not run here", got=found)
    check_engine(made, found)


def board(bound: Compatibility) -> Device:
    """The profile of the device that a kit is for.

    Raises:
        EdgeskinError: it is for a machine that no profile names, or for a profile that is not installed.
    """
    if bound.device == ANYWHERE:
        raise EdgeskinError(
            "no profile tells what this machine has",
            got=bound.gpu,
            fix="export the kit with --device, or leave out --dla",
        )
    return catalog.device(bound.device)


def _same_machine(what: str, wanted: Compatibility, machine: Compatibility, fix: str) -> None:
    if wanted.arch != machine.arch:
        raise EdgeskinError(
            f"the {what} is for another architecture",
            got=f"{machine.arch} here",
            possible=f"{wanted.arch} ({wanted.device})",
            fix=fix,
        )
    if wanted.sm != machine.sm:
        raise EdgeskinError(
            f"the {what} is for another GPU architecture",
            got=f"SM {machine.sm} ({machine.gpu or machine.device}) here",
            possible=f"SM {wanted.sm} ({wanted.device})",
            fix=fix,
        )


def _export_for(machine: Compatibility) -> str:
    """How to get a kit that fits this machine."""
    profiles = [catalog.device(name) for name in catalog.device_names()]
    kin = [d.name for d in profiles if (d.arch, d.sm) == (machine.arch, machine.sm) and "tensorrt" in d.targets]
    name = machine.device if machine.device != ANYWHERE else kin[0] if kin else ""
    if not name:
        return f"no profile has {machine.arch} and SM {machine.sm}: build the kit on the board that it was exported for"
    return f"export it again with `edgeskin export RUN --target tensorrt --device {name}`"


def numbers(version: str) -> tuple[int, ...]:
    """A version as numbers, as far as it has any.

    >>> numbers("10.3.0.30"), numbers("5.1.x"), numbers("x")
    ((10, 3, 0, 30), (5, 1), ())
    """
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def same_version(one: str, other: str) -> bool:
    """Whether two versions agree in every number that both have, and both have two at least.

    >>> same_version("10.3.0", "10.3.0.30"), same_version("10.3.0", "10.16.2"), same_version("10.3.0", "10.3.1")
    (True, False, False)
    """
    first, second = numbers(one), numbers(other)
    shared = min(len(first), len(second))
    return shared >= 2 and first[:shared] == second[:shared]


def software(device: Device, jetpack: str = "") -> Software:
    """The line of a board's software that a JetPack belongs to; "" is the newest that can be used.

    Raises:
        EdgeskinError: a board without JetPack, a JetPack that is unknown or whose TensorRT is older than 10.3.
    """
    usable = usable_lines(device)
    if not device.software:
        boards = [name for name in catalog.device_names() if usable_lines(catalog.device(name))]
        raise EdgeskinError(f"no TensorRT is known for device {device.name}", possible=boards, fix="choose --device")
    named = [line for line in device.software if jetpack and within(jetpack, line.jetpack)]
    if jetpack and not named:
        near = [line for line in usable if numbers(line.jetpack)[:1] == numbers(jetpack)[:1]]
        raise EdgeskinError(
            f"unknown JetPack for device {device.name}",
            got=jetpack,
            possible=[line.jetpack for line in usable or device.software],
            fix=f"did you mean {_first(near[-1])}?" if near else None,
        )
    old = named[0] if named else None if usable else device.software[-1]
    if old is not None and old not in usable:
        raise EdgeskinError(
            f"JetPack {old.jetpack} has TensorRT {old.tensorrt}, and strongly typed INT8 needs 10.3",
            got=f"device {device.name}",
            possible=[f"JetPack {line.jetpack} (TensorRT {line.tensorrt})" for line in usable] or None,
            fix="update the board and pass --jetpack" if usable else "export for target onnxruntime",
        )
    return named[0] if named else max(usable, key=lambda line: numbers(line.tensorrt))


def usable_lines(device: Device) -> list[Software]:
    """The lines of a board whose TensorRT is new enough."""
    return [line for line in device.software if numbers(line.tensorrt) >= LEAST]


def within(jetpack: str, releases: str) -> bool:
    """Whether a JetPack is among the releases of a line.

    >>> [within("6.2", r) for r in ("6.1 to 6.2.2", "6.2.x", "6.0", "7.2.2 and later")]
    [True, True, False, False]
    """
    if jetpack == releases:
        return True
    if not re.fullmatch(r"\d+(\.\d+)*", jetpack):
        return False
    asked = numbers(jetpack)
    if releases.endswith(" and later"):
        return asked[0] == numbers(releases)[0] and asked >= numbers(releases)  # nobody knows the next major one
    if " to " in releases:
        first, last = (numbers(end) for end in releases.split(" to "))
        return first <= asked <= last
    if releases.endswith(".x"):
        known = numbers(releases)
        return asked[: len(known)] == known
    return asked == numbers(releases)


def _first(line: Software) -> str:
    """One JetPack of a line, as `--jetpack` takes it."""
    return ".".join(str(part) for part in numbers(line.jetpack))


def dla(device: Device, tensorrt: str, core: int | None) -> None:
    """Raise unless a board has this DLA core and its TensorRT can use it; no core is always right.

    Args:
        device: the board's profile.
        tensorrt: its version of TensorRT.
        core: number of the core, or None for the GPU.

    Raises:
        EdgeskinError: a board or a TensorRT without DLA, or a core that is not there.
    """
    if core is None:
        return
    if device.dla_cores == 0:
        raise EdgeskinError(f"device {device.name} has no DLA", got=f"--dla {core}", fix="leave out --dla")
    if not 0 <= core < device.dla_cores:
        raise EdgeskinError("no such DLA core", got=core, possible=[str(n) for n in range(device.dla_cores)])
    if not has_dla(device.name, tensorrt):
        able = [line for line in usable_lines(device) if has_dla(device.name, line.tensorrt)]
        raise EdgeskinError(
            f"TensorRT {tensorrt} cannot use the DLA of {device.name}",
            got=f"--dla {core}",
            possible=[f"JetPack {line.jetpack} (TensorRT {line.tensorrt})" for line in able] or None,
            fix="leave out --dla",
        )


def has_dla(device: str, tensorrt: str) -> bool:
    """Whether a version of TensorRT uses the DLA of a board that has one.

    >>> [has_dla("jetson-agx-orin", v) for v in ("10.3.0", "10.7.0", "10.16.2", "11.4.0", "11.4.1")]
    [True, True, False, False, True]
    >>> has_dla("jetson-orin-nx", "11.4.1")
    False
    """
    version = numbers(tensorrt)
    return version[:2] <= _LAST_DLA or (version >= _DLA_AGAIN and device == _DLA_AGAIN_ON)
