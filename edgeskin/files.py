"""Writing without halves: temporary name, flush, rename; hashes; canonical JSON."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgeskin.errors import EdgeskinError


def sha256_bytes(data: bytes) -> str:
    """Hex SHA-256 of bytes.

    >>> sha256_bytes(b"abc")[:12]
    'ba7816bf8f01'
    """
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file, read in blocks so that memory does not grow with its size."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and a fixed layout, so that equal values give equal bytes.

    >>> canonical_json({"b": 1, "a": [2]})
    '{"a":[2],"b":1}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def pretty_json(value: Any) -> str:
    """JSON for people: sorted keys, two spaces, a final newline."""
    return json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


@contextlib.contextmanager
def os_errors(path: Path, fix: str = "choose another --out") -> Iterator[None]:
    """Turn the operating system's refusals to write into errors a user can act on."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise EdgeskinError(
                "the disk is full", got=str(path), fix=f"free space or {fix}; nothing was changed"
            ) from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise EdgeskinError("no permission to write", got=str(path), fix=fix) from error
        if error.errno in (errno.EEXIST, errno.ENOTDIR):
            raise EdgeskinError("a file stands where a folder is needed", got=str(path), fix=fix) from error
        raise


@contextlib.contextmanager
def staged_file(final: Path) -> Iterator[Path]:
    """Give a temporary file beside `final`; on success it is flushed and takes that name, on any error it goes."""
    with os_errors(final):
        final.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{final.name}.", dir=final.parent)
        os.close(handle)
        staged = Path(name)
        try:
            yield staged
            sync(staged)
            staged.chmod(0o644)
            staged.replace(final)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                staged.unlink()
            raise


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a file under a temporary name beside it, flush it to disk, then rename."""
    with staged_file(path) as staged:
        staged.write_bytes(data.encode() if isinstance(data, str) else data)


def sync(path: Path) -> None:
    """Flush a file, or every file of a folder, to the disk: a rename must not overtake the bytes it names."""
    for file in [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]:
        with file.open("rb") as stream:
            os.fsync(stream.fileno())


@contextlib.contextmanager
def staged_dir(final: Path) -> Iterator[Path]:
    """Give a temporary folder beside `final`; on success it takes that name, on any error it goes.

    A kill at any moment leaves the old folder, or none, under the name `final`: the old one is moved aside
    and the new one moved in by two renames; `recover_dir` puts the old one back if a kill fell between them.
    """
    with os_errors(final):
        final.parent.mkdir(parents=True, exist_ok=True)
        recover_dir(final)
        stage = Path(tempfile.mkdtemp(prefix=f".{final.name}.new.", dir=final.parent))
        old = final.parent / f".{final.name}.old"
        try:
            yield stage
            sync(stage)
            stage.chmod(0o755)
            if final.exists():
                final.rename(old)
            stage.rename(final)
            shutil.rmtree(old, ignore_errors=True)
        except BaseException:
            if old.exists() and not final.exists():
                old.rename(final)
            shutil.rmtree(stage, ignore_errors=True)
            raise


def recover_dir(final: Path) -> None:
    """Finish or undo a swap that a kill interrupted, and remove what it left behind."""
    old = final.parent / f".{final.name}.old"
    if old.exists():
        if final.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.rename(final)
    for stale in final.parent.glob(f".{final.name}.new.*"):
        shutil.rmtree(stale, ignore_errors=True)
