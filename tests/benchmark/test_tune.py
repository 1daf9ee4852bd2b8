import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeskin import chain, provenance, runtime
from edgeskin.benchmark import tune as stage
from edgeskin.bundle import add_tuning, open_bundle, pack
from edgeskin.errors import EdgeskinError
from edgeskin.spec.manifest import Tuning

TINY = Path(__file__).resolve().parents[1] / "golden" / "tiny-onnxruntime"
pytest.importorskip("onnxruntime", reason="extra onnxruntime is not installed")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TINY, tmp_path / "bundle"))


def _tuning(**other: object) -> Tuning:
    plain = {
        "processor": "Some CPU",
        "cores": 4,
        "engine": "onnxruntime 1",
        "threads": 2,
        "precision_hint": "f32",
        "p50_ms": {"2 threads, f32": 1.5},
        "measured": "2026-01-01T00:00:00Z",
    }
    return Tuning.parse({**plain, **other}, "the tuning")


def test_tuning_is_measured_sealed_and_used(bundle, monkeypatch):
    before = open_bundle(bundle)
    manifest = chain.tune(bundle, anyway=True)
    found = manifest.tuning[0]
    assert found.processor == provenance.processor()
    assert found.threads in {int(name.split()[0]) for name in found.p50_ms}
    assert all(value > 0 for value in found.p50_ms.values())
    after = open_bundle(bundle)
    assert after.sha256 != before.sha256
    assert after.manifest.files == before.manifest.files
    assert runtime.load(bundle).session("pair").describe()["threads"] == str(found.threads)
    assert runtime.load(bundle, threads=1).session("pair").describe()["threads"] == "1"
    monkeypatch.setattr(provenance, "processor", lambda: "another processor")
    assert runtime.load(bundle).tuning is None


def test_a_processor_is_tuned_once_and_others_stay(bundle):
    add_tuning(bundle, _tuning())
    add_tuning(bundle, _tuning(processor="Other CPU"))
    add_tuning(bundle, _tuning(cores=8))
    manifest = add_tuning(bundle, _tuning(threads=4))
    assert [(t.processor, t.cores, t.threads) for t in manifest.tuning] == [
        ("Other CPU", 4, 2),
        ("Some CPU", 8, 2),
        ("Some CPU", 4, 4),
    ]
    assert all(case.passed for case in runtime.load(bundle).self_test())


def test_a_packed_bundle_is_left_alone(bundle, tmp_path):
    packed = pack(bundle, tmp_path / "b.zip", lean=True)
    before = packed.read_bytes()
    with pytest.raises(EdgeskinError, match=r"a packed bundle cannot be changed"):
        add_tuning(packed, _tuning())
    assert packed.read_bytes() == before


def test_a_busy_machine_is_not_tuned_to(bundle, monkeypatch):
    monkeypatch.setattr(stage.sensors, "others_share", lambda *_: 0.4)
    before = open_bundle(bundle).sha256
    with pytest.raises(EdgeskinError, match=r"too busy to tune: got 'other processes used 40%.*pass --anyway"):
        chain.tune(bundle)
    assert open_bundle(bundle).sha256 == before


def test_a_system_that_does_not_name_its_processor(bundle, monkeypatch):
    monkeypatch.setattr(provenance, "processor", lambda: "")
    with pytest.raises(EdgeskinError, match=r"does not name its processor; fix: pass --threads"):
        stage.tune(open_bundle(bundle))


@given(st.integers(1, 300), st.sampled_from([("f32",), ("f32", "bf16")]))
def test_candidates_are_distinct_and_start_with_the_plain_one(cores, hints):
    found = stage.candidates(cores, hints)
    assert found[0] == (cores, "f32")
    assert len(set(found)) == len(found)
    assert all(1 <= threads <= cores for threads, _ in found)


@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=8))
def test_only_a_clear_gain_leaves_the_plain_choice(times):
    found = stage.choose({(number, "f32"): value for number, value in enumerate(times)})[0]
    assert times[found] <= times[0]
    assert found == 0 or times[found] < 0.97 * times[0]
