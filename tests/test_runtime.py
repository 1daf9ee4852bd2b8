import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import edgeskin
from edgeskin import backends, decide, preprocess, runtime
from edgeskin.bundle import Bundle, Draft, Golden, open_bundle, pack, write_bundle
from edgeskin.errors import EdgeskinError
from edgeskin.runtime import Classifier, load
from edgeskin.spec.quality import Quality
from edgeskin.spec.recipe import Recipe
from edgeskin.spec.train import Checkpoint, TrainSpec

pytest.importorskip("onnxruntime", reason="the tiny bundle needs edgeskin[onnxruntime]")
TINY = Path(__file__).resolve().parent / "golden" / "tiny-onnxruntime"


@pytest.fixture(scope="module")
def model() -> Classifier:
    return edgeskin.load(TINY, threads=1)


@pytest.fixture(scope="module")
def photos() -> tuple[np.ndarray, np.ndarray]:
    """A clinical and a dermoscopic photograph, larger than the frame and not square."""
    rng = np.random.default_rng(3)
    small = rng.integers(30, 220, (2, 9, 12, 3), dtype=np.uint8)
    clinical, dermoscopic = (np.asarray(Image.fromarray(s).resize((160, 120), Image.Resampling.BICUBIC)) for s in small)
    return clinical, dermoscopic


class Changed:
    """A session whose logits are changed: an engine that is wrong without an error."""

    def __init__(self, session, change):
        self.session, self.change = session, change

    def run(self, frames):
        return self.change(self.session.run(frames))


def with_change(bundle: Bundle, change) -> Classifier:
    spoilt = load(bundle, threads=1)
    spoilt._sessions = {mode: Changed(spoilt.session(mode), change) for mode in ("pair", "dermoscopic")}
    return spoilt


def test_pair(model, photos):
    result = model.classify(clinical=photos[0], dermoscopic=photos[1])
    assert result.mode == "pair"
    assert set(result.branches) == {"clinical", "dermoscopic"}
    schema = model.manifest.task_schema
    for task in schema.tasks:
        fused = result.probabilities[task.name]
        assert list(fused) == list(task.class_names)
        assert sum(fused.values()) == pytest.approx(1)
        assert result.predicted[task.name] == max(fused, key=fused.get)
        weight = model.manifest.fusion[task.name].dermoscopic_weight
        for name, value in fused.items():
            branches = result.branches
            mixed = (
                weight * branches["dermoscopic"][task.name][name] + (1 - weight) * branches["clinical"][task.name][name]
            )
            assert value == pytest.approx(mixed)
    assert result.score == sum(
        next(c.points for c in t.classes if c.name == result.predicted[t.name]) for t in schema.tasks
    )
    assert result.score_reached == tuple(t for t in schema.score.thresholds if result.score >= t)
    assert result.decision.probability == pytest.approx(result.probabilities["DIAG"]["MEL"])
    assert result.decision.threshold == model.manifest.thresholds.pair.value
    assert result.decision.refer == (result.decision.probability >= result.decision.threshold)


def test_dermoscopic_alone_uses_its_own_threshold(model, photos):
    result = model.classify(dermoscopic=photos[1])
    assert result.mode == "dermoscopic"
    assert set(result.branches) == {"dermoscopic"}
    assert result.probabilities == result.branches["dermoscopic"]
    assert result.decision.threshold == model.manifest.thresholds.dermoscopic.value


def test_the_order_of_the_images_matters(model, photos):
    one = model.classify(clinical=photos[0], dermoscopic=photos[1])
    other = model.classify(clinical=photos[1], dermoscopic=photos[0])
    assert one.probabilities != other.probabilities


def test_paths_images_and_arrays_give_the_same(model, photos, tmp_path):
    paths = [tmp_path / "c.png", tmp_path / "d.png"]
    for path, photo in zip(paths, photos, strict=True):
        Image.fromarray(photo).save(path)
    expected = model.classify(clinical=photos[0], dermoscopic=photos[1])
    assert model.classify(clinical=paths[0], dermoscopic=str(paths[1])) == expected
    assert model.classify(clinical=Image.open(paths[0]), dermoscopic=Image.open(paths[1])) == expected


def test_result_is_plain_json(model, photos):
    plain = json.loads(json.dumps(model.classify(dermoscopic=photos[1]).to_json(), allow_nan=False))
    assert set(plain["timings_ms"]) == {"prepare", "quality", "infer", "decide", "total"}
    parts = plain["timings_ms"]
    assert parts["total"] == pytest.approx(sum(ms for name, ms in parts.items() if name != "total"), abs=1e-6)


def test_what_cannot_be_judged_gets_no_class(photos):
    fresh = load(TINY, threads=1)
    black = np.random.default_rng(0).integers(0, 6, (120, 160, 3), np.uint8)
    for case, quality in (
        ({"dermoscopic": black}, {"dermoscopic": ("empty",)}),
        ({"clinical": photos[0], "dermoscopic": black}, {"clinical": (), "dermoscopic": ("empty",)}),
        ({"clinical": photos[0], "dermoscopic": photos[0]}, dict.fromkeys(("clinical", "dermoscopic"), ("identical",))),
    ):
        result = fresh.classify(**case)
        assert result.quality == quality
        assert not result.assessable
        assert (result.decision, result.score, result.score_reached) == (None, None, ())
        assert result.probabilities == result.branches == result.predicted == {}
        assert set(result.timings_ms) == {"prepare", "quality", "infer", "decide", "total"}
        plain = json.loads(json.dumps(result.to_json(), allow_nan=False))
        assert plain["decision"] is None
        assert plain["quality"] == {kind: list(flags) for kind, flags in quality.items()}
    assert fresh._sessions == {}  # the network was never asked


def test_the_thresholds_are_those_of_the_manifest(model, photos):
    assert model.classify(dermoscopic=photos[1]).assessable
    strict = load(TINY, threads=1)
    strict.manifest = model.manifest.model_copy(update={"quality": Quality(blurred_dermoscopic=10_001)})
    refused = strict.classify(dermoscopic=photos[1])
    assert (refused.quality, refused.decision) == ({"dermoscopic": ("blurred",)}, None)
    told = Quality(blurred_dermoscopic=10_001, fails=("dark",))
    strict.manifest = model.manifest.model_copy(update={"quality": told})
    result = strict.classify(dermoscopic=photos[1])
    assert result.quality == {"dermoscopic": ("blurred",)}
    assert result.probabilities == model.classify(dermoscopic=photos[1]).probabilities


def test_decisions_are_those_of_prepare_infer_and_decide(model, photos):
    frames = np.stack([preprocess.prepare(p, model.manifest.preprocess) for p in photos])
    logits = model.infer(frames, "pair")
    assert logits.shape == (2, model.manifest.task_schema.logits)
    assert logits.dtype == np.float32
    fused = decide.task_probabilities(logits, model.manifest.task_schema, model.manifest.fusion, "pair")
    result = model.classify(clinical=photos[0], dermoscopic=photos[1])
    assert list(result.probabilities["DIAG"].values()) == pytest.approx(fused["DIAG"].tolist())


def test_graphs_are_opened_when_first_needed(photos):
    fresh = load(TINY, threads=1)
    assert fresh._sessions == {}
    fresh.classify(dermoscopic=photos[1])
    assert set(fresh._sessions) == {"dermoscopic"}


def test_a_packed_bundle_classifies_alike(model, photos, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGESKIN_CACHE", str(tmp_path / "cache"))
    packed = load(pack(TINY, tmp_path / "a.zip", lean=True), threads=1)
    assert packed.classify(dermoscopic=photos[1]) == model.classify(dermoscopic=photos[1])
    with pytest.raises(EdgeskinError, match="packed without its FP32 reference"):
        load(tmp_path / "a.zip", graphs="reference")


def test_the_reference_is_near_the_int8_graph_and_not_equal(model):
    reference = load(model.bundle, threads=1, graphs="reference")
    frames, _ = model.bundle.golden(model.manifest.golden[0])
    difference = np.abs(reference.infer(frames, "pair") - model.infer(frames, "pair")).max()
    assert 0 < difference < 2


def test_a_clinical_image_alone_is_refused(model, photos):
    with pytest.raises(EdgeskinError, match=r"possible: clinical \+ dermoscopic, or dermoscopic alone"):
        model.classify(clinical=photos[0])
    with pytest.raises(EdgeskinError, match="got 'no image'"):
        model.classify()


def test_unreadable_photos_are_one_line(model, photos, tmp_path):
    whole = tmp_path / "whole.jpg"
    Image.fromarray(photos[1]).save(whole)
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(whole.read_bytes()[:900])
    for case in (
        {"dermoscopic": cut},
        {"clinical": cut, "dermoscopic": whole},
        {"clinical": whole, "dermoscopic": cut},
    ):
        with pytest.raises(EdgeskinError, match=r"unreadable image.*cut\.jpg") as caught:
            model.classify(**case)
        assert "\n" not in str(caught.value)
    with pytest.raises(EdgeskinError, match="no such image"):
        model.classify(dermoscopic=tmp_path / "none.jpg")


def test_arrays_of_another_kind_are_refused(model, photos):
    with pytest.raises(EdgeskinError, match="wrong image dtype: got 'float32'"):
        model.classify(dermoscopic=photos[1].astype(np.float32))
    with pytest.raises(EdgeskinError, match="wrong image shape"):
        model.classify(dermoscopic=photos[1][..., 0])


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((1, 32, 32, 3), np.uint8), ((2, 32, 31, 3), np.uint8), ((2, 3, 32, 32), np.uint8), ((2, 32, 32, 3), np.float32)],
)
def test_frames_of_another_kind_are_refused(model, shape, dtype):
    with pytest.raises(
        EdgeskinError, match=r"wrong input (shape|dtype): got .*possible: .*(2, 32, 32, 3|uint8).*fix: "
    ):
        model.infer(np.zeros(shape, dtype), "pair")


def test_self_test_passes_here(model):
    outcomes = model.self_test()
    assert {o.mode for o in outcomes} == {"pair", "dermoscopic"}
    assert all(o.passed for o in outcomes)


@pytest.mark.parametrize(
    "change",
    [lambda x: x + np.float32(0.3), lambda x: -x, lambda x: x * np.float32("nan"), lambda x: x[:, ::-1]],
    ids=["shifted", "negated", "nan", "permuted"],
)
def test_self_test_finds_an_engine_that_is_wrong_without_an_error(model, change):
    assert not any(o.passed for o in with_change(model.bundle, change).self_test())


def test_self_test_finds_a_flipped_decision_within_the_tolerance(model):
    loose = model.manifest.model_copy(
        update={"golden": tuple(c.model_copy(update={"tolerance": 1e9}) for c in model.manifest.golden)}
    )
    spoilt = with_change(Bundle(model.bundle.root, loose, model.bundle.sha256, lean=False), lambda x: -x)
    assert not any(o.passed for o in spoilt.self_test())


def test_self_test_is_for_the_core_graphs(model):
    with pytest.raises(EdgeskinError, match="graphs='core'"):
        load(model.bundle, graphs="reference").self_test()


def test_logits_that_are_not_finite_are_an_error(model, photos):
    with pytest.raises(EdgeskinError, match="not finite"):
        with_change(model.bundle, lambda x: np.where(x > 0, np.float32("inf"), x)).classify(dermoscopic=photos[1])


def test_a_graph_that_does_not_fit_its_manifest_is_named(model):
    graphs = {"pair": model.manifest.graphs["dermoscopic"], "dermoscopic": model.manifest.graphs["pair"]}
    swapped = Bundle(TINY, model.manifest.model_copy(update={"graphs": graphs}), "", lean=False)
    with pytest.raises(EdgeskinError, match=r"the graph model/dermoscopic\.onnx does not fit its manifest"):
        load(swapped).session("pair")


def test_without_its_engine_the_cure_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(EdgeskinError, match=r"pip install 'edgeskin\[onnxruntime\]'") as caught:
        load(TINY)
    assert "\n" not in str(caught.value)
    assert str(caught.value).count("pip install") == 1


def test_a_tampered_bundle_is_not_loaded(tmp_path, monkeypatch):
    copy = shutil.copytree(TINY, tmp_path / "tiny")
    with (copy / "model" / "pair.onnx").open("ab") as stream:
        stream.write(b"x")
    monkeypatch.setattr(runtime.backends, "get", lambda name: pytest.fail("the engine was asked before the hashes"))
    with pytest.raises(EdgeskinError, match=r"model/pair\.onnx"):
        load(copy)


def test_an_open_bundle_is_taken_as_it_is(photos):
    bundle = open_bundle(TINY)
    assert load(bundle).bundle is bundle


def test_an_openvino_bundle_of_the_same_network_says_the_same(model, photos, tmp_path):
    pytest.importorskip("openvino", reason="needs edgeskin[openvino]")
    stage = tmp_path / "stage" / "model"
    stage.mkdir(parents=True)
    tiny = model.manifest
    recipe = Recipe(name="ov-fp32", target="openvino", precision="fp32")
    engine, graphs, golden = backends.get("openvino"), {}, []
    for mode, graph in tiny.reference.items():
        name, *_ = engine.build(model.bundle.path(graph.file), stage, recipe)
        graphs[mode] = graph.model_copy(update={"file": f"model/{name}"})
    for case in tiny.golden:
        frames, _ = model.bundle.golden(case)
        logits = engine.open(stage.parent / graphs[case.mode].file, threads=1).run(frames)
        golden.append(Golden(case.name, case.mode, frames, logits, tolerance=1e-3))
    checkpoint = Checkpoint(
        created="", network=tiny.network, data=tiny.data, train=TrainSpec(), task_schema=tiny.task_schema,
        preprocess=tiny.preprocess, fusion=tiny.fusion, thresholds=tiny.thresholds, roles=tiny.roles,
        lesion_hashes={}, phantom=True, parameters=tiny.parameters, weights_sha256="", weights_source="",
        control_metrics={}, versions={}, git_revision="",
    )  # fmt: skip
    draft = Draft("tiny-ov", stage.parent, graphs, graphs, golden, recipe, checkpoint, tiny.provenance)
    write_bundle(tmp_path / "ov", draft)
    other = load(tmp_path / "ov", threads=1)
    assert all(o.passed for o in other.self_test())
    reference = load(model.bundle, threads=1, graphs="reference")
    for case in ({"dermoscopic": photos[1]}, {"clinical": photos[0], "dermoscopic": photos[1]}):
        one, two = other.classify(**case), reference.classify(**case)
        assert one.predicted == two.predicted
        assert one.decision.probability == pytest.approx(two.decision.probability, abs=1e-4)
    assert load(tmp_path / "ov", graphs="reference").classify(dermoscopic=photos[1]) == other.classify(
        dermoscopic=photos[1]
    )
