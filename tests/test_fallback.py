"""A second engine for a bundle: tried before it is named, used where the first is missing."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from edgeskin import backends, fallback, runtime
from edgeskin.bundle import pack, reseal
from edgeskin.errors import EdgeskinError
from edgeskin.opening import open_bundle
from edgeskin.spec.manifest import Fallback
from edgeskin.verify import verify_golden

TINY = Path(__file__).parent / "golden" / "tiny-onnxruntime"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TINY, tmp_path / "tiny"))


@pytest.fixture
def without_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgeskin.backends import onnxruntime

    monkeypatch.setattr(onnxruntime, "unsupported", lambda *_, **__: "ONNX Runtime is not installed")


def test_an_engine_that_answers_the_golden_cases_is_named(bundle: Path) -> None:
    before = open_bundle(bundle)
    manifest, outcomes = fallback.add(bundle, "openvino")
    assert manifest.fallback == (Fallback(target="openvino", graphs="core"),)
    assert len(outcomes) == len(before.manifest.golden)
    assert all(outcome.passed for outcome in outcomes)
    after = open_bundle(bundle)
    assert after.sha256 != before.sha256
    assert after.manifest.files == before.manifest.files


@pytest.mark.usefixtures("without_onnxruntime")
def test_it_is_used_and_told_where_the_target_is_missing(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(EdgeskinError, match="'onnxruntime' does not run here"):
        runtime.load(bundle)
    fallback.add(bundle, "openvino")
    classifier = runtime.load(bundle)
    assert "fell back to openvino" in capsys.readouterr().err
    assert classifier.session("pair").describe()["backend"] == "openvino"
    assert all(outcome.passed for outcome in classifier.self_test())
    with pytest.raises(EdgeskinError, match="does not run here"):
        runtime.load(bundle, graphs="reference")
    with pytest.raises(
        EdgeskinError, match="does not run here"
    ):  # figures under the target's name must be the target's
        verify_golden(open_bundle(bundle))


def test_the_target_is_used_where_it_runs(bundle: Path) -> None:
    fallback.add(bundle, "openvino")
    assert runtime.load(bundle).session("pair").describe()["backend"] == "onnxruntime"


def test_an_engine_that_answers_otherwise_is_refused(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgeskin.backends import openvino

    real = openvino.open

    def spoilt(*arguments: object, **options: object) -> backends.Session:
        session = real(*arguments, **options)  # type: ignore[arg-type]
        monkeypatch.setattr(session, "run", lambda frames, run=session.run: run(frames) + np.float32(10))
        return session

    monkeypatch.setattr(openvino, "open", spoilt)
    with pytest.raises(EdgeskinError, match="does not answer this bundle's golden cases") as caught:
        fallback.add(bundle, "openvino")
    assert "logits differ by 10" in caught.value.line()
    assert open_bundle(bundle).manifest.fallback == ()


@pytest.mark.parametrize(
    ("target", "message"),
    [("openvin", "unknown fall-back"), ("tensorrt", "unknown")],
)
def test_what_cannot_be_a_fall_back(bundle: Path, target: str, message: str) -> None:
    with pytest.raises(EdgeskinError, match=message):
        fallback.add(bundle, target)


def test_the_target_itself_in_fp32(bundle: Path) -> None:
    with pytest.raises(EdgeskinError, match="does not answer this bundle's golden cases"):
        fallback.add(bundle, "onnxruntime")  # so tiny a network is far from FP32 in INT8
    golden = open_bundle(bundle).manifest.golden
    reseal(bundle, {"golden": tuple(case.model_copy(update={"tolerance": 1.0}) for case in golden)})
    manifest, outcomes = fallback.add(bundle, "onnxruntime")
    assert manifest.fallback == (Fallback(target="onnxruntime", graphs="reference"),)
    assert all(outcome.passed for outcome in outcomes)


def test_neither_twice_nor_in_a_packed_bundle(bundle: Path, tmp_path: Path) -> None:
    fallback.add(bundle, "openvino")
    with pytest.raises(EdgeskinError, match="runs by this engine already"):
        fallback.add(bundle, "openvino")
    packed = pack(reseal_without(bundle), tmp_path / "tiny.zip")
    with pytest.raises(EdgeskinError, match="a packed bundle cannot be changed"):
        fallback.add(packed, "openvino")


def reseal_without(bundle: Path) -> Path:
    reseal(bundle, {"fallback": ()})
    return bundle
