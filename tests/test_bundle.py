"""A bundle as a folder: written whole or not at all, and refused once a byte of it was changed."""

import json
import os
import shutil
import stat
from pathlib import Path

import pytest

from edgeskin import bundle as bundles
from edgeskin import files
from edgeskin.bundle import open_bundle, write_bundle
from edgeskin.errors import EdgeskinError
from edgeskin.files import pretty_json
from edgeskin.spec.quality import Quality
from tests.conftest import TINY
from tests.tiny_bundle import one_line, redraft, reseal

EVERY_FILE = sorted(p.relative_to(TINY).as_posix() for p in TINY.rglob("*") if p.is_file())
REFERENCE = [name for name in EVERY_FILE if name.startswith("reference/")]


def test_the_committed_bundle_opens_and_is_small():
    made = open_bundle(TINY)
    assert not made.lean
    assert made.manifest.task_schema.name == "spc"
    assert sum((TINY / name).stat().st_size for name in EVERY_FILE) < 200_000


def test_writing_again_gives_the_same_bundle(tmp_path):
    out = tmp_path / "out" / "again"
    write_bundle(out, redraft(tmp_path))
    assert open_bundle(out).manifest == open_bundle(TINY).manifest
    again = sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file())
    assert again == EVERY_FILE
    assert stat.S_IMODE(out.stat().st_mode) == 0o755


def test_the_quality_gate_is_the_drafts_else_the_kits_else_the_defaults(tmp_path):
    """An engine is made of its kit's manifest; a checkpoint knows of no gate."""
    own = Quality(dark_luma=33, swapped_weights=(5, 0, 0, 0, 0, 0, 0, -1), fails=("dark",))
    kit = open_bundle(TINY).manifest.model_copy(update={"quality": own.model_copy(update={"dark_luma": 44})})
    lesions = {role: tuple(hashes) for role, hashes in open_bundle(TINY).lesion_hashes().items()}
    write_bundle(tmp_path / "default", redraft(tmp_path))
    write_bundle(tmp_path / "own", redraft(tmp_path, quality=own))
    write_bundle(tmp_path / "kit", redraft(tmp_path, checkpoint=kit, lesion_hashes=lesions))
    found = [open_bundle(tmp_path / name).manifest.quality for name in ("default", "own", "kit")]
    assert found == [Quality(), own, kit.quality]


def test_a_manifest_from_before_the_quality_gate_has_its_defaults(tmp_path):
    shutil.copytree(TINY, tmp_path / "b")
    reseal(tmp_path / "b", lambda plain: plain.pop("quality", None))
    assert open_bundle(tmp_path / "b").manifest.quality == Quality()


def test_writing_refuses_to_replace_what_is_no_bundle(tmp_path):
    mine = tmp_path / "photos"
    mine.mkdir()
    (mine / "a.jpg").write_text("x")
    with pytest.raises(EdgeskinError, match="the output exists and is no bundle") as caught:
        write_bundle(mine, redraft(tmp_path))
    one_line(caught)
    assert (mine / "a.jpg").read_text() == "x"


def test_a_graph_that_was_not_delivered_is_an_error_and_the_old_bundle_stays(tmp_path, tiny):
    draft = redraft(tmp_path)
    (draft.folder / "model" / "pair.onnx").unlink()
    with pytest.raises(EdgeskinError, match=r"model/pair\.onnx is used but not listed"):
        write_bundle(tiny, draft)
    assert open_bundle(tiny).manifest == open_bundle(TINY).manifest
    assert sorted(p.name for p in tmp_path.iterdir()) == ["stage", "tiny"]


@pytest.mark.parametrize("step", [(files.os, "fsync"), (bundles.shutil, "copyfile"), (bundles.np, "savez")])
def test_disk_full_leaves_the_old_bundle(tmp_path, tiny, monkeypatch, step):
    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    draft = redraft(tmp_path, name="other")
    monkeypatch.setattr(*step, full)
    with pytest.raises(EdgeskinError, match="the disk is full") as caught:
        write_bundle(tiny, draft)
    one_line(caught)
    assert open_bundle(tiny).manifest.name == "tiny"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["stage", "tiny"]


@pytest.mark.parametrize("name", EVERY_FILE)
def test_one_changed_byte_is_found_in_every_file(tiny, name):
    data = bytearray((tiny / name).read_bytes())
    data[len(data) // 2] ^= 1
    (tiny / name).write_bytes(data)
    with pytest.raises(EdgeskinError, match=r"tampered or damaged|not a bundle|unknown format") as caught:
        open_bundle(tiny)
    assert ("manifest" if name.startswith("manifest") else name) in one_line(caught)


@pytest.mark.parametrize("name", [n for n in EVERY_FILE if n not in REFERENCE])
def test_a_missing_file_is_named(tiny, name):
    (tiny / name).unlink()
    with pytest.raises(EdgeskinError, match=r"incomplete bundle|not a bundle") as caught:
        open_bundle(tiny)
    assert name in one_line(caught)


def test_part_of_the_reference_missing_is_an_error_the_whole_of_it_is_lean(tiny):
    (tiny / REFERENCE[0]).unlink()
    with pytest.raises(EdgeskinError, match=f"no file {REFERENCE[0]}"):
        open_bundle(tiny)
    (tiny / REFERENCE[1]).unlink()
    assert open_bundle(tiny).lean


def test_truncated_files_are_found(tiny):
    data = (tiny / "model" / "pair.onnx").read_bytes()
    (tiny / "model" / "pair.onnx").write_bytes(data[:-1])
    with pytest.raises(EdgeskinError, match=f"{len(data) - 1} bytes instead of {len(data)}"):
        open_bundle(tiny)


@pytest.mark.parametrize("keep", [0, 1, 700, -2])
def test_a_truncated_manifest_is_found(tiny, keep):
    data = (tiny / "manifest.json").read_bytes()
    (tiny / "manifest.json").write_bytes(data[:keep])
    with pytest.raises(EdgeskinError, match=r"manifest\.json: not valid JSON") as caught:
        open_bundle(tiny)
    one_line(caught)


def test_an_edited_threshold_breaks_the_seal(tiny):
    text = (tiny / "manifest.json").read_text()
    assert '"value": 0.3\n' in text
    (tiny / "manifest.json").write_text(text.replace('"value": 0.3\n', '"value": 0.9\n'))
    with pytest.raises(EdgeskinError, match=r"manifest\.json: its hash is not the one in manifest\.sha256"):
        open_bundle(tiny)


@pytest.mark.parametrize("version", [2, 99, 0, "1", None, True, 1.5])
def test_an_unknown_format_version_is_named(tiny, version):
    reseal(tiny, lambda m: m.update(format_version=version))
    with pytest.raises(EdgeskinError, match="unknown format version") as caught:
        open_bundle(tiny)
    newer = isinstance(version, int) and version > 1
    assert ("upgrade" in one_line(caught)) == newer


def test_another_format_is_no_bundle(tiny):
    reseal(tiny, lambda m: m.update(format="other"))
    with pytest.raises(EdgeskinError, match="not a bundle"):
        open_bundle(tiny)


def test_an_unknown_key_names_its_near_match(tiny):
    reseal(tiny, lambda m: m.update(treshold=1, thresholds=m["thresholds"]))
    with pytest.raises(EdgeskinError, match="did you mean 'thresholds'"):
        open_bundle(tiny)


@pytest.mark.parametrize("name", ["extra.txt", "model/.hidden", "golden/__pycache__/x.pyc"])
def test_an_unlisted_file_is_refused(tiny, name):
    (tiny / name).parent.mkdir(exist_ok=True)
    (tiny / name).write_text("x")
    with pytest.raises(EdgeskinError, match="unlisted file") as caught:
        open_bundle(tiny)
    assert name in one_line(caught)


def test_links_and_pipes_are_refused(tiny, tmp_path):
    model = tiny / "model" / "pair.onnx"
    model.rename(tmp_path / "elsewhere.onnx")
    model.symlink_to(tmp_path / "elsewhere.onnx")
    with pytest.raises(EdgeskinError, match=r"model/pair\.onnx is a symbolic link") as caught:
        open_bundle(tiny)
    one_line(caught)
    model.unlink()
    os.mkfifo(model)
    with pytest.raises(EdgeskinError, match=r"model/pair\.onnx is no regular file"):
        open_bundle(tiny)


def test_a_linked_folder_inside_is_refused_but_a_link_to_the_bundle_is_not(tiny, tmp_path):
    link = tmp_path / "current"
    link.symlink_to(tiny)
    assert open_bundle(link).root == tiny
    (tiny / "model").rename(tmp_path / "model")
    (tiny / "model").symlink_to(tmp_path / "model")
    with pytest.raises(EdgeskinError, match="model is a symbolic link"):
        open_bundle(tiny)


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a\\..\\evil", "model//x", "C:evil", "./x", "manifest.json"])
def test_names_that_leave_the_bundle_are_refused(tiny, name):
    def change(manifest):
        manifest["files"][name] = manifest["files"]["lesions.json"]

    reseal(tiny, change)
    with pytest.raises(EdgeskinError, match="unsafe file name"):
        open_bundle(tiny)


def test_what_is_no_bundle_says_so(tmp_path):
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(EdgeskinError, match="not a bundle"):
        open_bundle(tmp_path / "x.txt")
    with pytest.raises(EdgeskinError, match="not a bundle"):
        open_bundle(tmp_path)
    with pytest.raises(EdgeskinError, match="no such bundle"):
        open_bundle(tmp_path / "nothing")
    (tmp_path / ".cut.old").mkdir()
    with pytest.raises(EdgeskinError, match="interrupted"):
        open_bundle(tmp_path / "cut")


def test_inspect_is_plain_json():
    seen = json.loads(json.dumps(bundles.inspect(open_bundle(TINY)), allow_nan=False))
    assert seen["target"] == "onnxruntime"
    assert seen["decision"] == "melanoma: P(MEL) of DIAG"
    assert seen["signature"] == {"status": "unsigned", "key": "", "verified": False}
    assert set(seen["roles"]) == {"train", "calibration", "control", "test"}
    assert seen["size_bytes"]["here"] == sum((TINY / name).stat().st_size for name in EVERY_FILE)


def test_the_published_json_schema_is_current():
    published = Path(bundles.__file__).parent / "spec" / "manifest.schema.json"
    fresh = pretty_json(bundles.manifest_json_schema())
    assert published.read_text() == fresh, "write pretty_json(bundle.manifest_json_schema()) to that file again"


def test_a_link_in_the_staging_folder_does_not_travel(tmp_path):
    draft = redraft(tmp_path)
    (draft.folder / "model" / "link").symlink_to(TINY / "lesions.json")
    with pytest.raises(EdgeskinError, match="model/link is a symbolic link"):
        write_bundle(tmp_path / "out", draft)
    assert not (tmp_path / "out").exists()
