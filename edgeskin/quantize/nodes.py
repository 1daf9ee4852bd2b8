"""Which nodes of an exported graph a recipe keeps in floating point."""

import ast
import difflib
import re
from collections.abc import Iterable
from typing import Any

from edgeskin.errors import EdgeskinError

_SCOPES = "pkg.torch.onnx.name_scopes"


def labels(model: Any) -> dict[str, str]:
    """Node name -> label `module.path/OpType/node_name` of an onnx.ModelProto.

    The module path is that of the node's weight, e.g. `network.encoder.blocks.4.0.conv_dw`; without a named weight it
    is the one that the exporter noted, else that of the node before: an addition belongs to the block that it ends.
    """
    weights = {tensor.name for tensor in model.graph.initializer if tensor.name.endswith(".weight")}
    found, path = {}, ""
    for node in model.graph.node:
        named = [name.removesuffix(".weight") for name in node.input if name in weights]
        notes = {prop.key: prop.value for prop in node.metadata_props}
        scopes = ast.literal_eval(notes[_SCOPES]) if _SCOPES in notes else []
        noted = scopes[-2] if len(scopes) > 1 else ""  # the last scope is the operation itself
        path = named[0] if named else noted or path
        found[node.name] = f"{path}/{node.op_type}/{node.name}"
    return found


def block(label: str) -> str:
    """The part of a network that a label lies in: its module path up to the last number, or whole without one.

    >>> block("network.encoder.blocks.4.0.conv_dw/Conv/node_1"), block("network.encoder.conv_stem/Conv/node_0")
    ('network.encoder.blocks.4.0', 'network.encoder.conv_stem')
    """
    parts = label.split("/")[0].split(".")
    numbered = [place for place, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[: numbered[-1] + 1] if numbered else parts)


def pattern(path: str) -> str:
    """The keep_fp32 expression of everything under a module path.

    >>> [bool(re.search(pattern("blocks.1"), label)) for label in ("blocks.1.0.conv/Conv/n", "blocks.11/Add/n")]
    [True, False]
    """
    return f"^{re.escape(path)}[./]"


def kept(patterns: Iterable[str], labelled: dict[str, str], required: bool = True) -> set[str]:
    """Names of the nodes whose label matches one of the regular expressions (anywhere in it).

    `required` False lets a pattern match nothing, for a graph that lacks a part (the dermoscopic one has no exchange).

    Raises:
        EdgeskinError: not a regular expression, or one that matches nothing, with near labels.

    >>> found = {"n1": "encoder.conv_stem/Conv/n1", "n2": "encoder.blocks.0/Conv/n2"}
    >>> kept(["conv_stem"], found)
    {'n1'}
    """
    names: set[str] = set()
    for pattern in patterns:
        try:
            wanted = re.compile(pattern)
        except re.error as error:
            raise EdgeskinError(
                "not a regular expression in keep_fp32", got=f"{pattern}: {error}", fix="correct the recipe"
            ) from None
        matches = {name for name, label in labelled.items() if wanted.search(label)}
        if required and not matches:
            raise EdgeskinError(
                "keep_fp32 matches no node",
                got=pattern,
                possible=_near(pattern, labelled),
                fix="write a regular expression of module.path/OpType/node_name",
            )
        names |= matches
    return names


def _near(pattern: str, labelled: dict[str, str]) -> list[str]:
    """Labels, module paths and kinds of node that look like the pattern."""
    words = {word for label in labelled.values() for word in (label, *label.split("/")[:2]) if word}
    plain = re.sub(r"[\\^$()\[\]?+*|]", "", pattern)
    inside = {word.rsplit(".", 1)[-1]: word for word in sorted(words, reverse=True)}
    close = difflib.get_close_matches(plain, sorted(words), n=4, cutoff=0.5)
    close += [inside[w] for w in difflib.get_close_matches(plain.rsplit(".", 1)[-1], sorted(inside), n=4, cutoff=0.6)]
    return list(dict.fromkeys(close))[:5] or sorted({label.split("/")[1] for label in labelled.values()})


def same_origin(name: str, originals: set[str]) -> bool:
    """Whether a node is one of these, or was made out of one by an optimiser (`node_Conv_3/WithoutBiases`).

    >>> same_origin("node_MatMul_4/MatMulAddFusion", {"node_MatMul_4"})
    True
    >>> same_origin("/encoder/Conv/WithoutBiases", {"/encoder/Conv"})
    True
    """
    parts = name.split("/")
    return any("/".join(parts[:end]) in originals for end in range(1, len(parts) + 1))
