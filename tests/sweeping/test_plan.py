"""Which runs there are, and what makes a run another one."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgeskin.data.pairs import Pair
from edgeskin.data.roles import Roles
from edgeskin.errors import EdgeskinError
from edgeskin.spec.roles import ROLES
from edgeskin.sweeping import plan
from edgeskin.sweeping.answers import read, write
from edgeskin.sweeping.plan import Job, is_finished, jobs


@pytest.fixture
def roles(tmp_path) -> Roles:
    return Roles({r: (Pair(f"lesion-{r}", tmp_path / "d", tmp_path / "c", {"DIAG": 0}, 1),) for r in ROLES})


@pytest.fixture
def planned(suite_of, roles, schema, tmp_path):
    """planned(threads=1, root="here", **fields of the sweep): name -> its job."""

    def make(threads=1, root="here", lesions=roles, tasks=schema, **fields) -> dict[str, Job]:
        suite = suite_of(**fields)
        return {j.name: j for j in jobs(suite, suite.base.data.at(root), lesions, tasks, tmp_path / "out", threads)}

    return make


def test_every_variant_runs_with_every_seed_first_seeds_first(planned):
    own = {"a": {}, "b": {"seeds": [5, 6, 7]}}
    assert list(planned(variants=own)) == [
        "a-s0", "b-s5", "a-s1", "b-s6", "b-s7",
    ]  # fmt: skip


def test_a_job_travels_as_json(planned):
    job = planned()["other-s1"]
    assert Job.parse(json.loads(json.dumps(job.to_json()))) == job


def test_what_makes_its_figures_makes_its_key(planned, roles, monkeypatch):
    key = planned()["base-s0"].key
    assert key == planned(threads=4, root="elsewhere")["base-s0"].key  # a machine's matters
    base = {"data": {"name": "derm7pt"}, "network": {"backbone": "test_efficientnet"}, "train": {"epochs": 2}}
    plain = planned(base=base)["base-s0"].key
    assert plain == planned(base={**base, "train": {"epochs": 2, "workers": 7, "accelerator": "gpu"}})["base-s0"].key
    others = [
        planned()["base-s1"].key,
        planned()["other-s0"].key,
        plain,
        planned(base={**base, "train": {"epochs": 3}})["base-s0"].key,
        planned(base={**base, "weights": "w.safetensors"})["base-s0"].key,
        planned(base={**base, "data": {"name": "derm7pt", "border_px": 5}})["base-s0"].key,
        planned(lesions=Roles({**roles.pairs, "test": roles["train"]}))["base-s0"].key,
    ]
    monkeypatch.setattr(plan, "__version__", "0.0.0-other")
    others.append(planned()["base-s0"].key)
    assert len({key, *others}) == 1 + len(others)


def test_classes_labels_and_patients_make_a_key(planned, roles, schema):
    def changed(**fields) -> Roles:
        return Roles({**roles.pairs, "test": tuple(dataclasses.replace(p, **fields) for p in roles["test"])})

    task = schema.tasks[0]
    swapped = task.model_copy(update={"classes": (task.classes[1], task.classes[0], task.classes[2])})
    keys = [
        planned()["base-s0"].key,
        planned(tasks=schema.model_copy(update={"tasks": (swapped,)}))["base-s0"].key,
        planned(lesions=changed(labels={"DIAG": 1}))["base-s0"].key,
        planned(lesions=changed(patient_id="7"))["base-s0"].key,
        planned(lesions=changed(clinical=None))["base-s0"].key,
    ]
    assert len(set(keys)) == len(keys)


def test_weights_count_by_what_is_in_them(planned, tmp_path):
    def key(name: str, content: bytes) -> str:
        (tmp_path / name).write_bytes(content)
        return planned(variants={"base": {"weights": str(tmp_path / name)}})["base-s0"].key

    first = key("a.safetensors", b"1")
    assert key("b.safetensors", b"1") == first  # the same file elsewhere
    assert key("a.safetensors", b"2") != first


def test_a_teacher_counts_by_its_weights(planned, monkeypatch):
    from edgeskin.model import checkpoint

    weights = {"big": "1" * 64, "same": "1" * 64, "other": "2" * 64}

    def record(run: Path) -> SimpleNamespace:
        if run.name not in weights:
            raise EdgeskinError("no checkpoint")
        return SimpleNamespace(weights_sha256=weights[run.name])

    monkeypatch.setattr(checkpoint, "read_record", record)

    def key(run: str) -> str:
        return planned(variants={"base": {"train": {"teacher": run}}})["base-s0"].key

    assert key("runs/big") == key("elsewhere/same")
    assert len({key("runs/big"), key("runs/other"), key("runs/nobody"), key("")}) == 4


def test_answers_come_back_as_they_were_written(answers_of, tmp_path):
    for modalities in ("both", "clinical", "dermoscopic"):
        given = answers_of(1.0, 0, modalities, seconds=None)
        write(tmp_path / "test.npz", given)
        found = read(tmp_path / "test.npz")
        for name in ("pair", "dermoscopic", "clinical", "labels"):
            one, other = getattr(given, name), getattr(found, name)
            assert (one is None) == (other is None)
            assert one is None or (one == other).all()
        assert (found.fusion, found.lesions, found.groups) == (given.fusion, given.lesions, given.groups)
        assert (found.macs, found.seconds, found.parameters) == (given.macs, None, given.parameters)
    assert [path.name for path in tmp_path.iterdir()] == ["test.npz"]  # nothing temporary is left


def test_a_run_is_finished_once_its_own_answers_are_there(planned, answers_of):
    job = planned()["base-s0"]
    assert not is_finished(job)
    write(job.answers, answers_of(1.0, 0, key=job.key))
    assert is_finished(job)
    write(job.answers, answers_of(1.0, 0, key="of something else"))
    with pytest.raises(EdgeskinError, match=r"another run is in this folder.*choose another --out"):
        is_finished(job)
    job.answers.write_bytes(job.answers.read_bytes()[:100])
    with pytest.raises(EdgeskinError, match="not the answers of a run"):
        is_finished(job)
