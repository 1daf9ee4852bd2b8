import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import edgeskin
from edgeskin import catalog, out, show, show_bench, show_figures
from edgeskin.compared import NO_REFERENCE
from edgeskin.errors import EdgeskinError
from edgeskin.spec.result import (
    Accuracy,
    AgainstRest,
    Calibration,
    Compared,
    Estimate,
    EveryLesion,
    Flips,
    Literature,
    Reached,
    ScoreFigures,
)

pytest.importorskip("onnxruntime", reason="the tiny bundle needs edgeskin[onnxruntime]")
TINY = Path(__file__).resolve().parent / "golden" / "tiny-onnxruntime"


@pytest.fixture(scope="module")
def model():
    return edgeskin.load(TINY, threads=1)


@pytest.fixture(autouse=True)
def _text():
    out.configure(quiet=True)
    yield
    out.configure()


@pytest.fixture
def pairs(tmp_path) -> Path:
    """A folder of three lesions, one without clinical image."""
    folder = tmp_path / "pairs"
    folder.mkdir()
    for k, name in enumerate(("A_clinical", "A_dermoscopic", "B_dermoscopic", "C_clinical", "C_dermoscopic")):
        small = np.random.default_rng(k).integers(30, 220, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(small).resize((64, 48)).save(folder / f"{name}.png")
    return folder


@pytest.mark.parametrize(
    ("value", "signed", "text"),
    [
        (Estimate(value=0.5), False, "0.500"),
        (Estimate(value=0.0123), True, "+0.012"),
        (Estimate(value=-0.01, low=-0.02, high=0.01), True, "-0.010 [-0.020, +0.010]"),
        (Estimate(), False, "-"),
        (Estimate(reason="no melanoma"), False, "undefined: no melanoma"),
    ],
)
def test_estimate(value, signed, text):
    assert show_figures.estimate(value, signed) == text


def test_one_lesion(model, pairs, capsys):
    found = model.classify(dermoscopic=pairs / "A_dermoscopic.png", clinical=pairs / "A_clinical.png")
    show.result(found, model.manifest)
    said = capsys.readouterr().out
    first = said.splitlines()[0]
    assert first.startswith(f"P(melanoma) {found.decision.probability:.3f}, threshold 0.300:")
    assert first.endswith("refer" if found.decision.refer else "below the threshold")
    assert "trained on drawn images" in said
    assert f" {found.score} (" in said
    for task in model.manifest.task_schema.tasks:
        assert task.name in said
    assert model.manifest.research_use in said


def test_a_lesion_below_every_threshold(model, pairs, capsys):
    from dataclasses import replace

    found = model.classify(dermoscopic=pairs / "B_dermoscopic.png")
    quiet = replace(found, decision=replace(found.decision, probability=0.01, refer=False), score=0, score_reached=())
    show.result(quiet, model.manifest.model_copy(update={"phantom": False}))
    said = capsys.readouterr().out
    assert "P(melanoma) 0.010, threshold 0.350: below the threshold" in said
    assert "seven-point score 0 (>= 1 not, >= 3 not)" in said
    assert "drawn images" not in said


def test_json_mode_says_nothing_for_people(model, pairs, capsys):
    out.configure(json_output=True, quiet=True)
    show.result(model.classify(dermoscopic=pairs / "B_dermoscopic.png"), model.manifest)
    assert capsys.readouterr().out == ""
    show.many(model, pairs, None)
    rows = json.loads(capsys.readouterr().out)
    assert [row["lesion_id"] for row in rows] == ["A", "B", "C"]


def test_a_lesion_that_cannot_be_judged(model, pairs, capsys):
    Image.fromarray(np.full((48, 64, 3), 9, np.uint8)).save(pairs / "A_dermoscopic.png")
    show.result(
        model.classify(dermoscopic=pairs / "A_dermoscopic.png", clinical=pairs / "A_clinical.png"), model.manifest
    )
    said = capsys.readouterr().out
    assert said.splitlines()[0] == "not assessable: dermoscopic image empty"
    assert "P(" not in said
    show.many(model, pairs, None)
    said = capsys.readouterr().out
    assert "2 lesions classified" in said
    assert "1 not assessable" in said
    assert "not assessable: dermoscopic image empty" in " ".join(said.split())


def test_many(model, pairs, capsys, tmp_path):
    show.many(model, pairs, None)
    said = capsys.readouterr().out
    assert all(f" {mode} " in said for mode in ("pair", "dermoscopic"))
    assert "3 lesions classified" in said
    assert "seven-point score" in said
    show.many(model, pairs, tmp_path / "a.jsonl")
    said = capsys.readouterr().out
    assert "a.jsonl" in said
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 3
    referred = sum(json.loads(line)["decision"]["refer"] for line in (tmp_path / "a.jsonl").read_text().splitlines())
    assert f"{referred} at or above the threshold for melanoma" in said


def test_many_with_a_corrupt_image_ends_in_an_error_after_the_answers(model, pairs, capsys):
    (pairs / "B_dermoscopic.png").write_bytes(b"broken")
    with pytest.raises(EdgeskinError, match="1 of 3 lesions could not be classified: got 'B: ") as caught:
        show.many(model, pairs, None)
    assert len(caught.value.details) == 1
    assert "2 lesions classified" in capsys.readouterr().out


def test_flips_name_their_direction():
    flips = Flips(flipped=2, of=100, share=0.02, low=0.0055, high=0.07, to_target=1, from_target=1, lesions=("a", "b"))
    assert show.flips(flips) == "2 of 100, 2.00% (0.55% to 7.00%); to target 1, from target 1"


def test_devices(capsys):
    found = [catalog.device(name) for name in catalog.device_names()]
    show_bench.devices(found)
    said = capsys.readouterr().out
    assert "not measurements" in said
    assert all(device.name in said for device in found)


def test_doctor(capsys):
    checks = [
        SimpleNamespace(name="engine", status="ok", found="1.22", enables="", fix=""),
        SimpleNamespace(name="trainer", status="absent", found="-", enables="train", fix="pip install x"),
    ]
    show_bench.doctor(checks)
    said = capsys.readouterr().out
    assert "trainer: absent; enables: train; fix: pip install x" in said
    assert "engine: ok" not in said


def one(value: float | None, reason: str = "") -> Compared:
    same = Estimate(value=value, low=value, high=value, reason=reason)
    return Compared(fp32=same, bundle=same, difference=same)


def several_tasks() -> Accuracy:
    figures = {"accuracy": one(0.7), "balanced_accuracy": one(0.6, "mean over 4 of 5 classes: none is SK")}
    against = [
        AgainstRest(
            title=title, task=task, classes=("x",), lesions=395, positives=9, auc=one(0.9), sensitivity=one(0.8),
            specificity=one(0.75), precision=precision,
        )
        for title, task, precision in (
            ("MEL", "DIAG", one(0.66)), ("PN-ATP", "PN", one(None, "no lesion is answered with this class"))
        )
    ]  # fmt: skip
    reached = Reached(
        threshold=3, sensitivity=one(0.81), specificity=one(0.31), labelled_sensitivity=Estimate(value=0.929),
        labelled_specificity=Estimate(value=0.822),
    )  # fmt: skip
    phases = {phase: {"ece": one(0.125), "nll": one(1.375)} for phase in ("before", "after", "change")}
    return Accuracy(
        lesions=395,
        threshold=0.3,
        tasks={"DIAG": figures, "PN": figures},
        target={"auc": one(0.91), "ece": one(0.125)},
        literature=Literature(average_accuracy=one(0.7654), classes=tuple(against)),
        score=ScoreFigures(lesions=395, labelled=390, distance=one(1.25), reached=(reached,)),
        calibration={"DIAG": Calibration(**phases)},
    )


def test_several_tasks_are_shown_as_the_literature_does(capsys):
    show_figures.accuracy(several_tasks(), "mode pair", "INT8")
    said = " ".join(capsys.readouterr().out.split())
    assert "mean accuracy of 2 tasks 0.765 [0.765, 0.765]" in said
    assert "PN accuracy" in said
    assert "PN balanced_accuracy" not in said  # of the target's task alone; the record has the others
    assert "note: DIAG balanced_accuracy: mean over 4 of 5 classes: none is SK" in said
    assert "by the most probable class" in said
    assert "MEL 9 of 395 FP32 0.900 [0.900, 0.900] 0.800" in said
    assert "PN-ATP 9 of 395 INT8 0.900 [0.900, 0.900] 0.800 [0.800, 0.800] 0.750 [0.750, 0.750] -" in said
    assert "note: undefined, as no lesion is answered with this class: PN-ATP precision" in said
    assert "score >= 3: sensitivity 0.810" in said
    assert "0.929" in said
    assert "true criteria, 390 lesions" in said
    assert "negative log likelihood, nats, its temperatures 1.375 [1.375, 1.375]" in said
    assert "calibration error, its temperatures 0.125 0.125 +0.125" in said  # an older record's interval is not told
    assert "target ece 0.125 0.125 +0.125" in said
    assert said.count("note: target ece: no interval: ") == 1


def test_every_lesion_by_the_images_it_has_is_shown_with_its_number(capsys):
    scored = several_tasks()
    every = EveryLesion(
        lesions=395, without_clinical=5, accuracy={"DIAG": one(0.7), "PN": one(0.6)}, literature=scored.literature,
        score=scored.score,
    )  # fmt: skip
    show_figures.every_lesion(every, "every lesion, 395", "INT8")
    said = " ".join(capsys.readouterr().out.split())
    assert "every lesion, 395" in said
    assert "PN accuracy 0.600" in said
    assert "mean accuracy of 2 tasks 0.765" in said
    assert "MEL 9 of 395 INT8" in said
    assert "the score as a test for the target, 395 lesions" in said


def test_an_older_record_shows_all_its_tasks(capsys):
    old = several_tasks().model_copy(update={"literature": None, "score": None, "calibration": {}})
    show_figures.accuracy(old, "mode pair", "INT8")
    said = capsys.readouterr().out
    assert "PN balanced_accuracy" in said
    assert "most probable" not in said
    assert "calibration of DIAG" not in said


def test_a_lean_bundle_has_one_row_a_class(capsys):
    lean = Estimate(reason=NO_REFERENCE)
    found = several_tasks()
    classes = tuple(
        c.model_copy(
            update={
                name: getattr(c, name).model_copy(update={"fp32": lean, "difference": lean})
                for name in ("auc", "sensitivity", "specificity", "precision")
            }
        )
        for c in found.literature.classes
    )
    literature = found.literature.model_copy(update={"classes": classes})
    show_figures.accuracy(found.model_copy(update={"literature": literature}), "mode pair", "INT8")
    said = " ".join(capsys.readouterr().out.split())
    assert "MEL 9 of 395 INT8" in said
    assert "9 of 395 FP32" not in said
    assert NO_REFERENCE not in said
