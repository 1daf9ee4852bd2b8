"""The commands `edgeskin keygen`, `edgeskin sign` and `edgeskin verify-signature`."""

from pathlib import Path
from typing import Annotated

import typer

from edgeskin import out
from edgeskin.cli_options import BundlePath, Json

Password = Annotated[
    Path | None, typer.Option("--password-file", help="File whose one line is the private key's password.")
]


def add_commands(app: typer.Typer) -> None:
    """Enter the commands beside those of the program itself."""
    app.command("keygen")(keygen)
    app.command("sign")(sign)
    app.command("verify-signature")(verify_signature)


def keygen(
    name: Annotated[Path, typer.Option("--out", help="FOLDER/NAME: writes NAME.key and NAME.pub there.")],
    password: Password = None,
    json: Json = False,
) -> None:
    """Make a pair of Ed25519 keys: one to sign bundles with, one to verify them with. Overwrites nothing."""
    from edgeskin import signing

    out.configure(json_output=json)
    made = signing.keygen(name, signing.read_password(password) if password else None)
    out.result({"private": str(made.private), "public": str(made.public), "fingerprint": made.fingerprint})
    out.line(f"{made.private}: private key, {'locked by the password' if password else 'no password'}; keep it secret")
    out.line(f"{made.public}: public key, fingerprint {made.fingerprint}; give it to whoever verifies your bundles")


def sign(
    bundle: BundlePath,
    key: Annotated[Path, typer.Option(help="The private key, NAME.key.")],
    password: Password = None,
    json: Json = False,
) -> None:
    """Sign a bundle's folder: every file of it, through the manifest. Packing keeps the signature, tuning drops it."""
    from edgeskin import signing

    out.configure(json_output=json)
    made = signing.sign(bundle, key, signing.read_password(password) if password else None)
    out.result({"bundle": str(bundle), "key": made.fingerprint})
    out.line(f"{bundle}: signed by key {made.fingerprint}")


def verify_signature(
    bundle: BundlePath,
    key: Annotated[Path, typer.Option(help="The public key that you trust, NAME.pub.")],
    json: Json = False,
) -> None:
    """Whether the holder of a key signed a bundle as it is now, every file of it."""
    from edgeskin import signing

    out.configure(json_output=json)
    found = signing.check(bundle, key)
    out.result({"bundle": str(bundle), "key": found.fingerprint, "verified": True})
    out.line(f"{bundle}: the signature by key {found.fingerprint} holds")
