import dataclasses
import json
import os
import shutil
import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest

from edgeskin import bundle as bundles
from edgeskin import files, opening
from edgeskin.bundle import Draft, Golden, add_tuning, open_bundle, pack, write_bundle
from edgeskin.errors import EdgeskinError
from edgeskin.files import pretty_json, sha256_bytes
from edgeskin.signing import Signature, check, keygen, sign
from edgeskin.spec.manifest import Tuning
from edgeskin.spec.quality import Quality
from edgeskin.spec.train import Checkpoint, TrainSpec

TINY = Path(__file__).resolve().parent / "golden" / "tiny-onnxruntime"
EVERY_FILE = sorted(p.relative_to(TINY).as_posix() for p in TINY.rglob("*") if p.is_file())
REFERENCE = [name for name in EVERY_FILE if name.startswith("reference/")]


@pytest.fixture
def tiny(tmp_path) -> Path:
    return Path(shutil.copytree(TINY, tmp_path / "tiny"))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("EDGESKIN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def reseal(root: Path, change) -> None:
    """Edit the manifest as an attacker would who also mends the seal."""
    plain = json.loads((root / "manifest.json").read_text())
    change(plain)
    text = pretty_json(plain)
    (root / "manifest.json").write_text(text)
    (root / "manifest.sha256").write_text(f"{sha256_bytes(text.encode())}  manifest.json\n")


def one_line(caught) -> str:
    text = str(caught.value)
    assert "\n" not in text
    assert "fix: " in text
    return text


def redraft(tmp_path: Path, **changes) -> Draft:
    """The draft that gives the tiny bundle again."""
    made = open_bundle(TINY)
    m = made.manifest
    folder = tmp_path / "stage"
    for name in m.files:
        if name.startswith(("model/", "reference/")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(TINY / name, folder / name)
    checkpoint = Checkpoint(
        created="", network=m.network, data=m.data, train=TrainSpec(), task_schema=m.task_schema,
        preprocess=m.preprocess, fusion=m.fusion, thresholds=m.thresholds, roles=m.roles,
        lesion_hashes={k: tuple(sorted(v)) for k, v in made.lesion_hashes().items()}, phantom=m.phantom,
        parameters=m.parameters, weights_sha256="", weights_source="", control_metrics={}, versions={}, git_revision="",
    )  # fmt: skip
    golden = [Golden(c.name, c.mode, *made.golden(c), tolerance=c.tolerance) for c in m.golden]
    given = {
        "name": m.name, "folder": folder, "graphs": m.graphs, "reference": m.reference, "golden": golden,
        "recipe": m.recipe, "checkpoint": checkpoint, "provenance": m.provenance, "gated": m.gated,
    }  # fmt: skip
    return Draft(**{**given, **changes})


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


def test_packing_is_reproducible(tiny, tmp_path):
    first = pack(TINY, tmp_path / "a.zip").read_bytes()
    for path in tiny.rglob("*"):
        os.utime(path, (1, 1))
        path.chmod(0o700)
    assert pack(tiny, tmp_path / "b.zip").read_bytes() == first
    assert pack(tmp_path / "a.zip", tmp_path / "c.zip").read_bytes() == first


def test_a_packed_bundle_opens_as_the_same(tmp_path, cache):
    made = open_bundle(pack(TINY, tmp_path / "a.zip"))
    assert (made.sha256, made.manifest) == (open_bundle(TINY).sha256, open_bundle(TINY).manifest)
    assert made.root.is_relative_to(cache)
    before = made.root.stat().st_mtime_ns
    assert open_bundle(tmp_path / "a.zip").root.stat().st_mtime_ns == before  # not unpacked twice
    (made.root / "lesions.json").write_text("spoilt")
    assert open_bundle(tmp_path / "a.zip").lesion_hashes() == open_bundle(TINY).lesion_hashes()


def test_a_lean_pack_has_no_reference(tmp_path):
    lean = pack(TINY, tmp_path / "lean.zip", lean=True)
    made = open_bundle(lean)
    assert made.lean
    assert not (made.root / "reference").exists()
    assert made.sha256 == open_bundle(TINY).sha256
    assert pack(lean, tmp_path / "again.zip").read_bytes() == lean.read_bytes()


def test_pack_checks_its_output_name(tmp_path):
    with pytest.raises(EdgeskinError, match=r"fix: name it x\.tar\.zip"):
        pack(TINY, tmp_path / "x.tar")
    (tmp_path / "d.zip").mkdir()
    with pytest.raises(EdgeskinError, match="the output is a folder"):
        pack(TINY, tmp_path / "d.zip")
    assert [p.name for p in tmp_path.iterdir()] == ["d.zip"]


def rezip(tmp_path: Path, change) -> Path:
    """The packed bundle with its list of (ZipInfo, bytes) changed."""
    with zipfile.ZipFile(pack(TINY, tmp_path / "good.zip")) as archive:
        entries = [(info, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        for info, data in change(entries):
            archive.writestr(info, data)
    return tmp_path / "bad.zip"


def link_entry() -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("model/link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


def swollen(entries):
    return [(i, d + b"0" * 9_000_000 if i.filename == "model/pair.onnx" else d) for i, d in entries]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: [(i, d[:-1] + b"?" if i.filename == "model/pair.onnx" else d) for i, d in e], r"model/pair\.onnx"),
        (swollen, r"model/pair\.onnx: not"),
        (lambda e: [*e, (zipfile.ZipInfo("extra"), b"x")], "unlisted file"),
        (lambda e: [*e, (zipfile.ZipInfo("../evil"), b"x")], r"unsafe bundle .*'\.\./evil'"),
        (lambda e: [*e, (link_entry(), b"/etc/passwd")], "model/link is a link"),
        (lambda e: [x for x in e if x[0].filename != "lesions.json"], r"no file lesions\.json"),
        (lambda e: [x for x in e if x[0].filename != "manifest.json"], "not a bundle"),
        (lambda e: [x for x in e if x[0].filename != "manifest.sha256"], r"no file manifest\.sha256"),
        (lambda e: [*e, (zipfile.ZipInfo("manifest.sig"), b"x" * 4097)], r"manifest\.sig: more than 4096 bytes"),
    ],
)
def test_a_bad_archive_leaves_nothing_behind(tmp_path, cache, change, message):
    with pytest.raises(EdgeskinError, match=message) as caught:
        open_bundle(rezip(tmp_path, change))
    one_line(caught)
    assert not (tmp_path / "evil").exists()
    assert list((cache / "bundles").iterdir()) == []


def test_a_name_twice_in_the_archive_is_refused(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate name"):
        bad = rezip(tmp_path, lambda e: [*e, e[0]])
    with pytest.raises(EdgeskinError, match="a file name twice"):
        open_bundle(bad)


def test_a_cut_archive_is_no_bundle(tmp_path):
    data = pack(TINY, tmp_path / "a.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(data[: len(data) // 2])
    with pytest.raises(EdgeskinError, match="not a bundle") as caught:
        open_bundle(tmp_path / "cut.zip")
    assert "\n" not in str(caught.value)


def test_bytes_flipped_anywhere_in_the_archive_are_found(tmp_path):
    data = pack(TINY, tmp_path / "a.zip").read_bytes()
    rng = np.random.default_rng(0)
    good = open_bundle(TINY)
    for place in rng.integers(0, len(data), 60).tolist():
        spoilt = bytearray(data)
        spoilt[place] ^= 0xFF
        (tmp_path / "b.zip").write_bytes(spoilt)
        try:
            made = open_bundle(tmp_path / "b.zip")
        except EdgeskinError:
            continue
        assert made.sha256 == good.sha256  # the byte was in a time stamp or the like: what was unpacked is intact


def test_a_full_cache_is_one_line(tmp_path, cache, monkeypatch):
    archive = pack(TINY, tmp_path / "a.zip")

    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(opening, "_copy_verified", full)
    with pytest.raises(EdgeskinError, match=r"the disk is full.*EDGESKIN_CACHE"):
        open_bundle(archive)
    assert list((cache / "bundles").iterdir()) == []


# Any text of the right form: what a signature proves is asked in tests/test_signing.py.
SOME_SIGNATURE = Signature(bytes(range(32)), bytes(range(64)))


@pytest.fixture
def signed(tiny) -> Path:
    (tiny / "manifest.sig").write_text(SOME_SIGNATURE.text())
    return tiny


def some_tuning() -> Tuning:
    return Tuning(
        processor="Some CPU", cores=2, engine="onnxruntime 1", threads=2, precision_hint="f32", p50_ms={}, measured=""
    )


def test_a_signature_is_the_one_file_that_is_not_listed(signed, tmp_path):
    made = open_bundle(signed)
    assert made == dataclasses.replace(open_bundle(TINY), root=signed)
    (signed / "model" / "manifest.sig").write_text("x")
    with pytest.raises(EdgeskinError, match="unlisted file"):
        open_bundle(signed)


@pytest.mark.parametrize("group", ["core", "reference"])
@pytest.mark.parametrize("there", [True, False])
def test_a_manifest_that_lists_the_signature_is_refused(signed, group, there):
    entry = {"sha256": sha256_bytes((signed / "manifest.sig").read_bytes()), "size_bytes": 142, "group": group}
    reseal(signed, lambda m: m["files"].update({"manifest.sig": entry}))
    if not there:
        (signed / "manifest.sig").unlink()
    with pytest.raises(EdgeskinError, match=r"unsafe bundle .*manifest\.json lists manifest\.sig") as caught:
        open_bundle(signed)
    one_line(caught)


def test_a_signature_that_is_a_link_is_refused(signed, tmp_path):
    (signed / "manifest.sig").rename(tmp_path / "elsewhere.sig")
    (signed / "manifest.sig").symlink_to(tmp_path / "elsewhere.sig")
    with pytest.raises(EdgeskinError, match=r"manifest\.sig is a symbolic link"):
        open_bundle(signed)


@pytest.mark.parametrize("lean", [False, True])
def test_packing_keeps_a_signature_and_stays_reproducible(signed, tmp_path, lean):
    first = pack(signed, tmp_path / "a.zip", lean=lean)
    made = open_bundle(first)
    assert made.path("manifest.sig").read_text() == SOME_SIGNATURE.text()
    assert (made.lean, made.sha256) == (lean, open_bundle(TINY).sha256)
    for path in signed.rglob("*"):
        os.utime(path, (1, 1))
    assert pack(signed, tmp_path / "b.zip", lean=lean).read_bytes() == first.read_bytes()
    assert pack(first, tmp_path / "c.zip").read_bytes() == first.read_bytes()
    unsigned = pack(TINY, tmp_path / "d.zip", lean=lean)
    assert len(unsigned.read_bytes()) < len(first.read_bytes())


def test_signing_and_packing_again_gives_the_same_archive(tmp_path):
    maker = keygen(tmp_path / "maker")
    archives = []
    for name in ("a", "b"):
        folder = Path(shutil.copytree(TINY, tmp_path / name))
        sign(folder, maker.private)
        archives.append(pack(folder, tmp_path / f"{name}.zip").read_bytes())
    assert archives[0] == archives[1]
    assert check(tmp_path / "a.zip", maker.public).fingerprint == maker.fingerprint


def test_tuning_drops_a_signature_and_says_how_to_sign_again(signed, capsys):
    add_tuning(signed, some_tuning())
    assert not (signed / "manifest.sig").exists()
    assert open_bundle(signed).manifest.tuning == (some_tuning(),)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"edgeskin sign {signed} --key NAME.key" in said
    add_tuning(signed, some_tuning())
    assert capsys.readouterr().err == ""  # there was none to drop


def test_a_tuning_that_fails_leaves_the_signature(signed, monkeypatch, capsys):
    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bundles.shutil, "copyfile", full)
    with pytest.raises(EdgeskinError, match="the disk is full"):
        add_tuning(signed, some_tuning())
    assert (signed / "manifest.sig").read_text() == SOME_SIGNATURE.text()
    assert capsys.readouterr().err == ""


def test_a_new_bundle_in_the_place_of_a_signed_one_is_unsigned(signed, tmp_path):
    write_bundle(signed, redraft(tmp_path, name="other"))
    assert bundles.inspect(open_bundle(signed))["signature"]["status"] == "unsigned"


def test_inspect_names_the_key_that_a_signature_claims(signed):
    told = bundles.inspect(open_bundle(signed))
    assert told["signature"] == {"status": "signed", "key": SOME_SIGNATURE.fingerprint, "verified": False}
    assert told["size_bytes"]["here"] == sum(f.stat().st_size for f in signed.rglob("*") if f.is_file())


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


def test_a_full_disk_leaves_the_old_archive(tmp_path, monkeypatch):
    archive = pack(TINY, tmp_path / "a.zip")
    before = archive.read_bytes()

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bundles.shutil, "copyfileobj", full)
    with pytest.raises(EdgeskinError, match="the disk is full"):
        pack(TINY, archive, lean=True)
    assert archive.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]
