"""The command `edgeskin train`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from edgeskin import env, out
from edgeskin.cli_options import Json, Threads
from edgeskin.errors import EdgeskinError


def add_commands(app: typer.Typer) -> None:
    """Enter the command beside those of the program itself."""
    app.command("train")(train)


def train(
    root: Annotated[Path, typer.Option(help="Where the data set lies.")],
    folder: Annotated[Path, typer.Option("--out", help="Folder of the run.")],
    data: Annotated[str, typer.Option(help="Data set: milk10k, derm7pt or csv; or a recipe's.")] = "",
    recipe: Annotated[str, typer.Option(help="Training recipe: a name or a .toml; options come before it.")] = "",
    backbone: Annotated[
        str, typer.Option(help="Any timm model with a feature pyramid (tf_efficientnet_lite0); see `edgeskin models`.")
    ] = "",
    weights: Annotated[str, typer.Option(help="First weights: a .safetensors or .pth file, or `scratch`.")] = "",
    schema: Annotated[str, typer.Option(help="Task schema: a name or a .toml; empty: the data set's own.")] = "",
    border_px: Annotated[int | None, typer.Option(help="Pixels cut from each side of every image (0).", min=0)] = None,
    modalities: Annotated[
        str, typer.Option(help="both, dermoscopic or clinical (both); one alone is to compare with.")
    ] = "",
    encoders: Annotated[str, typer.Option(help="shared, or separate: one a modality, to compare with (shared).")] = "",
    attention: Annotated[
        str, typer.Option(help="shared, or separate: one a direction and stage, to compare with (shared).")
    ] = "",
    attention_stages: Annotated[
        str, typer.Option(help="Stages after which the images exchange: `-2,-1` (the default), or `none`.")
    ] = "",
    attention_dim: Annotated[int | None, typer.Option(help="Width of the attention (64).", min=8)] = None,
    attention_reduction: Annotated[
        float | None, typer.Option(help="Instead: channels of the coarsest stage divided by this.", min=1)
    ] = None,
    fused_head: Annotated[
        bool | None, typer.Option("--fused-head/--no-fused-head", help="A third classifier, of both images (none).")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Times every pair is seen (8).", min=1)] = None,
    size: Annotated[int | None, typer.Option(help="Side of the network's frames in pixels (224).", min=32)] = None,
    train_size: Annotated[int | None, typer.Option(help="Side of the training crops at the end (192).", min=32)] = None,
    start_size: Annotated[
        int | None, typer.Option(help="Side of the training crops in the first epochs (128).", min=32)
    ] = None,
    batch_pairs: Annotated[int | None, typer.Option(help="Pairs in a batch of each process (32).", min=2)] = None,
    accumulate: Annotated[int | None, typer.Option(help="Batches whose gradients make one step (1).", min=1)] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Highest rate of AdamW (0.001).", min=0)] = None,
    clinical_weight: Annotated[
        float | None, typer.Option(help="a of the biased loss, 0..1 (0.5); 1 treats both alike.", min=0, max=1)
    ] = None,
    fused_weight: Annotated[float | None, typer.Option(help="b of the loss, with --fused-head (1).", min=0)] = None,
    modality_dropout: Annotated[
        float | None, typer.Option(help="Share trained without clinical image (0.15).", min=0)
    ] = None,
    class_weighting: Annotated[
        str, typer.Option(help="Weight of a class of n lesions: none, sqrt (1 / sqrt n) or inverse (none).")
    ] = "",
    logit_adjustment: Annotated[
        float | None, typer.Option(help="tau of tau * log(share of the class) (0.5).", min=0)
    ] = None,
    teacher: Annotated[
        Path | None, typer.Option(help="Run of a trained network to learn from too: distillation.")
    ] = None,
    distillation: Annotated[
        float | None, typer.Option(help="Share of the teacher's part in the loss (0.5).", min=0, max=1)
    ] = None,
    calibration: Annotated[float | None, typer.Option(help="Share of lesions with that role (0.04).", min=0)] = None,
    control: Annotated[float | None, typer.Option(help="Share of lesions with that role (0.06).", min=0)] = None,
    test: Annotated[float | None, typer.Option(help="Share of lesions with that role (0.09).", min=0)] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything drawn (0); roles too.", min=0)] = None,
    role_seed: Annotated[
        int | None, typer.Option(help="Seed of the roles alone: other --seed, same lesions (--seed).", min=0)
    ] = None,
    threads: Threads = 0,
    workers: Annotated[int | None, typer.Option(help="Processes that augment images (1).", min=0)] = None,
    accelerator: Annotated[str, typer.Option(help="auto, cpu or gpu.")] = "",
    devices: Annotated[int | None, typer.Option(help="Processes or GPUs that train together (1).", min=1)] = None,
    json: Json = False,
) -> None:
    """Train the shared network on pairs. Run it again after a kill: it resumes."""
    # torch's own remark, from each process, that it looks for weights without a gradient: some batches have them.
    env.preset(TORCH_CPP_LOG_LEVEL="ERROR")
    from edgeskin import catalog, chain
    from edgeskin.spec import train as spec

    start: dict[str, Any] = catalog.training_recipe(recipe).model_dump(mode="json") if recipe else {}
    source, network, plan = start.get("data", {}), start.get("network", {}), start.get("train", {})
    shares = dict(calibration=calibration, control=control, test=test, seed=seed if role_seed is None else role_seed)
    source |= {"root": str(root)} | _given(dict(name=data, schema_name=schema, border_px=border_px))
    source["roles"] = source.get("roles", {}) | _given(shares)
    network |= _given(dict(backbone=backbone, modalities=modalities, encoders=encoders, attention=attention))
    network |= _given(dict(attention_dim=attention_dim, attention_reduction=attention_reduction, fused_head=fused_head))
    if attention_stages:
        network["attention_stages"] = _stages(attention_stages)
    plan |= _given(dict(epochs=epochs, size=size, train_size=train_size, start_size=start_size, seed=seed))
    plan |= _given(dict(batch_pairs=batch_pairs, accumulate=accumulate, learning_rate=learning_rate))
    plan |= _given(dict(clinical_weight=clinical_weight, fused_weight=fused_weight, modality_dropout=modality_dropout))
    plan |= _given(dict(class_weighting=class_weighting, logit_adjustment=logit_adjustment, distillation=distillation))
    plan |= _given(dict(teacher=str(teacher or ""), workers=workers, accelerator=accelerator, devices=devices))
    if threads:
        plan["threads"] = threads
    if not source.get("name"):
        raise EdgeskinError(
            "no data set is named", got="neither --data nor --recipe", fix="--data milk10k, derm7pt or csv"
        )
    network.setdefault("backbone", "tf_efficientnet_lite0")
    asked = spec.NetworkSpec.parse(network, "the options")
    if fused_weight is not None and not asked.fused_head:
        raise EdgeskinError("--fused-weight is of a fused head", got="a network without one", fix="--fused-head too")
    first = env.rank() == 0  # of the processes that train together; it alone speaks
    out.configure(json_output=json, quiet=not first)
    record = chain.train(
        spec.DataSpec.parse(source, "the options"),
        asked,
        spec.TrainSpec.parse(plan, "the training options"),
        weights or start.get("weights", ""),
        folder,
    )
    if not first:
        return
    out.result(record.to_json())
    out.line(f"{folder}: {record.parameters / 1e6:.2f} M parameters, first weights: {record.weights_source}")
    out.table("control role", ["metric", "value"], [(k, f"{v:.4f}") for k, v in record.control_metrics.items()])


def _given(options: Mapping[str, object]) -> dict[str, object]:
    """The options that were set: neither absent nor empty."""
    return {name: value for name, value in options.items() if value is not None and value != ""}


def _stages(text: str) -> list[int]:
    """`-2,-1` -> [-2, -1]; `none` -> []."""
    if text == "none":
        return []
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise EdgeskinError(
            "attention stages are whole numbers, or none", got=text, possible="-2,-1 or 0,1,2 or none"
        ) from None
