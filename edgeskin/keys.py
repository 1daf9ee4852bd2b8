"""Pairs of Ed25519 keys as PEM files: made, read, and everything else that lies in such a file named.

`NAME.key` is PKCS #8, with or without a password; `NAME.pub` is SubjectPublicKeyInfo: what openssl reads and writes.
A fingerprint, for people to compare, is the first 16 hex digits of the SHA-256 of the 32 bytes of the public key.
"""

import contextlib
import errno
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeskin.errors import EdgeskinError, missing_extra
from edgeskin.files import os_errors, sha256_bytes

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

_BEGIN = re.compile(rb"^-----BEGIN ([^\r\n-]{1,60})-----", re.MULTILINE)
_KEY_LIMIT = 64 << 10  # bytes; a key is some 120
_PASSWORD_LIMIT = 1023  # bytes; what PKCS #8 encryption takes in `cryptography`
_CURES = {
    "private": "make a pair with `edgeskin keygen --out FOLDER/NAME`",
    "public": "pass the NAME.pub that the maker of the bundle gave you",
}


@dataclass(frozen=True, slots=True)
class KeyPair:
    """Where a new pair of keys lies."""

    private: Path
    public: Path
    fingerprint: str


def fingerprint(key: bytes) -> str:
    """Short name of a public key (32 bytes), for people to compare.

    >>> fingerprint(bytes(32))
    '66687aadf862bd77'
    """
    return sha256_bytes(key)[:16]


def keygen(name: Path, password: bytes | None = None) -> KeyPair:
    """Make a pair of keys: `NAME.key`, readable by its owner alone, and `NAME.pub`. Nothing is ever overwritten.

    Raises:
        EdgeskinError: one of the files exists, the disk refuses, or `cryptography` is absent.
    """
    need_cryptography()
    from cryptography.hazmat.primitives import serialization as forms
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    if name.is_dir() or name.suffix in (".key", ".pub"):
        raise EdgeskinError(
            "a pair of keys needs a name",
            got=str(name),
            possible="FOLDER/NAME, which gives NAME.key and NAME.pub",
            fix=f"pass --out {name / 'maker' if name.is_dir() else name.with_suffix('')}",
        )
    private, public = (name.with_name(name.name + suffix) for suffix in (".key", ".pub"))
    for path in (private, public):
        if os.path.lexists(path):
            raise _key_exists(path)
    key = Ed25519PrivateKey.generate()
    locked = forms.BestAvailableEncryption(_usable(password)) if password is not None else forms.NoEncryption()
    pem = key.private_bytes(forms.Encoding.PEM, forms.PrivateFormat.PKCS8, locked)
    _write_new(private, pem, 0o600)
    try:
        told = key.public_key().public_bytes(forms.Encoding.PEM, forms.PublicFormat.SubjectPublicKeyInfo)
        _write_new(public, told, 0o644)
    except BaseException:
        private.unlink(missing_ok=True)  # it is ours, and of no use to anyone yet
        raise
    return KeyPair(private, public, fingerprint(key.public_key().public_bytes_raw()))


def read_password(path: Path) -> bytes:
    """The password in a file: its one line, without the line's end.

    Raises:
        EdgeskinError: no such file, nothing in it, more than one line, or too long.
    """
    data = _read(path, "password file", "write the password into a file, as one line")
    return _usable(data.removesuffix(b"\n").removesuffix(b"\r"), str(path))


def _usable(password: bytes, where: str = "as given") -> bytes:
    lines = len(password.splitlines())
    if lines != 1 or len(password) > _PASSWORD_LIMIT:
        raise EdgeskinError(
            "the password cannot be used",
            got=f"{where}: {lines} lines, {len(password)} bytes",  # never the password itself
            possible=f"one line of 1 to {_PASSWORD_LIMIT} bytes",
            fix="write it as one line",
        )
    return password


def need_cryptography() -> None:
    """Say which extra is missing, before any work is done.

    Raises:
        EdgeskinError: the package `cryptography` is not installed.
    """
    try:
        import cryptography.hazmat.primitives.asymmetric.ed25519  # noqa: F401
    except ImportError:
        raise missing_extra("cryptography", "sign") from None


def _read(path: Path, kind: str, fix: str) -> bytes:
    try:
        with path.open("rb") as source:
            data = source.read(_KEY_LIMIT + 1)
    except FileNotFoundError:
        raise EdgeskinError(f"no such {kind}", got=str(path), fix=fix) from None
    except OSError as error:
        raise EdgeskinError(f"the {kind} cannot be read", got=f"{path}: {error.strerror}", fix=fix) from None
    if len(data) > _KEY_LIMIT:
        raise EdgeskinError(f"the {kind} is too large", got=f"{path}: more than {_KEY_LIMIT} bytes", fix=fix)
    return data


def _read_pem(path: Path, kind: str, kinds: tuple[bytes, ...], other: str) -> tuple[bytes, bytes]:
    """(content, label) of a PEM file of the right kind; whatever else it is, it is named."""
    data = _read(path, f"{kind} key", _CURES[kind])
    labels = _BEGIN.findall(data)
    if len(labels) == 1 and labels[0] in kinds:
        return data, labels[0]
    fix = _CURES[kind]
    if len(labels) > 1:
        told, fix = f"{len(labels)} PEM blocks", "keep one key in a file"
    elif labels:
        told = f"a PEM of kind {labels[0].decode('ascii', 'replace')}"
        if labels[0].endswith(other.upper().encode() + b" KEY"):
            fix = f"pass the {kind} half of the pair, {'NAME.key' if kind == 'private' else 'NAME.pub'}"
    elif data[:1] == b"\x30":  # an ASN.1 sequence
        told = "DER, or another binary form"
        public = " -pubin -pubout" if kind == "public" else ""
        fix = f"convert it: openssl pkey -inform DER{public} -in {path} -out {path}.pem"
    else:
        told = "no PEM"
    raise EdgeskinError(
        f"not an Ed25519 {kind} key in PEM",
        got=f"{path}: {told}",
        possible=" or ".join(label.decode() for label in kinds),
        fix=fix,
    )


def load_private(path: Path, password: bytes | None) -> "Ed25519PrivateKey":
    """The private key in a `NAME.key`.

    Raises:
        EdgeskinError: no such file, another kind of key, or a password that is missing, wrong or superfluous.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization as forms
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    data, label = _read_pem(path, "private", (b"PRIVATE KEY", b"ENCRYPTED PRIVATE KEY"), "public")
    locked = label == b"ENCRYPTED PRIVATE KEY"
    if locked and password is None:
        raise EdgeskinError("the key needs its password", got=str(path), fix="pass --password-file FILE")
    if password is not None and not locked:
        raise EdgeskinError("the key has no password", got=str(path), fix="drop --password-file")
    try:
        key = forms.load_pem_private_key(data, _usable(password) if password is not None else None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        what = "wrong password, or a damaged key" if locked else "a damaged or unsupported key"
        raise EdgeskinError("the private key cannot be read", got=f"{path}: {what}", fix=_CURES["private"]) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise _other_type(path, "private", type(key).__name__.removesuffix("PrivateKey"))
    return key


def load_public(path: Path) -> "Ed25519PublicKey":
    """The public key in a `NAME.pub`.

    Raises:
        EdgeskinError: no such file, or another kind of key.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization as forms
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    data, _ = _read_pem(path, "public", (b"PUBLIC KEY",), "private")
    try:
        key = forms.load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        what = "a damaged or unsupported key"
        raise EdgeskinError("the public key cannot be read", got=f"{path}: {what}", fix=_CURES["public"]) from None
    if not isinstance(key, Ed25519PublicKey):
        raise _other_type(path, "public", type(key).__name__.removesuffix("PublicKey"))
    return key


def _other_type(path: Path, kind: str, name: str) -> EdgeskinError:
    return EdgeskinError("a key of another type", got=f"{path}: {name}", possible="Ed25519", fix=_CURES[kind])


def _key_exists(path: Path) -> EdgeskinError:
    return EdgeskinError(
        "a key is never overwritten", got=f"{path} exists", fix="choose another --out, or move the old pair away"
    )


@contextlib.contextmanager
def staged_new(folder: Path, prefix: str, data: bytes, mode: int) -> Iterator[Path]:
    """A file with that content and mode under a temporary name, flushed; it is gone afterwards if it was not moved."""
    handle, name = tempfile.mkstemp(prefix=prefix, dir=folder)  # for its owner alone, from the first byte
    try:
        with os.fdopen(handle, "wb") as sink:
            sink.write(data)
            sink.flush()
            os.fchmod(sink.fileno(), mode)
            os.fsync(sink.fileno())
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def _write_new(path: Path, data: bytes, mode: int) -> None:
    """Write a file whole or not at all, and never in the place of another."""
    with os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with staged_new(path.parent, f".{path.name}.", data, mode) as staged:
            kept = stat.S_IMODE(staged.stat().st_mode) == mode  # FAT and some shares keep no modes, nor have links
            try:
                if kept:
                    os.link(staged, path)  # unlike a rename, it fails where the name is taken
            except FileExistsError:
                raise _key_exists(path) from None
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
                    raise
                kept = False
            if not kept:
                raise EdgeskinError(
                    "this filesystem cannot keep a key private",
                    got=str(path.parent),
                    fix="choose an --out on one with Unix permissions and hard links",
                )
