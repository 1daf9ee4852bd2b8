import errno
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeskin import files
from edgeskin.errors import EdgeskinError


def leftovers(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.name.startswith("."))


def full_disk(*_args, **_kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def write_folder(final: Path, text: str) -> None:
    with files.staged_dir(final) as stage:
        (stage / "deep").mkdir()
        (stage / "deep" / "a.txt").write_text(text)


@settings(deadline=None)
@given(st.dictionaries(st.text(), st.integers() | st.text() | st.lists(st.booleans())))
def test_canonical_json_does_not_depend_on_order(value):
    assert files.canonical_json(value) == files.canonical_json(dict(reversed(value.items())))


def test_json_refuses_nan():
    with pytest.raises(ValueError, match="Out of range"):
        files.pretty_json({"x": float("nan")})


def test_sha256_file_reads_past_one_block(tmp_path):
    data = os.urandom((1 << 20) + 17)
    (tmp_path / "x").write_bytes(data)
    assert files.sha256_file(tmp_path / "x") == hashlib.sha256(data).hexdigest()


def test_write_atomic_replaces_and_leaves_nothing_else(tmp_path):
    target = tmp_path / "new" / "a.json"
    files.write_atomic(target, "one")
    files.write_atomic(target, b"two")
    assert target.read_text() == "two"
    assert [p.name for p in target.parent.iterdir()] == ["a.json"]
    assert target.stat().st_mode & 0o777 == 0o644


def test_disk_full_keeps_the_old_file(tmp_path, monkeypatch):
    target = tmp_path / "a.json"
    files.write_atomic(target, "old")
    monkeypatch.setattr(files.os, "fsync", full_disk)
    with pytest.raises(EdgeskinError, match=r"the disk is full: got '.*a\.json'; fix: free space"):
        files.write_atomic(target, "new")
    assert target.read_text() == "old"
    assert leftovers(tmp_path) == []


def test_disk_full_keeps_the_old_folder(tmp_path, monkeypatch):
    final = tmp_path / "bundle"
    write_folder(final, "old")
    monkeypatch.setattr(files.os, "fsync", full_disk)
    with pytest.raises(EdgeskinError, match="the disk is full"):
        write_folder(final, "new")
    assert (final / "deep" / "a.txt").read_text() == "old"
    assert leftovers(tmp_path) == []


def test_no_permission_is_one_line(tmp_path, monkeypatch):
    def refused(*_args, **_kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(files.tempfile, "mkstemp", refused)
    with pytest.raises(EdgeskinError, match="no permission to write") as caught:
        files.write_atomic(tmp_path / "x", "y")
    assert "\n" not in str(caught.value)


def test_other_os_errors_pass_unchanged(tmp_path):
    with pytest.raises(IsADirectoryError), files.os_errors(tmp_path):
        raise IsADirectoryError(errno.EISDIR, "Is a directory")


def test_an_exception_inside_leaves_the_old_folder(tmp_path):
    final = tmp_path / "bundle"
    write_folder(final, "old")

    def fail() -> None:
        with files.staged_dir(final) as stage:
            (stage / "half").write_text("x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert (final / "deep" / "a.txt").read_text() == "old"
    assert leftovers(tmp_path) == []


def test_a_failing_swap_puts_the_old_folder_back(tmp_path, monkeypatch):
    final = tmp_path / "bundle"
    write_folder(final, "old")
    rename = Path.rename

    def second_fails(self, target):
        if ".new." in self.name:
            full_disk()
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", second_fails)
    with pytest.raises(EdgeskinError, match="the disk is full"):
        write_folder(final, "new")
    assert (final / "deep" / "a.txt").read_text() == "old"
    assert leftovers(tmp_path) == []


KILLED = """
import os, sys
from pathlib import Path
from edgeskin import files
final, moment = Path(sys.argv[1]), sys.argv[2]
rename, fsync = Path.rename, os.fsync

def dying_rename(self, target):
    if moment == "before the first rename" and self == final:
        os._exit(9)
    if moment == "between the renames" and ".new." in self.name:
        os._exit(9)
    done = rename(self, target)
    if moment == "after the second rename" and ".new." in self.name:
        os._exit(9)
    return done

Path.rename = dying_rename
with files.staged_dir(final) as stage:
    (stage / "a.txt").write_text("new")
    if moment == "while writing":
        os._exit(9)
"""


@pytest.mark.parametrize(
    ("moment", "there", "recovered"),
    [
        ("while writing", "old", "old"),
        ("before the first rename", "old", "old"),
        ("between the renames", None, "old"),
        ("after the second rename", "new", "new"),
    ],
)
def test_a_kill_leaves_the_old_folder_or_none(tmp_path, moment, there, recovered):
    final = tmp_path / "bundle"
    final.mkdir()
    (final / "a.txt").write_text("old")
    ended = subprocess.run([sys.executable, "-c", KILLED, str(final), moment], check=False)
    assert ended.returncode == 9
    assert ((final / "a.txt").read_text() if final.exists() else None) == there
    files.recover_dir(final)
    assert (final / "a.txt").read_text() == recovered
    assert leftovers(tmp_path) == []
