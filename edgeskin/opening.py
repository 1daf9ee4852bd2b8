"""Opening a bundle: every name, size and hash is verified before anything of it is used."""

import hashlib
import json
import os
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeskin.env import cache_dir
from edgeskin.errors import EdgeskinError
from edgeskin.files import os_errors, sha256_bytes, sha256_file
from edgeskin.spec.manifest import (
    FORMAT_VERSION,
    MANIFEST,
    SEAL,
    SIGNATURE,
    FileEntry,
    GoldenCase,
    Manifest,
    safe_name,
)

if TYPE_CHECKING:
    from edgeskin.spec.evidence import Evidence

_MANIFEST_LIMIT = 16 << 20  # bytes; a manifest is some 20 kB
SIGNATURE_LIMIT = 4 << 10  # bytes; a signature is 142
_AGAIN = "copy or export the bundle again"


@dataclass(frozen=True, slots=True)
class Bundle:
    """A verified bundle in a folder. `sha256` is the manifest's: as it names every file's hash, it stands for all."""

    root: Path
    manifest: Manifest
    sha256: str
    lean: bool

    def path(self, name: str) -> Path:
        """Where a file of the bundle lies."""
        return self.root / name

    def lesion_hashes(self) -> dict[str, frozenset[str]]:
        """Role -> short hashes of the lesions that had it when the bundle was made."""
        found = json.loads(self.path(self.manifest.lesion_hashes_file).read_text(encoding="utf-8"))
        return {role: frozenset(hashes) for role, hashes in found.items()}

    def evidence(self) -> "Evidence | None":
        """What was found while the bundle was made; None where it was packed without, or made before there was any."""
        from edgeskin.spec.evidence import Evidence

        name = self.manifest.evidence_file
        if not name or not self.path(name).is_file():
            return None
        return Evidence.parse(json.loads(self.path(name).read_text(encoding="utf-8")), f"{self.root}/{name}")

    def golden(self, case: GoldenCase) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Frames and expected logits of a golden case."""
        with np.load(self.path(case.file), allow_pickle=False) as stored:
            return stored["frames"], stored["logits"]


def open_bundle(path: Path) -> Bundle:
    """Open a bundle, a folder or a packed .zip, after every hash has been verified.

    A .zip is verified while it is unpacked into the cache, under the hash of the archive; a second opening finds
    it there and verifies it again.

    Raises:
        EdgeskinError: no bundle there, a newer format, a file missing, altered, unlisted, or a link.
    """
    path = Path(path)
    if path.is_dir():
        return _verify_folder(path.resolve(), str(path))
    if path.is_file() and zipfile.is_zipfile(path):
        return _open_packed(path)
    if path.exists():
        raise EdgeskinError("not a bundle", got=str(path), possible="a folder with manifest.json, or a packed .zip")
    if (path.parent / f".{path.name}.old").is_dir():
        raise EdgeskinError("the writing of this bundle was interrupted", got=str(path), fix="run the export again")
    raise EdgeskinError("no such bundle", got=str(path), fix="check the path, or run `edgeskin export`")


def _damaged(where: str, name: str, how: str) -> EdgeskinError:
    return EdgeskinError(f"tampered or damaged bundle {where}", got=f"{name}: {how}", fix=_AGAIN)


def _oversized(where: str, name: str, limit: int) -> EdgeskinError:
    return _damaged(where, name, f"more than {limit} bytes")


def _missing(where: str, name: str) -> EdgeskinError:
    return EdgeskinError(f"incomplete bundle {where}", got=f"no file {name}", fix=_AGAIN)


def _not_json(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")


def _one_of_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object's keys and values. A key twice is refused: of two readers each could take another one."""
    made: dict[str, Any] = {}
    for key, value in pairs:
        if key in made:
            raise ValueError(f"the key {key!r} twice")
        made[key] = value
    return made


def _parse(data: bytes, seal: bytes | None, where: str) -> Manifest:
    """The manifest, once its format is known, its seal unbroken and its fields valid."""
    try:
        plain = json.loads(data.decode(), parse_constant=_not_json, object_pairs_hook=_one_of_each)
        json.dumps(plain, ensure_ascii=False).encode()  # "\\ud800", half a character, is no text
    except (ValueError, RecursionError) as error:
        raise _damaged(where, MANIFEST, f"not valid JSON ({error})") from None
    if not isinstance(plain, dict) or plain.get("format") != "edgeskin-bundle":
        raise EdgeskinError("not a bundle", got=f"{where} whose {MANIFEST} has no format 'edgeskin-bundle'", fix=_AGAIN)
    version = plain.get("format_version")
    if version != FORMAT_VERSION or isinstance(version, bool):
        newer = isinstance(version, int) and version > FORMAT_VERSION
        raise EdgeskinError(
            f"unknown format version of bundle {where}",
            got=repr(version),
            possible=f"{FORMAT_VERSION}",
            fix="it was written by a newer edgeskin: pip install --upgrade edgeskin" if newer else _AGAIN,
        )
    if seal is None:
        raise _missing(where, SEAL)
    if seal != f"{sha256_bytes(data)}  {MANIFEST}\n".encode():  # as sha256sum writes it, and in no other form
        raise _damaged(where, MANIFEST, f"its hash is not the one in {SEAL}")
    return Manifest.parse(plain, f"{where}/{MANIFEST}")


def listing(root: Path) -> list[str]:
    """Names of all files under a folder, sorted. A link, a pipe or a device among them is an error."""
    names = []
    for folder, subfolders, files in os.walk(root):
        for name in (*subfolders, *files):
            entry = Path(folder) / name
            kind = entry.lstat().st_mode
            relative = entry.relative_to(root).as_posix()
            if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
                what = "a symbolic link" if stat.S_ISLNK(kind) else "no regular file"
                raise EdgeskinError(
                    f"unsafe bundle {root}", got=f"{relative} is {what}", fix="put the file itself there"
                )
            if stat.S_ISREG(kind):
                names.append(relative)
    return sorted(names)


def _check_names(names: Sequence[str], manifest: Manifest, where: str) -> bool:
    """Whether the reference is left out; an unlisted or a missing file is an error."""
    present, listed = set(names) - {MANIFEST, SEAL, SIGNATURE}, set(manifest.files)
    if SIGNATURE in listed:  # it signs the manifest, which so cannot hold its hash
        raise EdgeskinError(f"unsafe bundle {where}", got=f"{MANIFEST} lists {SIGNATURE}", fix=_AGAIN)
    if extra := sorted(present - listed):
        raise EdgeskinError(
            f"unlisted file in bundle {where}", got=", ".join(extra[:3]), fix="remove it, or " + _AGAIN, details=extra
        )
    reference = {name for name in listed if manifest.files[name].group == "reference"}
    lean = bool(reference) and not reference & present
    if absent := sorted(listed - present - (reference if lean else set())):
        raise _missing(where, absent[0])
    return lean


def _verify_folder(root: Path, where: str) -> Bundle:
    if not (root / MANIFEST).is_file():
        raise EdgeskinError("not a bundle", got=f"{where} without {MANIFEST}", fix="pass the folder that holds it")
    names = listing(root)
    if SIGNATURE in names and (root / SIGNATURE).stat().st_size > SIGNATURE_LIMIT:
        raise _oversized(where, SIGNATURE, SIGNATURE_LIMIT)
    data = (root / MANIFEST).read_bytes()
    manifest = _parse(data, (root / SEAL).read_bytes() if SEAL in names else None, where)
    lean = _check_names(names, manifest, where)
    for name, entry in manifest.files.items():
        if lean and entry.group == "reference":
            continue
        size = (root / name).stat().st_size
        if size != entry.size_bytes:
            raise _damaged(where, name, f"{size} bytes instead of {entry.size_bytes}")
        found = sha256_file(root / name)
        if found != entry.sha256:
            raise _damaged(where, name, f"SHA-256 {found[:12]}... instead of {entry.sha256[:12]}...")
    return Bundle(root, manifest, sha256_bytes(data), lean)


def _open_packed(path: Path) -> Bundle:
    home = cache_dir() / "bundles"
    final = home / sha256_file(path)[:32]
    if final.is_dir():
        try:
            return _verify_folder(final, str(path))
        except EdgeskinError:
            shutil.rmtree(final, ignore_errors=True)  # the cached copy was spoilt: unpack it afresh
    with os_errors(home, fix="set EDGESKIN_CACHE to a folder with room"):
        home.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=".new.", dir=home))
        try:
            _extract(path, stage)
            try:
                stage.rename(final)
            except OSError:
                if not final.is_dir():  # else another process has unpacked the same archive meanwhile
                    raise
        finally:
            shutil.rmtree(stage, ignore_errors=True)
    return _verify_folder(final, str(path))


def _extract(path: Path, stage: Path) -> None:
    """Unpack what the manifest lists, and nothing else; every file is verified as it is written."""
    where = str(path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = [m for m in archive.infolist() if not m.is_dir()]
            names = [m.filename for m in members]
            if len(set(names)) != len(names):
                raise EdgeskinError(f"unsafe bundle {where}", got="a file name twice in the archive", fix=_AGAIN)
            for member in members:
                if not safe_name(member.filename):
                    raise EdgeskinError(f"unsafe bundle {where}", got=f"file name {member.filename!r}", fix=_AGAIN)
                kind = stat.S_IFMT(member.external_attr >> 16)
                if kind not in (0, stat.S_IFREG) or member.flag_bits & 1:
                    raise EdgeskinError(
                        f"unsafe bundle {where}", got=f"{member.filename} is a link or encrypted", fix=_AGAIN
                    )
            if MANIFEST not in names:
                raise EdgeskinError(
                    "not a bundle", got=f"{where} without {MANIFEST}", fix="make it with `edgeskin pack`"
                )
            heads = {name: _read_head(archive, name, where) for name in (MANIFEST, SEAL, SIGNATURE) if name in names}
            manifest = _parse(heads[MANIFEST], heads.get(SEAL), where)
            _check_names(names, manifest, where)
            for name, data in heads.items():
                (stage / name).write_bytes(data)
            for name in sorted(set(names) - set(heads)):
                target = stage / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(name) as source, target.open("wb") as sink:
                    _copy_verified(source, sink, manifest.files[name], where, name)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, ValueError) as error:
        raise _damaged(where, path.name, f"broken archive ({error})") from None


def _read_head(archive: zipfile.ZipFile, name: str, where: str) -> bytes:
    limit = SIGNATURE_LIMIT if name == SIGNATURE else _MANIFEST_LIMIT
    with archive.open(name) as source:
        data = source.read(limit + 1)
    if len(data) > limit:
        raise _oversized(where, name, limit)
    return data


def _copy_verified(source: IO[bytes], sink: IO[bytes], entry: FileEntry, where: str, name: str) -> None:
    """Copy no more than the listed size, so that an archive cannot swell, and compare the hash."""
    digest, size = hashlib.sha256(), 0
    while block := source.read(1 << 20):
        size += len(block)
        if size > entry.size_bytes:
            break
        digest.update(block)
        sink.write(block)
    if size != entry.size_bytes:
        raise _damaged(where, name, f"not {entry.size_bytes} bytes")
    if digest.hexdigest() != entry.sha256:
        raise _damaged(where, name, f"SHA-256 is not {entry.sha256[:12]}...")
