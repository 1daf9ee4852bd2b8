"""Every name of TensorRT that our code uses is in the versions we claim, by those versions' own bindings."""

import functools
import importlib.util
import re
import textwrap
from pathlib import Path

import pytest


def _beside(name):
    spec = importlib.util.spec_from_file_location(f"beside_{name}", Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


bindings, names = _beside("tensorrt_bindings"), _beside("tensorrt_names")
VERSIONS = ("10.3", "10.13", "10.16", "11.4")
SIBLING = "rtx-1.7"
# What is also run with the sibling, as the module `trt`.
SHARED = ("edgeskin/backends/_tensorrt_log.py", "edgeskin/engine/builder.py", "edgeskin/engine/sibling.py")
# Some of what a build and a run cannot do without: proof that the reader understands our code at all.
CORE = {"trt.Builder", "OnnxParser.parse", "Builder.build_serialized_network", "Runtime.deserialize_cuda_engine"}


@pytest.fixture(scope="module")
def surface_of(tmp_path_factory):
    """Version -> its surface; skips where its bindings cannot be had."""
    out = tmp_path_factory.mktemp("stubs")

    @functools.cache
    def read(version):
        try:
            package = bindings.package(version)
            bindings.make_stubs(out)
        except bindings.NoBindingsError as error:
            pytest.skip(str(error))
        return bindings.read_surface(package, out)

    return read


@pytest.fixture(scope="module")
def surfaces(surface_of):
    return {version: surface_of(version) for version in VERSIONS}


@pytest.fixture(scope="module")
def with_sibling(surfaces, surface_of):
    return {**surfaces, SIBLING: surface_of(SIBLING)}


@functools.cache
def ours():
    paths = sorted((bindings.ROOT / "edgeskin").rglob("*.py"))
    texts = {path.relative_to(bindings.ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}
    return {path: text for path, text in texts.items() if names.mentions(text)}


def test_each_version_claimed_is_locked():
    locked = [path.stem for path in bindings.LOCKS.glob("*.txt")]
    claimed = [*VERSIONS, SIBLING]
    assert sorted(version for stem in locked for version in claimed if stem.startswith(f"{version}.")) == sorted(
        claimed
    )
    assert len(locked) == len(claimed)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_name_that_we_use_is_in(version, surface_of):
    surface = surface_of(version)
    assert surface["version"].startswith(f"{version}.")
    assert "edgeskin/backends/tensorrt.py" in ours()
    report = names.check(ours(), {version: surface})
    assert not report.missing
    assert report.used >= CORE


def test_every_name_that_the_builder_uses_is_in_the_sibling(surface_of):
    surface = surface_of(SIBLING)
    assert surface["version"].startswith(f"{SIBLING.removeprefix('rtx-')}.")
    assert not names.check({path: ours()[path] for path in SHARED}, {SIBLING: surface}).missing


def test_every_name_that_we_ask_for_is_in_some_version(with_sibling):
    assert not names.check(ours(), with_sibling).misspelt


def test_no_name_that_we_use_can_be_misspelt_unseen(surface_of):
    """Each name in our code, with one letter more wherever it stands: the check says so."""
    surface = {"10.3": surface_of("10.3")}
    tried = 0
    for path, text in ours().items():
        for label in sorted(names.check({path: text}, surface).used):
            name = label.rpartition(".")[2]
            spoilt = re.sub(rf"(?<=\.){name}\b|(?<=['\"]){name}(?=['\"])", f"{name}q", text)
            if spoilt != text and not name.startswith("__"):
                report = names.check({path: spoilt}, surface)
                assert any(f"{name}q" in line for line in report.missing + report.misspelt), (path, label)
                tried += 1
    assert tried >= 50


def test_what_tensorrt_calls_is_what_we_must_define(with_sibling):
    for surface in with_sibling.values():
        for owner, methods in names.OVERRIDES.items():
            callable_ = {name for name, found in surface["classes"][owner].items() if "signatures" in found}
            assert {name for name in callable_ if not name.startswith("_")} == set(methods)
        assert set(names.CLASSES.values()) <= set(surface["classes"])


def faults(body, surfaces):
    """Of a function with these lines in it, the first of them line 2; with the line and the versions in front."""
    head = "def work(trt, builder, network, config, engine, timing, version):\n"
    report = names.check({"x.py": head + textwrap.indent(textwrap.dedent(body).strip(), "    ")}, surfaces)
    found = {}
    for line in report.missing:
        _, place, version, text = line.split(":", 3)
        found.setdefault(f"{place}:{text}", []).append(version.split()[-1])
    told = [f"{' '.join(versions)} | {text}" for text, versions in found.items()]
    return told + [line.removeprefix("x.py:") for line in report.misspelt]


ALL = " ".join(VERSIONS)
SPOILT = {
    "a flag that 11 removed": ("config.set_flag(trt.BuilderFlag.INT8)", "11.4 | 2: no BuilderFlag.INT8"),
    "a property that 11 removed": ("config.int8_calibrator = None", "11.4 | 2: no IBuilderConfig.int8_calibrator"),
    "a value that 10.3 lacks": (
        "level = trt.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY",
        "10.3 | 2: no HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY",
    ),
    "a class that came with 10.16": ("wanted = trt.IAttention", "10.3 10.13 | 2: no trt.IAttention"),
    "unguarded": ("return engine.device_memory_size", "11.4 | 2: no ICudaEngine.device_memory_size"),
    "a typo": ("return engine.num_layrs", f"{ALL} | 2: no ICudaEngine.num_layrs"),
    "an attribute of ours": (
        "class Held:\n    def size(self):\n        return self._engine.device_memory_size",
        "11.4 | 4: no ICudaEngine.device_memory_size",
    ),
    "a typo in a guard": (
        "if hasattr(config, 'progres_monitor'):\n    pass",
        "2: no version of TensorRT has IBuilderConfig.progres_monitor",
    ),
    "a typo in getattr": (
        "return getattr(trt, 'IAtention', None)",
        "2: no version of TensorRT has trt.IAtention",
    ),
    "getattr without a default": ("getattr(trt.BuilderFlag, 'FP16')", "11.4 | 2: no BuilderFlag.FP16"),
    "setattr": ("setattr(config, 'int8_calibrator', None)", "11.4 | 2: no IBuilderConfig.int8_calibrator"),
    "a name made at run time": (
        "getattr(trt.BuilderFlag, version)",
        f"{ALL} | 2: getattr(trt.BuilderFlag, version) does not write out the name, so no version can be checked",
    ),
    "a guard for another name": (
        "if hasattr(engine, 'num_layers'):\n    engine.device_memory_size",
        "11.4 | 3: no ICudaEngine.device_memory_size",
    ),
    "a guard for another object": (
        "if hasattr(config, 'name') or hasattr(trt, 'device_memory_size'):\n    engine.device_memory_size",
        "11.4 | 3: no ICudaEngine.device_memory_size",
        "2: no version of TensorRT has IBuilderConfig.name",
        "2: no version of TensorRT has trt.device_memory_size",
    ),
    "behind a guard's back": (
        "if hasattr(engine, 'device_memory_size'):\n    pass\nelse:\n    engine.device_memory_size",
        "11.4 | 5: no ICudaEngine.device_memory_size",
    ),
    "a guard by or": (
        "return hasattr(engine, 'device_memory_size') or engine.device_memory_size",
        "11.4 | 2: no ICudaEngine.device_memory_size",
    ),
    "what a call gave": (
        "made = builder.create_network(0)\nmade.num_layer",
        f"{ALL} | 3: no INetworkDefinition.num_layer",
    ),
    "what a property gave": ("context.engine.num_layer", f"{ALL} | 2: no ICudaEngine.num_layer"),
    "what a loop gave": ("for each in network:\n    each.precision", "11.4 | 3: no ILayer.precision"),
    "what a function of ours may give": (
        "def build() -> Any: ...\nplan = build()\nplan.seconds",
        f"{ALL} | 4: no IHostMemory.seconds",
    ),
    "an object under a wrong name": (
        "config = builder.create_network(0)",
        f"{ALL} | 2: config holds INetworkDefinition; its name says IBuilderConfig",
    ),
    "under the package's own name": ("import tensorrt\ntensorrt.BuilderFlag.FP16", "11.4 | 3: no BuilderFlag.FP16"),
    "an argument too many": (
        "builder.create_network(0, 1)",
        f"{ALL} | 2: Builder.create_network takes (flags), not builder.create_network(0, 1)",
    ),
    "an argument too few": ("trt.Builder()", f"{ALL} | 2: Builder.__init__ takes (logger), not trt.Builder()"),
    "a keyword of a later version": (
        "engine.create_execution_context(runtime_config=None)",
        "10.3 | 2: ICudaEngine.create_execution_context takes (strategy), "
        "not engine.create_execution_context(runtime_config=None)",
    ),
    "a method that TensorRT would not find": (
        """
        class Monitor(trt.IProgressMonitor):
            def phase_start(self, name, parent, steps): ...
            def step_complete(self, name, step): ...
            def phase_finished(self, name): ...
        """,
        f"{ALL} | 2: Monitor lacks phase_finish, which IProgressMonitor is asked for",
    ),
    "a method that TensorRT cannot call": (
        "class Log(trt.ILogger):\n    def log(self, msg): ...",
        f"{ALL} | 3: ILogger.log is called with (self, severity, msg)",
    ),
}


@pytest.mark.parametrize("case", SPOILT)
def test_a_spoilt_source_is_found(case, surfaces):
    body, *wanted = SPOILT[case]
    assert faults(body, surfaces) == wanted


SOUND = {
    "if": "if hasattr(engine, 'device_memory_size'):\n    return engine.device_memory_size",
    "if, with more": "if version and hasattr(engine, 'device_memory_size'):\n    return engine.device_memory_size",
    "else": "if not hasattr(engine, 'device_memory_size'):\n    return 0\nelse:\n    return engine.device_memory_size",
    "ternary": "return engine.device_memory_size if hasattr(engine, 'device_memory_size') else 0",
    "and": "return hasattr(trt.BuilderFlag, 'INT8') and trt.BuilderFlag.INT8",
    "not, or": "return not hasattr(trt, 'IAttention') or trt.IAttention",
    "a class that may be missing": "if hasattr(trt, 'EngineStat'):\n    trt.EngineStat.TOTAL_WEIGHTS_SIZE",
    "getattr with a default": "return getattr(trt.BuilderFlag, 'INT8', None)",
    "inside a function": "if hasattr(engine, 'device_memory_size'):\n    return lambda: engine.device_memory_size",
    "another thing of that name": "config: dict = {}\nconfig.clear()",
    "a thing of ours of that name": "def build() -> Plan: ...\nplan = build()\nplan.seconds",
    "any overload": "engine.create_execution_context()\nengine.create_execution_context(0)",
    "keywords": "config.set_timing_cache(timing, ignore_mismatch=False)",
    "arguments that cannot be counted": "builder.create_network(*version)\nbuilder.create_network(**version)",
    "a class of its own": "layer = network.add_identity(network.get_input(0))\nlayer.get_output(0).name",
}


@pytest.mark.parametrize("case", SOUND)
def test_a_sound_source_is_taken(case, surfaces):
    assert faults(SOUND[case], surfaces) == []


def test_what_the_sibling_alone_has_is_known_and_needs_its_guard(with_sibling):
    guarded = "if hasattr(config, 'set_compute_capability'):\n    config.set_compute_capability(1, 0)"
    assert faults(guarded, with_sibling) == []
    assert faults("getattr(getattr(trt, 'ComputeCapability', None), f'SM{version}')", with_sibling) == []
    assert faults("config.num_compute_capabilities = 1", with_sibling) == [
        f"{ALL} | 2: no IBuilderConfig.num_compute_capabilities"
    ]


def test_a_module_without_tensorrt_is_not_read():
    assert not names.mentions(
        "config = {}\nconfig.clear()\nfrom importlib.util import find_spec\nfind_spec('tensorrt')"
    )
    assert names.mentions("def build(trt): ...")
    assert names.mentions("self._trt.Builder")
    assert names.mentions("import tensorrt")


def test_missing_bindings_are_told(tmp_path, monkeypatch):
    with pytest.raises(bindings.NoBindingsError, match=r"no bindings of TensorRT 10\.3: `make test`"):
        bindings.package("10.3", tmp_path)
    (tmp_path / "10.3.0" / "tensorrt_bindings").mkdir(parents=True)
    (tmp_path / "10.30.0" / "tensorrt_bindings").mkdir(parents=True)
    assert bindings.package("10.3", tmp_path).parent.name == "10.3.0"
    monkeypatch.setenv("PATH", "")
    with pytest.raises(bindings.NoBindingsError, match="no C compiler"):
        bindings.make_stubs(tmp_path)


def test_bindings_that_cannot_be_imported_are_a_fault_not_a_skip(tmp_path):
    package = tmp_path / "tensorrt_bindings"
    package.mkdir()
    (package / "__init__.py").write_text("import libnvinfer_is_missing\n")
    with pytest.raises(AssertionError, match="libnvinfer_is_missing"):
        bindings.read_surface(package, tmp_path)
