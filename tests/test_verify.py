import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeskin import decide, metrics, verify
from edgeskin.bundle import Bundle, open_bundle, pack
from edgeskin.data.pairs import UNLABELLED, Pair
from edgeskin.data.roles import role_hash, short_hash
from edgeskin.errors import EdgeskinError
from edgeskin.runtime import Classifier, load
from edgeskin.spec.result import VerifyResult
from edgeskin.spec.roles import RoleRecord

pytest.importorskip("onnxruntime", reason="the tiny bundle needs edgeskin[onnxruntime]")
TINY = Path(__file__).resolve().parent / "golden" / "tiny-onnxruntime"
LESIONS = 25


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("EDGESKIN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return open_bundle(TINY)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory, bundle) -> list[Pair]:
    """Photographs of soft blotches; labels are the reference's own answers, one in five of them changed."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(11)
    reference = load(bundle, threads=1, graphs="reference")
    schema = bundle.manifest.task_schema
    made = []
    for i in range(LESIONS):
        paths = []
        for view in ("clinical", "dermoscopic"):
            small = rng.integers(30, 220, (9, 12, 3), dtype=np.uint8)
            paths.append(folder / f"{i}-{view}.png")
            Image.fromarray(small).resize((60, 45), Image.Resampling.BICUBIC).save(paths[-1])
        said = reference.classify(clinical=paths[0], dermoscopic=paths[1]).predicted
        labels = {t.name: t.class_names.index(said[t.name]) for t in schema.tasks}
        if i % 5 == 0:
            labels["DIAG"] = schema.task("DIAG").class_names.index("MEL")
        labels["RS"] = UNLABELLED
        made.append(Pair(f"lesion-{i}", paths[1], None if i == 7 else paths[0], labels, row=i + 2))
    return made


@pytest.fixture(scope="module")
def result(bundle, pairs, tmp_path_factory) -> VerifyResult:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGESKIN_CACHE", str(tmp_path_factory.mktemp("cache")))
        return verify.verify(bundle, pairs, role="test", data="drawn", threads=1, bootstrap=200, notes=["a remark"])


def test_the_record_is_complete_and_plain_json(result, bundle, pairs):
    plain = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert VerifyResult.parse(plain, "the same") == result
    assert plain["format"] == "edgeskin-verify/1"
    assert (result.lesions, result.without_clinical) == (LESIONS, 1)
    assert (result.accuracy["pair"].lesions, result.accuracy["dermoscopic"].lesions) == (LESIONS - 1, LESIONS)
    assert result.bundle_sha256 == bundle.sha256
    assert result.role_sha256 == role_hash(p.lesion_id for p in pairs)
    assert result.passed
    assert len(result.golden) == 4
    assert result.notes[0] == "a remark"
    assert any("phantom" in note for note in result.notes)
    assert result.engine["backend"] == "onnxruntime"


def test_figures_come_from_the_path_a_device_takes(result, bundle, pairs):
    for side, graphs in (("bundle", "core"), ("fp32", "reference")):
        model = load(bundle, threads=1, graphs=graphs)
        both = [p for p in pairs if p.clinical is not None]
        given = [model.classify(clinical=p.clinical, dermoscopic=p.dermoscopic) for p in both]
        names = bundle.manifest.task_schema.task("DIAG").class_names
        predicted = np.array([names.index(r.predicted["DIAG"]) for r in given])
        truth = np.array([p.labels["DIAG"] for p in both])
        rows = result.accuracy["pair"].tasks["DIAG"]
        assert getattr(rows["accuracy"], side).value == pytest.approx(metrics.accuracy(truth, predicted))
        assert getattr(rows["macro_f1"], side).value == pytest.approx(metrics.macro_f1(truth, predicted, len(names)))
        positive = truth == names.index("MEL")
        score = np.array([r.decision.probability for r in given])
        target = result.accuracy["pair"].target
        assert getattr(target["auc"], side).value == pytest.approx(metrics.auc(positive, score))
        expected = metrics.sensitivity_specificity(positive, np.array([r.decision.refer for r in given]))
        found = getattr(target["sensitivity"], side).value, getattr(target["specificity"], side).value
        assert found == pytest.approx(expected)


def test_parity_is_that_of_the_logits(result, bundle, pairs):
    frames = [np.stack([load(bundle).prepare(p.dermoscopic)]) for p in pairs]
    core, reference = (
        np.stack([model.infer(f, "dermoscopic") for f in frames])
        for model in (load(bundle, threads=1), load(bundle, threads=1, graphs="reference"))
    )
    found = result.parity["dermoscopic"]
    assert found.sqnr_db.value == pytest.approx(metrics.sqnr_db(reference, core), abs=1e-3)
    manifest = bundle.manifest
    before, after = (
        decide.task_probabilities(x, manifest.task_schema, manifest.fusion, "dermoscopic")["DIAG"].argmax(-1)
        for x in (reference, core)
    )
    changed = np.flatnonzero(before != after)
    assert found.predicted.lesions == tuple(pairs[i].lesion_id for i in changed)
    assert found.argmax_agreement["DIAG"] == pytest.approx(1 - len(changed) / LESIONS)


def test_an_unlabelled_task_is_null_with_a_reason(result):
    row = result.accuracy["pair"].tasks["RS"]["accuracy"]
    assert row.bundle.value is None
    assert row.bundle.reason == "no lesion is labelled for this task"


def test_several_tasks_are_also_scored_in_the_form_of_the_literature(result, bundle, pairs):
    schema = bundle.manifest.task_schema
    for side, graphs in (("bundle", "core"), ("fp32", "reference")):
        model = load(bundle, threads=1, graphs=graphs)
        given = [model.classify(dermoscopic=p.dermoscopic) for p in pairs]
        found = result.accuracy["dermoscopic"]
        by_name = {one.title: one for one in found.literature.classes}
        assert list(by_name)[:2] == ["MEL", "PN-ATP"]
        atypical = schema.task("PN").class_names.index("ATP")
        positive = np.array([p.labels["PN"] == atypical for p in pairs])
        flagged = np.array([r.predicted["PN"] == "ATP" for r in given])
        expected = metrics.sensitivity_specificity(positive, flagged)
        one = by_name["PN-ATP"]
        rates = [getattr(rate, side).value for rate in (one.sensitivity, one.specificity)]
        assert rates == [None if np.isnan(value) else pytest.approx(value) for value in expected]
        melanoma = np.array([p.labels["DIAG"] == schema.task("DIAG").class_names.index("MEL") for p in pairs])
        for reached in found.score.reached:
            flagged = np.array([reached.threshold in r.score_reached for r in given])
            expected = metrics.sensitivity_specificity(melanoma, flagged)
            assert getattr(reached.sensitivity, side).value == pytest.approx(expected[0])
            assert getattr(reached.specificity, side).value == pytest.approx(expected[1])
    assert found.literature.average_accuracy.bundle.reason == "no lesion is labelled for RS"
    assert (found.score.lesions, found.score.labelled) == (LESIONS, 0)


def test_beside_the_literature_every_lesion_is_answered_by_the_images_it_has(result, bundle, pairs):
    schema, every = bundle.manifest.task_schema, result.every_lesion
    assert (every.lesions, every.without_clinical) == (LESIONS, 1)
    truth = {task.name: np.array([p.labels[task.name] for p in pairs]) for task in schema.tasks}
    for side, graphs in (("bundle", "core"), ("fp32", "reference")):
        model = load(bundle, threads=1, graphs=graphs)
        given = [model.classify(clinical=p.clinical, dermoscopic=p.dermoscopic) for p in pairs]
        assert [r.mode for r in given].count("dermoscopic") == 1
        for task in schema.tasks[:-1]:
            said = np.array([task.class_names.index(r.predicted[task.name]) for r in given])
            accuracy = getattr(every.accuracy[task.name], side).value
            assert accuracy == pytest.approx(metrics.accuracy(truth[task.name], said))
        melanoma = truth["DIAG"] == schema.task("DIAG").class_names.index("MEL")
        one = every.literature.classes[0]
        assert (one.title, one.lesions, one.positives) == ("MEL", LESIONS, melanoma.sum())
        score = np.array([r.decision.probability for r in given])
        assert getattr(one.auc, side).value == pytest.approx(metrics.auc(melanoma, score), abs=1e-6)
        assert every.score.lesions == LESIONS
        for reached in every.score.reached:
            flagged = np.array([reached.threshold in r.score_reached for r in given])
            expected = metrics.sensitivity_specificity(melanoma, flagged)
            assert getattr(reached.sensitivity, side).value == pytest.approx(expected[0])
            assert getattr(reached.specificity, side).value == pytest.approx(expected[1])
    assert every.accuracy["RS"].bundle.reason == "no lesion is labelled for this task"


def test_where_all_lesions_have_the_same_images_nothing_is_scored_twice(bundle, pairs):
    for same in (pairs[:4], [replace(p, clinical=None) for p in pairs[:4]]):
        found = verify.verify(bundle, same, role="test", threads=1, bootstrap=100)
        assert found.every_lesion is None


def test_what_the_role_lacks_stands_in_the_notes(result):
    assert "role test has no lesion labelled for RS: its figures are undefined" in result.notes


def test_a_record_from_before_these_figures_still_reads(result):
    plain = result.to_json()
    for accuracy in plain["accuracy"].values():
        for name in ("literature", "score", "calibration"):
            del accuracy[name]
    del plain["every_lesion"]
    read = VerifyResult.parse(plain, "an older record").accuracy["pair"]
    assert (read.literature, read.score, read.calibration) == (None, None, {})


def test_a_bundle_that_equals_its_reference_has_no_flips(bundle, pairs):
    manifest = bundle.manifest.model_copy(update={"graphs": bundle.manifest.reference})
    found = verify.verify(Bundle(TINY, manifest, "same", lean=False), pairs[:8], role="test", threads=1, bootstrap=100)
    assert all(p.predicted.flipped == p.referral.flipped == 0 for p in found.parity.values())
    assert all(p.max_abs_probability_difference == 0 for p in found.parity.values())
    assert not found.passed  # the golden cases are those of the INT8 graphs
    assert any("do not trust" in note for note in found.notes)


def test_a_lean_bundle_is_scored_without_differences(pairs, tmp_path):
    lean = open_bundle(pack(TINY, tmp_path / "lean.zip", lean=True))
    found = verify.verify(lean, pairs[:6], role="all", threads=1, bootstrap=100)
    assert found.parity == {}
    row = found.accuracy["dermoscopic"].tasks["DIAG"]["accuracy"]
    assert row.bundle.value is not None
    assert row.fp32.value is row.difference.value is None
    assert any("packed without" in note for note in found.notes)


def test_without_clinical_images_mode_pair_is_explained(bundle, pairs):
    alone = [replace(p, clinical=None) for p in pairs[:4]]
    found = verify.verify(bundle, alone, role="test", threads=1, bootstrap=100)
    assert set(found.accuracy) == set(found.parity) == {"dermoscopic"}
    assert any("mode pair was not scored" in note for note in found.notes)


def test_roles_that_made_the_bundle_are_marked(bundle, pairs):
    found = verify.verify(bundle, pairs[:2], role="control", threads=1, bootstrap=100)
    assert any("flatter" in note for note in found.notes)


def test_no_lesion_is_an_error(bundle):
    with pytest.raises(EdgeskinError, match="empty role: got \"no lesion for 'test'\""):
        verify.verify(bundle, [], role="test")


def test_a_killed_verification_resumes(bundle, pairs, cache, monkeypatch):
    monkeypatch.setattr(verify, "_SAVE_EVERY", 4)
    infer, calls = Classifier.infer, []

    def dies(self, frames, mode):
        calls.append(mode)
        if len(calls) > 4 * 10:
            raise KeyboardInterrupt
        return infer(self, frames, mode)

    monkeypatch.setattr(Classifier, "infer", dies)
    with pytest.raises(KeyboardInterrupt):
        verify.verify(bundle, pairs, role="test", threads=1, bootstrap=100)
    (kept,) = (cache / "verify").iterdir()
    with np.load(kept) as stored:
        assert stored["done"] == 8
    seen = []
    monkeypatch.setattr(Classifier, "infer", lambda self, frames, mode: seen.append(mode) or infer(self, frames, mode))
    resumed = verify.verify(bundle, pairs, role="test", threads=1, bootstrap=100)
    assert len(seen) == 4 * (LESIONS - 8)
    assert list((cache / "verify").iterdir()) == []
    monkeypatch.setattr(Classifier, "infer", infer)
    whole = verify.verify(bundle, pairs, role="test", threads=1, bootstrap=100)
    same = {"created", "seconds"}
    assert resumed.model_dump(exclude=same) == whole.model_dump(exclude=same)


@pytest.mark.parametrize("spoil", [lambda p: p.write_bytes(b"PK\3\4"), lambda p: np.savez(p, done=3)])
def test_a_spoilt_resume_file_is_not_used(bundle, pairs, cache, spoil):
    model = load(bundle, threads=1)
    engine = dict(model.session("dermoscopic").describe())
    path = verify._resume_file(bundle, pairs[:3], engine, 1)
    path.parent.mkdir(parents=True)
    spoil(path)
    found = verify.predict({"core": model}, pairs[:3], path)
    assert np.isfinite(found["core", "pair"]).all()


def test_a_cache_that_cannot_be_written_costs_only_the_resume(bundle, pairs, monkeypatch, capsys):
    def full(*_args):
        raise EdgeskinError("the disk is full")

    monkeypatch.setattr(verify, "_SAVE_EVERY", 2)
    monkeypatch.setattr(verify, "write_atomic", full)
    verify.verify(bundle, pairs[:4], role="test", threads=1, bootstrap=100)
    assert "cannot keep what is done so far: the disk is full" in capsys.readouterr().err


def test_roles_must_be_those_of_the_bundle(bundle):
    roles = bundle.manifest.roles
    verify.check_roles(bundle.manifest, roles)
    other = {**roles, "test": RoleRecord(lesions=3, sha256="0" * 64)}
    with pytest.raises(EdgeskinError, match="not the ones the bundle was made with: got 'roles that differ: test'"):
        verify.check_roles(bundle.manifest, other)
    with pytest.raises(EdgeskinError, match="--role all"):
        verify.check_roles(bundle.manifest, {k: v for k, v in roles.items() if k != "train"})


def test_lesions_that_made_the_bundle_are_left_out(bundle, pairs, capsys):
    known = [replace(pairs[0], lesion_id=name) for name in ("train-0", "calibration-1", "control-2")]
    fresh = [pairs[1], replace(pairs[0], lesion_id="test-0")]
    hashes = bundle.lesion_hashes()
    assert short_hash("train-0") in hashes["train"]
    assert verify.unseen([*known, *fresh], hashes) == (fresh, 3)
    assert "left out 3 of 5 lesions" in capsys.readouterr().err
    assert verify.unseen(fresh, hashes) == (fresh, 0)
    with pytest.raises(EdgeskinError, match="no unseen lesion"):
        verify.unseen(known, hashes)


def test_golden_cases_alone_score_no_lesion(bundle):
    found = verify.verify_golden(bundle, threads=1)
    assert found.passed
    assert (len(found.golden), found.lesions, found.parity, found.accuracy) == (4, 0, {}, {})
    other = bundle.manifest.model_copy(update={"graphs": bundle.manifest.reference})
    assert not verify.verify_golden(Bundle(TINY, other, "same", lean=False), threads=1).passed
