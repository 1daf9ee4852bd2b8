"""The Python of a peer: this one where its packages are here, else a venv of its own that sees this one's packages."""

import json
import shutil
import site
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from peers.spec import PeerSpec

from edgeskin.errors import EdgeskinError
from edgeskin.files import sha256_bytes
from edgeskin.spec.base import read_toml

PEERS = Path(__file__).resolve().parent
LIMIT_S = 1800


def names() -> tuple[str, ...]:
    """Every folder with a peer.toml; edgeskin's own row is not among them."""
    found = sorted(path.parent.name for path in PEERS.glob("*/peer.toml"))
    return tuple(name for name in found if name != "edgeskin_runtime")


def read(name: str) -> PeerSpec:
    """The peer of that name. Raises EdgeskinError for a faulty peer.toml."""
    path = PEERS / name / "peer.toml"
    return PeerSpec.parse(read_toml(path), f"{name}/peer.toml")


def script(name: str, spec: PeerSpec) -> Path:
    """The Python file that a worker loads."""
    return (PEERS / name / spec.script).resolve()


def python_for(name: str, spec: PeerSpec, cache: Path, *, install: bool) -> Path | str:
    """The interpreter that runs this peer, or the reason why there is none.

    A venv is named after what is in it, so peers with equal requirements share one. It is made only when `install`
    allows: a run downloads nothing by itself.
    """
    lacking = [package for package in spec.imports if find_spec(package) is None]
    if not lacking:
        return Path(sys.executable)
    requirements = PEERS / name / "requirements.txt"
    if not requirements.is_file():
        return f"absent: needs {', '.join(lacking)}; install edgeskin[all]"
    recorded = requirements.read_text(encoding="utf-8")
    home = cache / f"venv-{sha256_bytes(json.dumps([recorded, sys.executable, sys.version]).encode())[:12]}"
    python = home / "bin" / "python"
    if not (home / "complete").is_file():
        if not install:
            return f"absent: needs {', '.join(lacking)}; pass --install to make its environment"
        try:
            _make(home, python, requirements)
        except EdgeskinError as problem:
            return f"absent: {problem.line()}"
        (home / "complete").write_text(recorded, encoding="utf-8")
    found = subprocess.run(
        [python, "-c", _ASK, *spec.imports], capture_output=True, text=True, timeout=120, check=False
    ).stdout.split()
    return python if not found else f"absent: its environment lacks {', '.join(found)}"


_ASK = "import sys; from importlib.util import find_spec; print(*[n for n in sys.argv[1:] if find_spec(n) is None])"


def _make(home: Path, python: Path, requirements: Path) -> None:
    """Create the venv. Requirements are complete and pinned: pip resolves nothing and touches nothing else."""
    shutil.rmtree(home, ignore_errors=True)
    _run([sys.executable, "-m", "venv", str(home)])
    folder = next(home.glob("lib/python*/site-packages"))
    # Through `site`, so that editable installs of the base environment are seen too; the venv's own packages go first.
    base = [f"import site; site.addsitedir({path!r})" for path in site.getsitepackages()]
    (folder / "zz_base.pth").write_text("\n".join(base) + "\n", encoding="utf-8")
    _run([str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--requirement", str(requirements)])


def _run(command: list[str]) -> None:
    try:
        subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=True)
    except subprocess.TimeoutExpired as error:
        raise EdgeskinError("making its environment took too long", got=f"{LIMIT_S} s") from error
    except subprocess.CalledProcessError as error:
        errors = [line for line in error.stderr.splitlines() if line.startswith("ERROR")]
        last = errors or error.stderr.strip().splitlines() or ["no message"]
        raise EdgeskinError("its environment could not be made", got=last[-1][:200]) from error
