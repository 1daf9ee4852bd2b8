"""Sweeps that really train, on drawn pairs: kept, resumed, with failures told."""

import csv
import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from edgeskin.data.registry import load_pairs
from edgeskin.data.roles import assign
from edgeskin.errors import EdgeskinError
from edgeskin.report.forest import forest
from edgeskin.report.sweep import markdown
from edgeskin.spec.sweep_result import SweepResult
from edgeskin.sweeping import sweep as stage
from edgeskin.sweeping.answers import read
from edgeskin.sweeping.sweep import sweep
from edgeskin.sweeping.work import attempt
from tests.sweeping.conftest import QUESTION, THREE, write_toml

pytestmark = pytest.mark.skipif(not find_spec("lightning"), reason="needs the extra train")


@pytest.fixture
def here(monkeypatch):
    """Runs happen in this process, which spares each the seconds of a new one. Lists what was run."""
    done: list[str] = []

    def in_process(jobs, at_once, address):
        for job in jobs:
            done.append(job.name)
            yield job, attempt(job.to_json())

    monkeypatch.setattr(stage, "run_all", in_process)
    return done


def test_a_sweep_keeps_what_is_done_and_tells_what_failed(drawn, suite_of, here, tmp_path):
    suite = suite_of(THREE, seeds=[0], comparison=[QUESTION])
    found = sweep(suite, str(drawn), tmp_path)
    assert here == ["base-s0", "clinical-only-s0", "broken-s0"]
    base, clinical, broken = found.variants
    assert base.seeds == clinical.seeds == (0,)
    assert [one.reading for one in base.readings] == ["pair", "dermoscopic", "dermoscopic-branch", "clinical-branch"]
    assert [one.reading for one in clinical.readings] == ["clinical"]
    assert broken.seeds == ()
    assert broken.readings == ()
    assert "resnet_of_nobody" in broken.failed[0]
    assert "unknown backbone" in broken.failed[0]
    assert base.parameters > clinical.parameters
    assert base.readings[0].macs > base.readings[1].macs == clinical.readings[0].macs
    assert base.seconds[0] > 0
    assert (found.answers[0].verdict, found.answers[0].reason) == (None, "one common seed")
    assert found.phantom
    told = json.loads((tmp_path / "sweep.json").read_text())
    assert SweepResult.parse(told, "sweep.json") == found

    # Once more: what is done stays as it is, the failed run alone is tried again.
    before = {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/test.npz")}
    assert len(before) == 2
    here.clear()
    again = sweep(suite, str(drawn), tmp_path)
    assert here == ["broken-s0"]
    assert {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/test.npz")} == before
    assert again.variants == found.variants
    # With a seed more, only that seed; without the broken variant, the shared frames go at the end.
    here.clear()
    assert (tmp_path / "frames").is_dir()
    more = sweep(suite.reduced(["base"]).model_copy(update={"seeds": (0, 1)}), str(drawn), tmp_path)
    assert here == ["base-s1"]
    assert more.variants[0].seeds == (0, 1)
    assert more.variants[0].readings[0].figures["auc_melanoma"].spread is not None
    assert not (tmp_path / "frames").exists()
    assert not list(tmp_path.glob("*/frames"))


def test_the_answers_are_those_of_the_trained_network(drawn, suite_of, here, tmp_path):
    """The logits kept are what the checkpoint says, one pair at a time, and frames were decoded once for all runs."""
    import torch

    from edgeskin.model.checkpoint import load_network, read_record
    from edgeskin.preprocess import prepare

    suite = suite_of({"base": {}, "a-1": {"train": {"clinical_weight": 1.0}}}, seeds=[0])
    decoded = []
    real = stage._prepare

    def prepare_and_look(*given):
        real(*given)
        decoded.extend(sorted(p.name for p in (tmp_path / "frames").iterdir()))

    stage._prepare = prepare_and_look
    try:
        sweep(suite, str(drawn), tmp_path)
    finally:
        stage._prepare = real
    assert len(decoded) == 3  # train, control, test
    pairset = load_pairs("derm7pt", drawn)
    test = [p for p in assign(pairset, suite.base.data.roles)["test"] if p.clinical is not None]
    found = read(tmp_path / "base-s0" / "test.npz")
    record = read_record(tmp_path / "base-s0")
    network = load_network(tmp_path / "base-s0", record)
    assert len(found.lesions) == len(test)
    for row in (0, len(test) - 1):
        frames = [prepare(path, record.preprocess) for path in (test[row].clinical, test[row].dermoscopic)]
        with torch.inference_mode():
            both = network(torch.from_numpy(np.stack(frames)), 1).numpy()
            alone = network(torch.from_numpy(frames[1][None]), 0).numpy()[0]
        assert found.pair[row] == pytest.approx(both, abs=1e-4)
        assert found.dermoscopic[row] == pytest.approx(alone, abs=1e-4)
        assert found.labels[row].tolist() == [test[row].labels[t.name] for t in pairset.schema.tasks]
    assert found.parameters == sum(p.numel() for p in network.parameters())


def test_an_interrupted_sweep_goes_on(drawn, suite_of, monkeypatch, tmp_path):
    suite = suite_of(seeds=[0])
    done = []

    def until_stopped(jobs, at_once, address):
        for job in jobs:
            if done and stop:
                raise KeyboardInterrupt
            done.append(job.name)
            yield job, attempt(job.to_json())

    monkeypatch.setattr(stage, "run_all", until_stopped)
    stop = True
    with pytest.raises(KeyboardInterrupt):
        sweep(suite, str(drawn), tmp_path)
    assert done == ["base-s0"]
    assert not (tmp_path / "sweep.json").exists()
    stop = False
    found = sweep(suite, str(drawn), tmp_path)
    assert done == ["base-s0", "other-s0"]
    assert [v.seeds for v in found.variants] == [(0,), (0,)]


def test_another_plan_in_the_same_folder_is_refused_before_anything_runs(drawn, suite_of, here, tmp_path):
    sweep(suite_of({"base": {}}, seeds=[0]), str(drawn), tmp_path)
    here.clear()
    with pytest.raises(EdgeskinError, match="another run is in this folder"):
        sweep(suite_of({"base": {"train": {"epochs": 3}}}, seeds=[0]), str(drawn), tmp_path)
    assert here == []


def test_two_sweeps_in_one_folder_do_not_run_at_once_but_what_is_done_can_be_judged(drawn, suite_of, here, tmp_path):
    suite = suite_of({"base": {}, "other": {"train": {"clinical_weight": 1.0}}}, seeds=[0])
    sweep(suite.reduced(["base"]), str(drawn), tmp_path)
    (tmp_path / "frames").mkdir()
    with stage._alone(tmp_path) as alone:
        assert alone
        with pytest.raises(EdgeskinError, match="another sweep is at work in this folder"):
            sweep(suite, str(drawn), tmp_path)
        assert sweep(suite.reduced(["base"]), str(drawn), tmp_path).variants[0].seeds == (0,)
        assert (tmp_path / "frames").is_dir()  # the other one needs them
    assert here == ["base-s0"]
    sweep(suite, str(drawn), tmp_path)
    assert here == ["base-s0", "other-s0"]


def test_a_part_leaves_the_result_and_the_frames_of_the_whole(drawn, suite_of, here, tmp_path):
    whole = suite_of({"base": {}, "other": {"train": {"clinical_weight": 1.0}}}, seeds=[0])
    part = whole.reduced(["base"])
    assert stage.result_file(tmp_path, whole.reduced(["base", "other"], 1), whole) == tmp_path / "sweep.json"
    sweep(part, str(drawn), tmp_path, whole=whole)
    assert (tmp_path / "sweep-part.json").is_file()
    assert not (tmp_path / "sweep.json").exists()
    assert (tmp_path / "frames").is_dir()  # the other variant needs them
    sweep(whole, str(drawn), tmp_path, whole=whole)
    assert not (tmp_path / "frames").exists()
    fuller = (tmp_path / "sweep.json").read_bytes()
    sweep(part, str(drawn), tmp_path, whole=whole)
    assert (tmp_path / "sweep.json").read_bytes() == fuller
    assert here == ["base-s0", "other-s0"]


@pytest.fixture
def one_image(drawn, tmp_path) -> Path:
    """The drawn pairs without a clinical image in the test role."""
    root = tmp_path / "one-image"
    shutil.copytree(drawn, root)
    rows = list(csv.DictReader((root / "meta" / "meta.csv").open(newline="")))
    for number in (root / "meta" / "test_indexes.csv").read_text().split()[1:]:
        rows[int(number)]["clinic"] = rows[int(number)]["derm"]
    with (root / "meta" / "meta.csv").open("w", newline="") as handle:
        table = csv.DictWriter(handle, rows[0])
        table.writeheader()
        table.writerows(rows)
    return root


def test_a_test_role_without_clinical_images_is_for_dermoscopic_networks(one_image, suite_of, here, tmp_path):
    variants = {"derm": {"network": {"modalities": "dermoscopic"}}, "both": {}}
    suite = suite_of(variants, seeds=[0])
    words = "no lesion of the test role has both images: got '.* lesions; clinical images are looked at by both'"
    with pytest.raises(EdgeskinError, match=words):
        sweep(suite, str(one_image), tmp_path / "out")
    assert here == []
    found = sweep(suite.reduced(["derm"]), str(one_image), tmp_path / "out")
    assert here == ["derm-s0"]
    assert found.lesions == found.roles["test"].lesions
    assert found.left_out == 0
    assert found.variants[0].readings[0].figures["macro_f1"].estimate.value is not None


def test_a_sweep_of_failures_alone_is_an_error(drawn, suite_of, here, tmp_path):
    with pytest.raises(EdgeskinError, match=r"no run of the sweep came to its end.*resnet_of_nobody"):
        sweep(suite_of({"broken": THREE["broken"]}), str(drawn), tmp_path)


def test_what_cannot_be_judged_is_told_before_anything_runs(drawn, suite_of, here, tmp_path):
    target = [{"task": "DIAG", "positive": ["MELANOMA"], "title": "x"}]
    with pytest.raises(EdgeskinError, match="unknown class of the target 'x'"):
        sweep(suite_of(target=target), str(drawn), tmp_path)
    with pytest.raises(EdgeskinError, match="missing root"):
        sweep(suite_of(), str(tmp_path / "nowhere"), tmp_path)
    assert here == []
    assert list(tmp_path.iterdir()) == []


def test_the_command_shows_and_writes_one_table(drawn, suite_of, here, tmp_path):
    from typer.testing import CliRunner

    from edgeskin.cli import app

    def run(*more: object):
        words = ["sweep", str(write_toml(suite_of(THREE, comparison=[QUESTION]), tmp_path)), "--root", str(drawn)]
        return CliRunner().invoke(app, [*words, "--out", str(tmp_path / "out"), "--seeds", "1", *map(str, more)])

    told = run("--only", "base", "--only", "clinical-only", "--results", tmp_path / "r" / "tiny.json")
    assert told.exit_code == 0, told.output
    assert here == ["base-s0", "clinical-only-s0"]
    for words in ("base", "clinical-only", "AUC melanoma", "both beat one", "Drawn images"):
        assert words in told.stdout
    assert "broken" not in told.stdout
    found = SweepResult.parse(json.loads((tmp_path / "r" / "tiny.json").read_text()), "tiny.json")
    assert found.suite.seeds == (0,)
    assert (tmp_path / "out" / "sweep-part.md").read_text() == markdown(found)
    assert (tmp_path / "out" / "sweep-part.svg").read_text() == forest(found)
    assert not list((tmp_path / "out").glob("sweep.*"))  # they are of the whole
    printed = run("--only", "base", "--only", "clinical-only", "--json")
    assert SweepResult.parse(json.loads(printed.stdout), "stdout").variants == found.variants
    refused = run("--only", "bass")
    assert isinstance(refused.exception, EdgeskinError)
    assert "did you mean 'base'" in str(refused.exception)
