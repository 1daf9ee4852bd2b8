"""Figures of several tasks on the page and in its twin, made by the scoring itself on drawn logits."""

import re
from pathlib import Path

import numpy as np
import pytest

from edgeskin import scoring
from edgeskin.bundle import Bundle
from edgeskin.report import html, inputs, tasks, text, view
from edgeskin.spec.result import Compared, Estimate, VerifyResult

LESIONS = 60


@pytest.fixture
def scored(bundle: Bundle, verified: VerifyResult) -> inputs.BundleInput:
    """The tiny bundle's answers to lesions of which none is SK and none shows irregular vessels."""
    schema = bundle.manifest.task_schema
    rng = np.random.default_rng(3)
    labels = {task.name: rng.integers(0, len(task.classes), LESIONS) for task in schema.tasks}
    labels["DIAG"][labels["DIAG"] == 4] = 1
    labels["VS"][labels["VS"] == 2] = 0
    known = np.concatenate([np.eye(len(t.classes))[labels[t.name]] for t in schema.tasks], 1)[:, None]
    reference = (known * 3 + rng.normal(0, 1, (LESIONS, 2, schema.logits))).astype(np.float32)
    reference[:, :, schema.slices()["DIAG"]][..., 4] = -20  # nor is SK ever answered
    core = reference + rng.normal(0, 0.3, reference.shape).astype(np.float32)
    groups = [str(k) for k in range(LESIONS)]
    accuracy = {
        mode: scoring.accuracy(bundle.manifest, mode, labels, groups, core[:, -k:], reference[:, -k:], repeats=100)
        for mode, k in (("dermoscopic", 1), ("pair", 2))
    }
    paired = np.arange(LESIONS) > 3
    logits = [{"pair": x, "dermoscopic": x[:, -1:]} for x in (core, reference)]
    every = scoring.every_lesion(bundle.manifest, labels, groups, paired, *logits, repeats=100)
    record = verified.model_copy(update={"accuracy": accuracy, "lesions": LESIONS, "every_lesion": every})
    return inputs.BundleInput(manifest=bundle.manifest, sha256=bundle.sha256, verify=record)


def test_tables_hold_the_figures_of_the_record(scored: inputs.BundleInput) -> None:
    classes, score, calibration = tasks.tables(scored)
    assert scored.verify is not None
    found = scored.verify.accuracy["pair"]
    assert found.literature is not None
    assert found.score is not None
    assert len(classes.rows) == 3 * (1 + 2 * 8)
    every = scored.verify.every_lesion
    assert every is not None
    together = classes.rows[2 * (1 + 2 * 8) :]
    assert together[0][0] == f"each by the images it has, {LESIONS} lesions"
    assert together[2][2] == text.estimate(every.literature.classes[0].auc.bundle)
    assert score.rows[sorted(score.marked)[2]][0] == together[0][0]
    accuracies = view.accuracy(scored)
    assert accuracies is not None
    assert accuracies.rows[max(accuracies.marked)][0] == together[0][0]
    assert accuracies.rows[-1][2] == text.estimate(every.literature.average_accuracy.bundle)
    assert classes.rows[0][0] == f"clinical + dermoscopic, {LESIONS} lesions"
    melanoma = found.literature.classes[0]
    assert classes.rows[1] == (
        f"MEL, {melanoma.positives} lesions", "FP32",
        *(text.estimate(getattr(melanoma, m).fp32) for m in ("auc", "sensitivity", "specificity", "precision")),
    )  # fmt: skip
    assert classes.rows[2][1:3] == ("INT8", text.estimate(melanoma.auc.bundle))
    assert "the most probable class" in classes.note
    assert "Undefined: VS-IR AUC, VS-IR sensitivity (no lesion has this class)." in classes.note
    rows = {row[0]: row for row in score.rows[1:6]}
    three = found.score.reached[1]
    assert rows["score ≥ 3: sensitivity"][2] == text.estimate(three.sensitivity.bundle)
    assert rows["score ≥ 3: specificity"][4] == text.estimate(three.labelled_specificity)
    assert f"labels of {LESIONS} lesions" in score.note
    assert calibration.rows[1][:2] == (
        "negative log likelihood, nats, every temperature 1",
        text.estimate(found.calibration["DIAG"].before["nll"].fp32),
    )
    (every,) = tasks.folded(scored)
    assert len(every.marked) == 2 * 8
    assert calibration.rows[1] in every.rows


def test_page_and_twin_show_them(scored: inputs.BundleInput, tmp_path: Path) -> None:
    given = inputs.ReportInput(title="t", bundles=(scored,))
    page = html.render(given, tmp_path / "r.html").read_text()
    twin = (tmp_path / "r.md").read_text()
    for shown in (page, twin):
        assert "PIG-IR" in shown
        assert "A class against the rest of its task" in shown
        assert "mean accuracy of 8 tasks" in shown
        assert "Calibration of every task" in shown
        assert "mean over 4 of 5 classes: none is SK" in shown
        assert "nan" not in re.sub(r"[a-z]+nan|nan[a-z]+", "", shown.lower())
    assert page.index('data-key="accuracy"') < page.index('data-key="classes"') < page.index('data-key="score"')


def test_an_older_record_has_none_of_them(given_all: inputs.ReportInput) -> None:
    (bundle,) = given_all.bundles
    assert tasks.tables(bundle) == ()
    assert tasks.folded(bundle) == ()
    bare = bundle.model_copy(update={"verify": None})
    assert (tasks.tables(bare), tasks.folded(bare)) == ((), ())


def test_what_is_undefined_for_fp32_alone_is_told_but_not_that_a_bundle_is_lean() -> None:
    fine, silent = Estimate(value=0.5), Estimate(reason="no lesion is answered MEL")
    lean = Estimate(reason="the bundle was packed without its FP32 reference")
    found = [
        ("precision", "pair", Compared(fp32=silent, bundle=fine, difference=silent)),
        ("auc", "pair", Compared(fp32=lean, bundle=fine, difference=lean)),
        ("auc", "alone", Compared(fp32=lean, bundle=silent, difference=lean)),
    ]
    assert text.remarks(found) == "Undefined: precision of FP32 (pair), auc (alone) (no lesion is answered MEL)."
