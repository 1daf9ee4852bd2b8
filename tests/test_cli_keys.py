"""The commands that make keys, sign and verify: what they print, and how they refuse."""

import base64
import json
import shutil
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edgeskin import cli
from edgeskin.files import sha256_bytes
from edgeskin.signing import keygen, sign

TINY = Path(__file__).resolve().parent / "golden" / "tiny-onnxruntime"


@pytest.fixture
def tiny(tmp_path) -> Path:
    return Path(shutil.copytree(TINY, tmp_path / "tiny"))


@pytest.fixture(scope="module")
def maker(tmp_path_factory):
    return keygen(tmp_path_factory.mktemp("keys") / "maker")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    return keygen(tmp_path_factory.mktemp("keys") / "stranger")


def command(*arguments: object):
    return CliRunner().invoke(cli.app, [str(one) for one in arguments])


@pytest.mark.parametrize("password", [False, True])
def test_the_three_commands_one_after_another(tiny, tmp_path, password):
    (tmp_path / "word").write_text("secret\n")
    words = ["--password-file", tmp_path / "word"] if password else []
    made = command("keygen", "--out", tmp_path / "keys" / "maker", *words)
    assert made.exit_code == 0, made.output
    raw = base64.b64decode((tmp_path / "keys" / "maker.pub").read_text().split("\n")[1])[-32:]  # the end of the DER
    fingerprint = sha256_bytes(raw)[:16]
    assert f"fingerprint {fingerprint}" in made.stdout
    done = command("sign", tiny, "--key", tmp_path / "keys" / "maker.key", *words)
    assert done.exit_code == 0, done.output
    assert fingerprint in done.stdout
    shown = command("inspect", tiny, "--json")
    assert json.loads(shown.stdout)["signature"] == {"status": "signed", "key": fingerprint, "verified": False}
    told = command("verify-signature", tiny, "--key", tmp_path / "keys" / "maker.pub")
    assert told.exit_code == 0, told.output
    assert told.stdout == f"{tiny}: the signature by key {fingerprint} holds\n"


def test_the_commands_in_json(tiny, tmp_path):
    made = json.loads(command("keygen", "--out", tmp_path / "maker", "--json").stdout)
    assert (made["private"], made["public"]) == (str(tmp_path / "maker.key"), str(tmp_path / "maker.pub"))
    done = json.loads(command("sign", tiny, "--key", made["private"], "--json").stdout)
    assert done == {"bundle": str(tiny), "key": made["fingerprint"]}
    told = json.loads(command("verify-signature", tiny, "--key", made["public"], "--json").stdout)
    assert told == {"bundle": str(tiny), "key": made["fingerprint"], "verified": True}


@pytest.mark.parametrize(
    ("state", "message"),
    [("unsigned", "is not signed"), ("stranger", "signed by another key"), ("changed", "does not hold")],
)
def test_a_refusal_is_one_line_and_exit_code_2(tiny, maker, stranger, capsys, monkeypatch, state, message):
    if state != "unsigned":
        sign(tiny, (stranger if state == "stranger" else maker).private)
    if state == "changed":
        text = (tiny / "manifest.json").read_text().replace('"name": "tiny"', '"name": "other"')
        (tiny / "manifest.json").write_text(text)
        (tiny / "manifest.sha256").write_text(f"{sha256_bytes(text.encode())}  manifest.json\n")
    monkeypatch.setattr(sys, "argv", ["edgeskin", "verify-signature", str(tiny), "--key", str(maker.public)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert message in said.err
    assert said.err.count("\n") == 1
