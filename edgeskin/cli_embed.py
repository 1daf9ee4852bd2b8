"""The commands `edgeskin embed` and `edgeskin fallback`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from edgeskin import out
from edgeskin.cli_options import BundlePath, Json


def add_commands(app: typer.Typer) -> None:
    """Enter the commands beside those of the program itself."""
    app.command("fallback")(fallback)
    app.command("embed")(embed)


def fallback(
    bundle: BundlePath,
    target: Annotated[str, typer.Option(help="The second engine: openvino or onnxruntime.")],
    json: Json = False,
) -> None:
    """Name a second engine for devices without the first, once it has answered the bundle's golden cases here."""
    from edgeskin.fallback import add

    out.configure(json_output=json)
    manifest, outcomes = add(bundle, target)
    worst = max(outcome.max_abs_error for outcome in outcomes)
    order = [manifest.target, *(f"{other.target} ({other.graphs})" for other in manifest.fallback)]
    out.result({"bundle": str(bundle), "order": order, "golden_cases": len(outcomes), "max_abs_error": worst})
    out.line(f"{bundle}: {target} answered {len(outcomes)} golden cases, logits within {worst:.2g}")
    out.line(f"order: {', then '.join(order)}; a fall-back is told wherever it happens")


def embed(
    bundle: BundlePath,
    device: Annotated[str, typer.Option(help="Device profile that the firmware is for: a name or a .toml.")],
    folder: Annotated[Path, typer.Option("--out", help="Folder of the CMake project.")],
    public_key: Annotated[
        Path | None, typer.Option(help="NAME.pub, compiled in: the firmware opens only what this key has signed.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a project that is there, changes and all.")] = False,
    json: Json = False,
) -> None:
    """Write a CMake project that builds a device's firmware around a bundle: C library, service, update, sizes."""
    from edgeskin.embed import embed as write

    out.configure(json_output=json)
    made = write(bundle, device, folder, public_key=public_key, force=force)
    out.result(made.report)
    _show(made.report)
    out.line(f"{folder}: build it with {folder}/build.sh; {folder}/README.md tells the rest")


def _show(report: dict[str, Any]) -> None:
    memory = report["memory"]
    rows = [(f"bundle/{name}", f"{size:,}") for name, size in report["bundle_files"].items()]
    rows += [
        ("library, at most", f"{report['library']['budget_bytes']:,}"),
        ("on the device's storage, at most", f"{report['storage_bytes']:,}"),
        ("in memory: graphs as read", f"{memory['graphs_bytes']:,}"),
        ("in memory: the network's frames", f"{memory['network_frames_bytes']:,}"),
        ("in memory: buffers of two cameras", f"{memory['camera_bytes']:,}"),
        ("sources, which stay here", f"{report['sources']['bytes']:,}"),
    ]
    out.table(f"{report['bundle']['name']} for {report['device']}", ["what", "bytes"], rows)
