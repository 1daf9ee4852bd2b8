"""What a manifest and its seal may look like: one reading of them, whoever reads."""

import shutil
from pathlib import Path

import pytest

from edgeskin.errors import EdgeskinError
from edgeskin.files import sha256_bytes
from edgeskin.opening import open_bundle

TINY = Path(__file__).resolve().parent / "golden" / "tiny-onnxruntime"


@pytest.fixture
def tiny(tmp_path) -> Path:
    return Path(shutil.copytree(TINY, tmp_path / "tiny"))


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ('"target": "onnxruntime"', '"target": "onnxruntime", "target": "onnxruntime"', "target"),  # in the recipe
        ('"value": 0.3\n', '"value": 0.9, "value": 0.3\n', "value"),
        ('"golden/pair-1.npz": {', '"golden/pair-0.npz": {', "golden/pair-0.npz"),
        ('"format_version": 1', '"format_version": 2, "format_\\u0076ersion": 1', "format_version"),
    ],
)
def test_a_key_twice_is_refused_even_under_a_good_seal(tiny, old, new, key):
    text = (tiny / "manifest.json").read_text()
    assert old in text
    text = text.replace(old, new, 1)
    (tiny / "manifest.json").write_text(text)
    (tiny / "manifest.sha256").write_text(f"{sha256_bytes(text.encode())}  manifest.json\n")
    with pytest.raises(EdgeskinError, match="not valid JSON") as caught:
        open_bundle(tiny)
    assert f"the key '{key}' twice" in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace('"tiny"', '"tin\\ud800y"', 1).encode(),
        lambda text: text.replace('"tiny"', '"tin\ud800y"', 1).encode("utf-8", "surrogatepass"),
        lambda text: text.encode("utf-8-sig"),
        lambda text: text.encode("utf-16"),
        lambda text: text.encode() + b"\0",
    ],
)
def test_a_manifest_is_plain_utf_8(tiny, change):
    data = change((tiny / "manifest.json").read_text())
    (tiny / "manifest.json").write_bytes(data)
    (tiny / "manifest.sha256").write_text(f"{sha256_bytes(data)}  manifest.json\n")
    with pytest.raises(EdgeskinError, match="not valid JSON"):
        open_bundle(tiny)


@pytest.mark.parametrize("at", range(80))
def test_a_bit_flipped_anywhere_in_the_seal_is_found(tiny, at):
    seal = bytearray((tiny / "manifest.sha256").read_bytes())
    assert len(seal) == 80
    seal[at] ^= 1  # of the line feed at the end it makes another white space
    (tiny / "manifest.sha256").write_bytes(bytes(seal))
    with pytest.raises(EdgeskinError, match=r"its hash is not the one in manifest\.sha256"):
        open_bundle(tiny)


@pytest.mark.parametrize(
    "change", [lambda s: s[:-1], lambda s: s + b"\n", lambda s: s.replace(b"  ", b" *"), bytes.upper]
)
def test_another_spelling_of_the_seal_is_refused(tiny, change):
    seal = (tiny / "manifest.sha256").read_bytes()
    (tiny / "manifest.sha256").write_bytes(change(seal))
    with pytest.raises(EdgeskinError, match=r"its hash is not the one in manifest\.sha256"):
        open_bundle(tiny)
