"""A bundle as it travels: packed into an archive, signed, and each way to spoil that."""

import dataclasses
import os
import shutil
import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest

from edgeskin import bundle as bundles
from edgeskin import opening
from edgeskin.bundle import add_tuning, open_bundle, pack, write_bundle
from edgeskin.errors import EdgeskinError
from edgeskin.files import sha256_bytes
from edgeskin.signing import Signature, check, keygen, sign
from edgeskin.spec.manifest import Tuning
from tests.conftest import TINY
from tests.tiny_bundle import one_line, redraft, reseal


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("EDGESKIN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


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
