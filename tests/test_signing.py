"""Real keys, real bundles: what a signature holds against, and what each refusal says."""

import base64
import ctypes
import ctypes.util
import errno
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization as forms
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa, x25519
from hypothesis import given
from hypothesis import strategies as st

from edgeskin import keys, signing
from edgeskin.bundle import inspect, open_bundle, pack
from edgeskin.errors import EdgeskinError
from edgeskin.files import pretty_json, sha256_bytes
from edgeskin.opening import SIGNATURE_LIMIT
from edgeskin.signing import Signature, check, keygen, parse, read_password, sign

TINY = Path(__file__).resolve().parent / "golden" / "tiny-onnxruntime"
LISTED = sorted(json.loads((TINY / "manifest.json").read_text())["files"])
# RFC 8032, section 7.1, test 1
SEED = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
PUBLIC = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
FORMS = {
    "private": (forms.Encoding.PEM, forms.PrivateFormat.PKCS8, forms.NoEncryption()),
    "public": (forms.Encoding.PEM, forms.PublicFormat.SubjectPublicKeyInfo),
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("EDGESKIN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def tiny(tmp_path) -> Path:
    return Path(shutil.copytree(TINY, tmp_path / "bundles" / "tiny"))


@pytest.fixture(scope="module")
def maker(tmp_path_factory):
    return keygen(tmp_path_factory.mktemp("keys") / "maker")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    return keygen(tmp_path_factory.mktemp("keys") / "stranger")


@pytest.fixture
def signed(tiny, maker) -> Path:
    sign(tiny, maker.private)
    return tiny


def one_line(caught) -> str:
    text = str(caught.value)
    assert "\n" not in text
    assert "fix: " in text
    return text


def reseal(root: Path, change) -> None:
    """Edit the manifest as an attacker would who also mends the seal."""
    plain = json.loads((root / "manifest.json").read_text())
    change(plain)
    text = pretty_json(plain)
    (root / "manifest.json").write_text(text)
    (root / "manifest.sha256").write_text(f"{sha256_bytes(text.encode())}  manifest.json\n")


def rfc_key(folder: Path) -> Path:
    path = folder / "rfc.key"
    path.write_bytes(ed25519.Ed25519PrivateKey.from_private_bytes(SEED).private_bytes(*FORMS["private"]))
    path.chmod(0o600)
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# The keys


def test_a_new_pair_is_private_named_and_belongs_together(tmp_path):
    before = os.umask(0)  # even where everything new is open to all
    try:
        made = keygen(tmp_path / "keys" / "clinic.2026")
    finally:
        os.umask(before)
    assert names(tmp_path / "keys") == ["clinic.2026.key", "clinic.2026.pub"]
    assert stat.S_IMODE(made.private.stat().st_mode) == 0o600
    assert stat.S_IMODE(made.public.stat().st_mode) == 0o644
    private = forms.load_pem_private_key(made.private.read_bytes(), None)
    public = private.public_key()
    assert made.public.read_bytes() == public.public_bytes(*FORMS["public"])
    assert made.fingerprint == sha256_bytes(public.public_bytes_raw())[:16]
    assert keygen(tmp_path / "other").fingerprint != made.fingerprint


@pytest.mark.parametrize("taken", [".key", ".pub"])
@pytest.mark.parametrize("late", [False, True], ids=["before", "meanwhile"])
def test_a_key_is_never_overwritten(tmp_path, monkeypatch, taken, late):
    old = tmp_path / f"maker{taken}"
    old.write_text("mine")
    if late:  # another process takes the name after it was found free
        monkeypatch.setattr(keys.os.path, "lexists", lambda path: False)
    with pytest.raises(EdgeskinError, match="a key is never overwritten") as caught:
        keygen(tmp_path / "maker")
    assert str(old) in one_line(caught)
    assert old.read_text() == "mine"
    assert names(tmp_path) == [old.name]


def test_a_link_to_nowhere_is_not_written_through(tmp_path):
    (tmp_path / "maker.key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(EdgeskinError, match="never overwritten"):
        keygen(tmp_path / "maker")
    assert names(tmp_path) == ["maker.key"]


@pytest.mark.parametrize(("name", "cure"), [("maker.key", "maker"), ("maker.pub", "maker"), (".", "maker")])
def test_a_pair_needs_a_name(tmp_path, name, cure):
    with pytest.raises(EdgeskinError, match="a pair of keys needs a name") as caught:
        keygen(tmp_path / name)
    assert one_line(caught).endswith(f"--out {tmp_path / cure}")
    assert names(tmp_path) == []


@pytest.mark.parametrize("step", ["fsync", "link"])
@pytest.mark.parametrize("nth", [1, 2])
def test_a_full_disk_leaves_neither_half(tmp_path, monkeypatch, step, nth):
    real, calls = getattr(os, step), []

    def full(*arguments):
        calls.append(arguments)
        if len(calls) == nth:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments)

    monkeypatch.setattr(keys.os, step, full)
    with pytest.raises(EdgeskinError, match="the disk is full") as caught:
        keygen(tmp_path / "maker")
    one_line(caught)
    assert names(tmp_path) == []


@pytest.mark.parametrize("how", ["no links", "no modes"])
def test_a_filesystem_that_keeps_nothing_private_is_refused(tmp_path, monkeypatch, how):
    def refuse(*_arguments):
        raise OSError(errno.EPERM, "Operation not permitted")

    def every_mode(descriptor, _mode, real=os.fchmod):
        real(descriptor, 0o755)

    monkeypatch.setattr(keys.os, *(("link", refuse) if how == "no links" else ("fchmod", every_mode)))
    with pytest.raises(EdgeskinError, match="this filesystem cannot keep a key private") as caught:
        keygen(tmp_path / "maker")
    one_line(caught)
    assert names(tmp_path) == []


# The password


@pytest.fixture
def locked(tmp_path):
    (tmp_path / "word").write_bytes(b"correct horse\n")
    return keygen(tmp_path / "locked", read_password(tmp_path / "word"))


def test_a_key_with_a_password_signs_with_it_alone(tiny, locked, tmp_path):
    assert locked.private.read_bytes().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
    with pytest.raises(EdgeskinError, match="the key needs its password") as caught:
        sign(tiny, locked.private)
    one_line(caught)
    with pytest.raises(EdgeskinError, match="wrong password") as caught:
        sign(tiny, locked.private, b"battery staple")
    assert "staple" not in one_line(caught)
    assert not (tiny / "manifest.sig").exists()
    sign(tiny, locked.private, b"correct horse")
    assert check(tiny, locked.public).fingerprint == locked.fingerprint


def test_a_password_for_a_key_without_one_is_told(tiny, maker):
    with pytest.raises(EdgeskinError, match="the key has no password") as caught:
        sign(tiny, maker.private, b"word")
    one_line(caught)


@pytest.mark.parametrize("written", [b"w\xc3\xb6rd", b"w\xc3\xb6rd\n", b"w\xc3\xb6rd\r\n"])
def test_a_password_file_may_end_its_line(tmp_path, written):
    (tmp_path / "word").write_bytes(written)
    assert read_password(tmp_path / "word") == "wörd".encode()


@pytest.mark.parametrize("written", [b"", b"\n", b"one\ntwo\n", b"x" * 1024, b"x" * 70_000], ids=len)
def test_what_is_no_password_is_told(tmp_path, written):
    (tmp_path / "word").write_bytes(written)
    with pytest.raises(EdgeskinError, match=r"the password cannot be used|too large") as caught:
        read_password(tmp_path / "word")
    told = one_line(caught)
    assert not any(word in told for word in ("xx", "two"))  # what it is stays untold


def test_an_absent_password_file_is_told(tmp_path):
    with pytest.raises(EdgeskinError, match="no such password file") as caught:
        read_password(tmp_path / "word")
    one_line(caught)


def test_openssl_reads_the_keys_and_agrees_with_the_signature(signed, maker, locked, tmp_path):
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")

    def openssl(*arguments: object) -> bytes:
        return subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=60).stdout

    public = openssl("pkey", "-in", locked.private, "-passin", f"file:{tmp_path / 'word'}", "-pubout")
    assert public == locked.public.read_bytes()
    (tmp_path / "value").write_bytes(parse((signed / "manifest.sig").read_bytes(), "").value)
    told = openssl(
        "pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", maker.public, "-in", signed / "manifest.json",
        "-sigfile", tmp_path / "value",
    )  # fmt: skip
    assert b"Verified Successfully" in told


# Other keys than ours


def pem(key, kind: str) -> bytes:
    return (
        key.private_bytes(*FORMS["private"]) if kind == "private" else key.public_key().public_bytes(*FORMS["public"])
    )


OTHERS = {
    "RSA": lambda: rsa.generate_private_key(65537, 1024),
    "X25519": x25519.X25519PrivateKey.generate,
    "Ed448": ed448.Ed448PrivateKey.generate,
    "EC": lambda: ec.generate_private_key(ec.SECP256R1()),
}


def use(kind: str, path: Path, bundle: Path) -> Signature:
    return sign(bundle, path) if kind == "private" else check(bundle, path)


@pytest.mark.parametrize("kind", ["private", "public"])
@pytest.mark.parametrize("name", OTHERS)
def test_another_type_of_key_is_named(signed, tmp_path, name, kind):
    path = tmp_path / "other"
    path.write_bytes(pem(OTHERS[name](), kind))
    with pytest.raises(EdgeskinError, match="a key of another type") as caught:
        use(kind, path, signed)
    assert f"{path}: {name}'; possible: Ed25519" in one_line(caught)


OURS = ed25519.Ed25519PrivateKey.from_private_bytes(SEED)
DER = {
    "private": OURS.private_bytes(forms.Encoding.DER, *FORMS["private"][1:]),
    "public": OURS.public_key().public_bytes(forms.Encoding.DER, *FORMS["public"][1:]),
}
OPENSSH = {
    "private": OURS.private_bytes(forms.Encoding.PEM, forms.PrivateFormat.OpenSSH, forms.NoEncryption()),
    "public": OURS.public_key().public_bytes(forms.Encoding.OpenSSH, forms.PublicFormat.OpenSSH),
}
WRONG = {
    "DER": (lambda kind: DER[kind], "DER, or another binary form.*fix: convert it: openssl pkey -inform DER"),
    "OpenSSH": (lambda kind: OPENSSH[kind], r"a PEM of kind OPENSSH PRIVATE KEY|no PEM"),
    "empty": (lambda kind: b"", "no PEM"),
    "noise": (lambda kind: bytes(range(256)), "no PEM"),
    "two": (lambda kind: 2 * pem(OURS, kind), "2 PEM blocks"),
    "certificate": (lambda kind: b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n", "CERTIFICATE"),
    "large": (lambda kind: pem(OURS, kind) + b" " * 70_000, "too large"),
    "damaged": (lambda kind: pem(OURS, kind).replace(b"M", b"N", 1), "damaged or unsupported key"),
    "cut": (lambda kind: pem(OURS, kind)[:-30], "damaged or unsupported key"),
    "the private half": (lambda kind: pem(OURS, "private"), "pass the public half of the pair, NAME.pub"),
    "the public half": (lambda kind: pem(OURS, "public"), "pass the private half of the pair, NAME.key"),
}


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for kind in ("private", "public") for name in WRONG if name != f"the {kind} half"],
)
def test_what_is_no_such_key_is_told(signed, tmp_path, kind, name):
    content, message = WRONG[name]
    path = tmp_path / "wrong"
    path.write_bytes(content(kind))
    path.chmod(0o600)
    with pytest.raises(EdgeskinError, match=message) as caught:
        use(kind, path, signed)
    one_line(caught)


def test_the_conversion_that_is_advised_works(signed, tmp_path):
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    for kind, data in DER.items():
        path = tmp_path / kind
        path.write_bytes(data)
        with pytest.raises(EdgeskinError) as caught:
            use(kind, path, signed)
        subprocess.run(str(caught.value).split("convert it: ")[1].split(), check=True, capture_output=True, timeout=60)
    Path(f"{tmp_path / 'private'}.pem").chmod(0o600)
    sign(signed, Path(f"{tmp_path / 'private'}.pem"))
    assert check(signed, Path(f"{tmp_path / 'public'}.pem")).key == PUBLIC


@pytest.mark.parametrize("kind", ["private", "public"])
def test_an_absent_key_and_a_folder_are_told(signed, tmp_path, kind):
    cure = "edgeskin keygen --out" if kind == "private" else "NAME.pub that the maker of the bundle gave you"
    with pytest.raises(EdgeskinError, match=f"no such {kind} key.*{cure}") as caught:
        use(kind, tmp_path / "none", signed)
    one_line(caught)
    with pytest.raises(EdgeskinError, match=f"the {kind} key cannot be read.*Is a directory") as caught:
        use(kind, tmp_path, signed)
    one_line(caught)


def test_a_private_key_that_others_may_read_is_noted(tiny, tmp_path, capsys):
    key = rfc_key(tmp_path)
    sign(tiny, key)
    assert capsys.readouterr().err == ""
    key.chmod(0o640)
    sign(tiny, key)
    assert f"fix: chmod 600 {key}" in capsys.readouterr().err


# The signature


def test_the_file_has_the_form_that_the_module_documents(tiny, tmp_path):
    sign(tiny, rfc_key(tmp_path))
    data = (tiny / "manifest.sig").read_bytes()
    assert len(data) == 142
    assert data[:8] == b"ed25519 "
    assert (data[52:53], data[141:]) == (b"\n", b"\n")
    assert base64.b64decode(data[8:52], validate=True) == PUBLIC
    key = ed25519.Ed25519PublicKey.from_public_bytes(PUBLIC)
    key.verify(base64.b64decode(data[53:141], validate=True), (tiny / "manifest.json").read_bytes())
    assert stat.S_IMODE((tiny / "manifest.sig").stat().st_mode) == 0o644
    assert names(tiny.parent) == ["tiny"]


def test_libsodium_reads_and_verifies_it_as_firmware_does(signed, maker):
    """The documented reader in C, through ctypes: offsets, base64, comparison, detached verification."""
    found = ctypes.util.find_library("sodium")
    if not found:
        pytest.skip("libsodium is not installed")
    sodium = ctypes.CDLL(found)
    assert sodium.sodium_init() >= 0
    original = 1  # sodium_base64_VARIANT_ORIGINAL

    def decode(text: bytes, length: int) -> bytes:
        buffer, written = ctypes.create_string_buffer(length), ctypes.c_size_t()
        failed = sodium.sodium_base642bin(
            buffer,
            ctypes.c_size_t(length),
            text,
            ctypes.c_size_t(len(text)),
            None,
            ctypes.byref(written),
            None,
            original,
        )
        assert (failed, written.value) == (0, length)
        return buffer.raw

    data, manifest = (signed / "manifest.sig").read_bytes(), (signed / "manifest.json").read_bytes()
    trusted = forms.load_pem_public_key(maker.public.read_bytes()).public_bytes_raw()
    assert decode(data[8:52], 32) == trusted
    value = decode(data[53:141], 64)

    def verify(message: bytes) -> int:
        return sodium.crypto_sign_verify_detached(value, message, ctypes.c_ulonglong(len(message)), trusted)

    assert verify(manifest) == 0
    assert verify(manifest + b"\n") != 0
    assert verify(manifest.replace(b"0.3", b"0.9", 1)) != 0


def test_a_signed_bundle_opens_and_verifies(signed, maker):
    assert open_bundle(signed).manifest == open_bundle(TINY).manifest
    assert check(signed, maker.public).fingerprint == maker.fingerprint
    link = signed.parent / "current"
    link.symlink_to(signed)
    assert check(link, maker.public).fingerprint == maker.fingerprint


def test_the_same_key_and_bundle_give_the_same_bytes(signed, maker, tmp_path, capsys):
    first = (signed / "manifest.sig").read_bytes()
    sign(signed, maker.private)
    other = Path(shutil.copytree(TINY, tmp_path / "other"))
    sign(other, maker.private)
    assert first == (signed / "manifest.sig").read_bytes() == (other / "manifest.sig").read_bytes()
    assert capsys.readouterr().err == ""


def test_another_key_takes_the_place_of_a_signature_and_says_so(signed, maker, stranger, capsys):
    sign(signed, stranger.private)
    assert f"replaced a signature by key {maker.fingerprint}" in capsys.readouterr().err
    assert check(signed, stranger.public).fingerprint == stranger.fingerprint
    (signed / "manifest.sig").write_text("?")
    sign(signed, maker.private)
    assert "replaced a signature by key (unreadable)" in capsys.readouterr().err
    check(signed, maker.public)


@pytest.mark.parametrize("lean", [False, True])
def test_packing_keeps_the_signature(signed, maker, stranger, tmp_path, lean):
    packed = pack(signed, tmp_path / "a.zip", lean=lean)
    assert check(packed, maker.public).fingerprint == maker.fingerprint
    assert open_bundle(packed).lean == lean
    with pytest.raises(EdgeskinError, match="signed by another key"):
        check(packed, stranger.public)


def test_an_unsigned_bundle_is_told(tiny, maker):
    with pytest.raises(EdgeskinError, match="the bundle is not signed") as caught:
        check(tiny, maker.public)
    assert "edgeskin sign" in one_line(caught)


def test_another_key_is_told_by_both_fingerprints(signed, maker, stranger):
    with pytest.raises(EdgeskinError, match="is signed by another key") as caught:
        check(signed, stranger.public)
    assert f"got '{maker.fingerprint}'; possible: {stranger.fingerprint}" in one_line(caught)


def test_a_changed_manifest_is_told_even_where_the_seal_was_mended(signed, maker):
    reseal(signed, lambda m: m["thresholds"]["pair"].update(value=0.9))
    assert open_bundle(signed).manifest.thresholds.pair.value == 0.9  # the seal holds, the signature alone tells
    with pytest.raises(EdgeskinError, match=r"the signature of .*tiny does not hold") as caught:
        check(signed, maker.public)
    one_line(caught)


def test_the_key_that_the_file_claims_is_not_believed(signed, maker, stranger):
    reseal(signed, lambda m: m["thresholds"]["pair"].update(value=0.9))
    forged = sign(signed, stranger.private)
    trusted = forms.load_pem_public_key(maker.public.read_bytes()).public_bytes_raw()
    (signed / "manifest.sig").write_text(Signature(trusted, forged.value).text())
    with pytest.raises(EdgeskinError, match="does not hold") as caught:
        check(signed, maker.public)
    one_line(caught)


def test_a_signature_of_another_bundle_does_not_hold(signed, maker, tmp_path):
    other = Path(shutil.copytree(TINY, tmp_path / "other"))
    reseal(other, lambda m: m.update(name="other"))
    shutil.copy(signed / "manifest.sig", other)
    with pytest.raises(EdgeskinError, match="does not hold"):
        check(other, maker.public)


@pytest.mark.parametrize("name", LISTED)
def test_a_changed_file_is_told_even_where_its_hash_was_mended(signed, maker, name):
    data = bytearray((signed / name).read_bytes())
    data[len(data) // 2] ^= 1
    (signed / name).write_bytes(data)
    with pytest.raises(EdgeskinError, match="tampered or damaged"):
        check(signed, maker.public)
    reseal(signed, lambda m: m["files"][name].update(sha256=sha256_bytes(bytes(data))))
    with pytest.raises(EdgeskinError, match="does not hold"):
        check(signed, maker.public)


def test_every_flipped_bit_of_the_signature_is_refused(signed, maker):
    path = signed / "manifest.sig"
    data = path.read_bytes()
    key = forms.load_pem_public_key(maker.public.read_bytes()).public_bytes_raw()
    for place in range(8 * len(data)):
        spoilt = bytearray(data)
        spoilt[place // 8] ^= 1 << place % 8
        try:
            found = parse(bytes(spoilt), "x")
        except EdgeskinError:
            continue
        assert (found.key, found.value) != (key, parse(data, "x").value)  # one spelling of one signature
        if place % 16 == 0:  # through the whole bundle a sixteenth of them: each opens it anew
            path.write_bytes(spoilt)
            with pytest.raises(EdgeskinError, match=r"signed by another key|does not hold"):
                check(signed, maker.public)


@given(st.one_of(st.binary(max_size=200), st.text("Aa0+/= \n\red259", max_size=160).map(str.encode)))
def test_garbage_is_refused_in_one_line(data):
    with pytest.raises(EdgeskinError, match="cannot be read") as caught:
        parse(data, "BUNDLE")
    one_line(caught)


@given(
    st.binary(min_size=32, max_size=32), st.binary(min_size=64, max_size=64), st.integers(0, 141), st.binary(max_size=3)
)
def test_one_text_is_one_signature(key, value, cut, more):
    made = Signature(key, value)
    data = made.text().encode()
    assert parse(data, "BUNDLE") == made
    for other in (data[:cut], data + b"\n", data[:-1] + b"\r\n", data[:cut] + b" " + data[cut:], more + b" " + data):
        with pytest.raises(EdgeskinError, match="cannot be read"):
            parse(other, "BUNDLE")


@pytest.mark.parametrize("content", [b"", b"\n", b"\x00" * 142, b"ed25519 \n\n", b"A" * SIGNATURE_LIMIT])
def test_a_bundle_with_a_spoilt_signature_opens_and_fails_the_check(signed, maker, content):
    (signed / "manifest.sig").write_bytes(content)
    assert inspect(open_bundle(signed))["signature"] == {"status": "unreadable", "key": "", "verified": False}
    with pytest.raises(EdgeskinError, match=r"the signature of .*tiny cannot be read") as caught:
        check(signed, maker.public)
    one_line(caught)


def test_a_signature_that_is_too_large_is_not_read(signed, maker):
    with (signed / "manifest.sig").open("ab") as file:
        file.truncate(SIGNATURE_LIMIT + 1)
    for use in (lambda: open_bundle(signed), lambda: check(signed, maker.public)):
        with pytest.raises(EdgeskinError, match=f"manifest.sig: more than {SIGNATURE_LIMIT} bytes") as caught:
            use()
        one_line(caught)


# What cannot be signed


def test_a_packed_bundle_cannot_be_signed(tmp_path, maker):
    packed = pack(TINY, tmp_path / "a.zip")
    before = packed.read_bytes()
    with pytest.raises(EdgeskinError, match="a packed bundle cannot be signed") as caught:
        sign(packed, maker.private)
    assert "sign the folder, then pack it" in one_line(caught)
    assert packed.read_bytes() == before


def test_a_damaged_bundle_is_not_signed(tiny, maker):
    (tiny / "lesions.json").write_text("{}")
    with pytest.raises(EdgeskinError, match="tampered or damaged"):
        sign(tiny, maker.private)
    assert not (tiny / "manifest.sig").exists()


def test_a_manifest_that_changes_meanwhile_is_not_signed(tiny, maker, monkeypatch):
    def changed(path):
        opened = open_bundle(path)
        reseal(tiny, lambda m: m.update(name="other"))
        return opened

    monkeypatch.setattr(signing, "open_bundle", changed)
    with pytest.raises(EdgeskinError, match="the bundle changes while it is read") as caught:
        sign(tiny, maker.private)
    one_line(caught)
    assert not (tiny / "manifest.sig").exists()


@pytest.mark.parametrize(
    ("number", "message"), [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "no permission to write")]
)
def test_a_disk_that_refuses_leaves_the_old_signature(signed, stranger, monkeypatch, number, message):
    def refuse(*_arguments):
        raise OSError(number, os.strerror(number))

    before = (signed / "manifest.sig").read_bytes()
    monkeypatch.setattr(keys.os, "fsync", refuse)
    with pytest.raises(EdgeskinError, match=message) as caught:
        sign(signed, stranger.private)
    one_line(caught)
    assert (signed / "manifest.sig").read_bytes() == before
    assert names(signed.parent) == ["tiny"]


def test_a_kill_before_the_rename_leaves_a_bundle_that_opens(tiny, maker, monkeypatch):
    seen = []

    def watched(staged, target, real=Path.replace):
        seen.append((open_bundle(tiny).sha256, (tiny / "manifest.sig").exists()))  # what a kill here would leave
        return real(staged, target)

    monkeypatch.setattr(Path, "replace", watched)
    sign(tiny, maker.private)
    assert seen == [(open_bundle(TINY).sha256, False)]


def test_a_bundle_that_is_a_mount_point_is_told(tiny, maker, monkeypatch):
    def across(*_arguments):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(Path, "replace", across)
    with pytest.raises(EdgeskinError, match="the bundle is a mount point") as caught:
        sign(tiny, maker.private)
    one_line(caught)
    assert names(tiny.parent) == ["tiny"]


def test_a_folder_in_the_signatures_place_is_told(tiny, maker):
    (tiny / "manifest.sig").mkdir()
    with pytest.raises(EdgeskinError, match="a folder stands where the signature belongs") as caught:
        sign(tiny, maker.private)
    one_line(caught)


def test_without_the_package_the_extra_is_named_and_the_rest_works(signed, maker, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "cryptography"]:
        monkeypatch.setitem(sys.modules, name, None)
    for use in (
        lambda: keygen(tmp_path / "new"), lambda: sign(signed, maker.private), lambda: check(signed, maker.public)
    ):  # fmt: skip
        with pytest.raises(EdgeskinError, match=r"pip install 'edgeskin\[sign\]'") as caught:
            use()
        one_line(caught)
    told = inspect(open_bundle(signed))["signature"]
    assert told == {"status": "signed", "key": maker.fingerprint, "verified": False}
    pack(signed, tmp_path / "a.zip")
