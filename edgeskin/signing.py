"""Who made a bundle: Ed25519 over the manifest, which names and hashes every file (RFC 8032).

What is signed is the bytes of `manifest.json`, as they lie there, nothing before or after them. The signature lies
beside it in `manifest.sig`, which the manifest cannot list, as it comes later. It is ASCII, 142 bytes, two lines, each
ended by one line feed:

    ed25519 <public key: 32 bytes in base64, 44 characters>
    <signature: 64 bytes in base64, 88 characters>

Base64 is the standard alphabet with padding. The form is the only one: no other spaces, comments or line ends, so that
equal signatures are equal files. A reader in C takes characters 8..51 and 53..140 through libsodium's
`sodium_base642bin` with `sodium_base64_VARIANT_ORIGINAL`. It compares the key with the one it trusts; then it calls
`crypto_sign_verify_detached` **with the one it trusts**. The key in the file says which key to look for and proves
nothing: whoever changes a bundle can sign it with a key of their own.

Keys are PEM files, see edgeskin/keys.py.
"""

import base64
import errno
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from edgeskin import out
from edgeskin.errors import EdgeskinError
from edgeskin.files import os_errors, sha256_bytes
from edgeskin.keys import (
    KeyPair,
    fingerprint,
    keygen,
    load_private,
    load_public,
    need_cryptography,
    read_password,
    staged_new,
)
from edgeskin.opening import SIGNATURE_LIMIT, Bundle, open_bundle
from edgeskin.spec.manifest import MANIFEST, SIGNATURE

__all__ = ["KeyPair", "Signature", "check", "describe", "keygen", "parse", "read_password", "read_signature", "sign"]

_FORM = re.compile(rb"ed25519 ([A-Za-z0-9+/]{43}=)\n([A-Za-z0-9+/]{86}==)\n")


@dataclass(frozen=True, slots=True)
class Signature:
    """What `manifest.sig` holds: the public key that it claims, 32 bytes, and the signature, 64 bytes."""

    key: bytes
    value: bytes

    @property
    def fingerprint(self) -> str:
        """Of the key that the file claims."""
        return fingerprint(self.key)

    def text(self) -> str:
        """The file's content.

        >>> Signature(bytes(32), bytes(64)).text().splitlines()[0]
        'ed25519 AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA='
        """
        return f"ed25519 {base64.b64encode(self.key).decode()}\n{base64.b64encode(self.value).decode()}\n"


def parse(data: bytes, where: str) -> Signature:
    """The signature that the bytes of a `manifest.sig` hold. Nothing is verified.

    Raises:
        EdgeskinError: the bytes are not in the one form that a signature has.
    """
    found = _FORM.fullmatch(data)
    if found:
        made = Signature(*(base64.b64decode(part, validate=True) for part in found.groups()))
        if made.text().encode() == data:  # base64 has spare bits: only one spelling of a signature is one
            return made
    raise EdgeskinError(
        f"the signature of {where} cannot be read",
        got=f"{SIGNATURE} of {len(data)} bytes" if len(data) <= SIGNATURE_LIMIT else f"{SIGNATURE} of too many bytes",
        possible="two lines: `ed25519 KEY` and the signature, both in base64",
        fix=f"get the bundle again from who signed it, or sign it: edgeskin sign {where} --key NAME.key",
    )


def sign(bundle: Path, key: Path, password: bytes | None = None) -> Signature:
    """Write `manifest.sig` into a bundle's folder, after every hash of the bundle has been verified.

    The same bundle and key give the same bytes.

    Raises:
        EdgeskinError: the bundle does not verify or is a .zip, the key cannot be used, or the disk refuses.
    """
    need_cryptography()
    opened = open_bundle(bundle)
    if not bundle.is_dir():
        raise EdgeskinError(
            "a packed bundle cannot be signed",
            got=str(bundle),
            fix="sign the folder, then pack it: `edgeskin pack` keeps the signature",
        )
    private = load_private(key, password)
    if stat.S_IMODE(key.stat().st_mode) & 0o077:
        out.note(f"{key}: others on this machine may use this private key; fix: chmod 600 {key}")
    public = private.public_key().public_bytes_raw()
    made = Signature(public, private.sign(_manifest_bytes(opened)))
    before, target = describe(opened), opened.path(SIGNATURE)
    if target.is_dir():
        raise EdgeskinError("a folder stands where the signature belongs", got=str(target), fix="remove it")
    root = opened.root
    with (
        os_errors(root, fix="sign a copy of the bundle in a folder of yours"),
        # Beside the bundle, not in it: what a kill leaves there would be an unlisted file.
        staged_new(root.parent, f".{root.name}.sig.", made.text().encode(), 0o644) as staged,
    ):
        try:
            staged.replace(target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            raise EdgeskinError(
                "the bundle is a mount point, into which no file can be renamed", got=str(root), fix="sign a copy of it"
            ) from None
    if before["status"] != "unsigned" and before["key"] != made.fingerprint:
        out.note(f"{bundle}: replaced a signature by key {before['key'] or '(unreadable)'}")
    return made


def check(bundle: Path, public_key: Path) -> Signature:
    """Verify that the holder of a key signed this bundle, a folder or a .zip, as it is now, every file of it.

    A lean bundle passes too: of what is signed it may lack the FP32 reference, and nothing else.

    Raises:
        EdgeskinError: the bundle does not verify, is unsigned, signed by another key, or changed since.
    """
    need_cryptography()
    from cryptography.exceptions import InvalidSignature

    trusted = load_public(public_key)
    raw = trusted.public_bytes_raw()
    opened = open_bundle(bundle)
    found = read_signature(opened, str(bundle))
    if found is None:
        raise EdgeskinError(
            "the bundle is not signed",
            got=f"{bundle} without {SIGNATURE}",
            fix=f"get it signed from its maker, or sign it: edgeskin sign {bundle} --key NAME.key",
        )
    if found.key != raw:
        raise EdgeskinError(
            f"the bundle {bundle} is signed by another key",
            got=found.fingerprint,
            possible=fingerprint(raw),
            fix="get the bundle from the holder of your key; trust the other key only if its holder told you of it",
        )
    try:
        trusted.verify(found.value, _manifest_bytes(opened))
    except InvalidSignature:
        raise EdgeskinError(
            f"the signature of {bundle} does not hold",
            got=f"{MANIFEST} or {SIGNATURE} changed after key {found.fingerprint} signed",
            fix="do not use this bundle; get it again from its maker",
        ) from None
    return found


def read_signature(bundle: Bundle, where: str = "") -> Signature | None:
    """The signature in a bundle, which proves nothing before it is verified; None if it is unsigned.

    Raises:
        EdgeskinError: the file is not in the one form that a signature has.
    """
    path = bundle.path(SIGNATURE)
    if not path.is_file():
        return None
    with path.open("rb") as source:
        return parse(source.read(SIGNATURE_LIMIT + 1), where or str(bundle.root))


def describe(bundle: Bundle) -> dict[str, str | bool]:
    """What a bundle says about its signature: status unsigned, signed or unreadable, and whose key it claims.

    Nothing is verified, for want of a key to trust, and so "verified" is False.
    """
    try:
        found = read_signature(bundle)
    except EdgeskinError:
        return {"status": "unreadable", "key": "", "verified": False}
    return {"status": "signed" if found else "unsigned", "key": found.fingerprint if found else "", "verified": False}


def _manifest_bytes(bundle: Bundle) -> bytes:
    """The manifest as it was opened: what another process wrote there since is not signed, nor verified."""
    data = bundle.path(MANIFEST).read_bytes()
    if sha256_bytes(data) != bundle.sha256:
        raise EdgeskinError("the bundle changes while it is read", got=str(bundle.root), fix="run the command again")
    return data
