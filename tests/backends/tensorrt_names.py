"""Which names of TensorRT a module uses, read off its source, held against what a version's bindings offer.

A reader has no types, so the modules keep to a convention: the module TensorRT is called `trt`, and objects of its
classes have the names in `CLASSES`, as variables or as attributes, underscores in front aside. What is annotated as
something else than Any, or comes from a function of ours that is, is none of them. What a call or property of TensorRT
returns is followed into variables.

A use is guarded where it stands in an `if`, a ternary, an `and` or an `or` that asks `hasattr` for the very name.
"""

import ast
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

CLASSES = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "config": "IBuilderConfig",
    "timing": "ITimingCache",
    "plan": "IHostMemory",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
    "inspector": "EngineInspector",
    "layer": "ILayer",
    "tensor": "ITensor",
    "problem": "ParserError",
}
# TensorRT calls these by their names: one that is misspelt is never called.
OVERRIDES = {"ILogger": ("log",), "IProgressMonitor": ("phase_start", "step_complete", "phase_finish")}
# Enumerations whose members may be looked up by a name made at run time: here that of a GPU.
OPEN = ("ComputeCapability",)
Json = dict[str, Any]
Guards = frozenset[tuple[str, str]]


class Kind(NamedTuple):
    """What an expression is: the "module", a "class", an "object" of it, or something with a name to "call"."""

    what: str
    name: str = ""
    signatures: tuple[Any, ...] = ()


class Report(NamedTuple):
    missing: list[str]  # names that a version lacks, unguarded, and calls that it does not take
    misspelt: list[str]  # names that are asked for and that no version has
    used: set[str]


def mentions(source: str) -> bool:
    """Whether a module has to do with TensorRT at all."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Name, ast.Attribute, ast.arg)) and _word(node) == "trt":
            return True
        if isinstance(node, ast.Import) and any(alias.name == "tensorrt" for alias in node.names):
            return True
    return False


def check(sources: Mapping[str, str], surfaces: Mapping[str, Json]) -> Report:
    """Hold each source (path -> text) against each surface (version -> what its bindings offer)."""
    missing: list[str] = []
    misspelt: list[str] = []
    used: set[str] = set()
    trees = {path: ast.parse(source) for path, source in sources.items()}
    functions = [node for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    others = frozenset(node.name for node in functions if _foreign(node.returns))
    for path, tree in trees.items():
        asked: dict[tuple[int, str], bool] = {}
        for version, surface in surfaces.items():
            reader = _Reader(surface, tree, others)
            missing += [f"{path}:{line}: TensorRT {version}: {text}" for line, text in sorted(set(reader.faults))]
            used |= reader.used | {name for _, name in reader.asked}
            for key, there in reader.asked.items():
                asked[key] = asked.get(key, False) or there
        absent = sorted(key for key, there in asked.items() if not there)
        misspelt += [f"{path}:{line}: no version of TensorRT has {name}" for line, name in absent]
    return Report(missing, misspelt, used)


def _word(node: ast.expr | ast.arg) -> str:
    """The name that the convention speaks of."""
    name = {ast.Name: "id", ast.Attribute: "attr", ast.arg: "arg"}.get(type(node), "")
    return str(getattr(node, name, "")).lstrip("_")


def _foreign(annotation: ast.expr | None) -> bool:
    return annotation is not None and ast.unparse(annotation) not in ("Any", "Any | None", "object")


class _Scope:
    """What is bound to each name in one function or module: expressions, or None for what cannot be read."""

    def __init__(self, node: ast.AST, others: frozenset[str]) -> None:
        self.bound: dict[str, list[ast.expr | None]] = {}
        self.other: set[str] = set()  # names of what is not TensorRT's
        self._others = others  # functions that give such things
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            given = node.args
            for arg in [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]:
                if arg is not None:
                    self._bind(arg.arg, None, arg.annotation)
        body = node.body if isinstance(node.body, list) else [node.body]  # type: ignore[attr-defined]
        for child in body:
            self._read(child)

    def _read(self, node: ast.AST) -> None:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            self._bind(node.name, None)
            return
        if isinstance(node, ast.Lambda):
            return
        if isinstance(node, ast.Assign):
            for target in node.targets:
                self._target(target, node.value)
        elif isinstance(node, ast.AnnAssign):
            self._target(node.target, node.value, node.annotation)
        elif isinstance(node, ast.NamedExpr):
            self._target(node.target, node.value)
        elif isinstance(node, (ast.For, ast.AsyncFor, ast.comprehension)):
            self._target(node.target, ast.Subscript(node.iter, ast.Constant(0)))
        elif isinstance(node, ast.withitem) and node.optional_vars is not None:
            self._target(node.optional_vars, None)
        elif isinstance(node, ast.AugAssign):
            self._target(node.target, None)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name == "tensorrt":
                    self._bind(alias.asname or alias.name, ast.Name("trt"))
        for child in ast.iter_child_nodes(node):
            self._read(child)

    def _target(self, target: ast.expr, value: ast.expr | None, annotation: ast.expr | None = None) -> None:
        if isinstance(target, ast.Name):
            self._bind(target.id, value, annotation)
        elif isinstance(target, (ast.Tuple, ast.List)):
            parts = value.elts if isinstance(value, (ast.Tuple, ast.List)) else []
            for place, part in enumerate(target.elts):
                self._target(part, parts[place] if len(parts) == len(target.elts) else None)

    def _bind(self, name: str, value: ast.expr | None, annotation: ast.expr | None = None) -> None:
        called = value.func if isinstance(value, ast.Call) else None
        if _foreign(annotation) or (isinstance(called, ast.Name) and called.id in self._others):
            self.other.add(name)
        self.bound.setdefault(name, []).append(value)


class _Reader(ast.NodeVisitor):
    """One module against one version."""

    def __init__(self, surface: Json, tree: ast.Module, others: frozenset[str]) -> None:
        self.names: Json = surface["names"]
        self.classes: Json = surface["classes"]
        self.faults: list[tuple[int, str]] = []
        self.asked: dict[tuple[int, str], bool] = {}  # names in hasattr and getattr, and whether they are there
        self.used: set[str] = set()
        self._guards: list[Guards] = []
        self._others = others
        self._scopes = [_Scope(tree, others)]
        self._following: set[str] = set()
        self.visit(tree)

    # What an expression is.

    def kind(self, node: ast.AST) -> Kind | None:
        if isinstance(node, ast.Name):
            return self._kind_of_name(node)
        if isinstance(node, ast.Attribute):
            owner = self.kind(node.value)
            return self._kind_of_member(owner, node.attr) if owner else self._by_convention(node)
        if isinstance(node, ast.Call):
            return self._kind_of_call(node)
        if isinstance(node, ast.Subscript):
            return _returned(self._kind_of_member(self.kind(node.value), "__getitem__"))
        if isinstance(node, ast.NamedExpr):
            return self.kind(node.value)
        if isinstance(node, (ast.IfExp, ast.BoolOp)):
            return self._common([node.body, node.orelse] if isinstance(node, ast.IfExp) else node.values)
        return None

    def _kind_of_name(self, node: ast.Name) -> Kind | None:
        for scope in reversed(self._scopes):
            if node.id in scope.bound:
                if node.id in scope.other:
                    return None
                if found := self._by_convention(node):
                    return found
                if node.id in self._following:  # x = x.y
                    return None
                self._following.add(node.id)
                try:
                    return self._common(scope.bound[node.id])
                finally:
                    self._following.discard(node.id)
        return self._by_convention(node)

    def _by_convention(self, node: ast.expr) -> Kind | None:
        word = _word(node)
        return Kind("module") if word == "trt" else Kind("object", CLASSES[word]) if word in CLASSES else None

    def _common(self, nodes: list[Any]) -> Kind | None:
        """The one kind that all of them have; a None in the source is left out."""
        kinds = {
            self.kind(node) if node is not None else None
            for node in nodes
            if not (isinstance(node, ast.Constant) and node.value is None)
        }
        return kinds.pop() if len(kinds) == 1 else None

    def _kind_of_call(self, node: ast.Call) -> Kind | None:
        if asked := _attribute_by_text(node):
            owner, name = self.kind(asked[0]), asked[1]
            return self._kind_of_member(owner, name) if name is not None and asked[2] != "hasattr" else None
        callee = self.kind(node.func)
        return Kind("object", callee.name) if callee and callee.what == "class" else _returned(callee)

    def _kind_of_member(self, owner: Kind | None, name: str) -> Kind | None:
        found = self._member(owner, name) if owner else None
        if not owner or not found:
            return None
        if "class" in found:
            return Kind("class", found["class"])
        if "of" in found:
            return Kind("object", found["of"])
        signatures = [(signature["parameters"], signature["returns"]) for signature in found.get("signatures", [])]
        if owner.what == "object":
            signatures = [(given[given[:1] == [["self", True]] :], back) for given, back in signatures]
        frozen = tuple((tuple(map(tuple, given)), back) for given, back in signatures)
        return Kind("call", _label(owner, name), frozen)

    def _member(self, owner: Kind, name: str) -> Json | None:
        if owner.what == "module":
            found: Json | None = self.names.get(name)
        else:
            found = {} if owner.what == "call" else self.classes.get(owner.name, {}).get(name)
        return found

    # What the source does with it.

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self._use(node, node.value, node.attr)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if asked := _attribute_by_text(node):
            owner, name, how = asked
            kind = self.kind(owner)
            if kind and name is None and kind.name not in OPEN:
                self._fault(node, f"{ast.unparse(node)} does not write out the name, so no version can be checked")
            elif kind and name and how in ("hasattr", "getattr with a default"):
                key = node.lineno, _label(kind, name)
                self.asked[key] = self.asked.get(key, False) or self._member(kind, name) is not None
            elif name:
                self._use(node, owner, name)
        elif callee := self.kind(node.func):
            self._check_arguments(node, callee)
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        found = self.kind(node.value)
        for target in node.targets:
            named = self.kind(target) if isinstance(target, (ast.Name, ast.Attribute)) else None
            by_name = self._by_convention(target)
            if found and found.what == "object" and named and named == by_name and found != named:
                missing = set(self.classes.get(named.name, ())) - set(self.classes[found.name])
                if missing or named.what == "module":
                    self._fault(node, f"{ast.unparse(target)} holds {found.name}; its name says {named.name or 'trt'}")
        self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        methods = {item.name: item for item in node.body if isinstance(item, ast.FunctionDef)}
        for base in filter(None, map(self.kind, node.bases)):
            if base.what != "class":
                continue
            for name in OVERRIDES.get(base.name, ()):
                if name not in methods:
                    self._fault(node, f"{node.name} lacks {name}, which {base.name} is asked for")
            for name, method in methods.items():
                found = self._kind_of_member(base, name) if not name.startswith("_") else None
                given = len(method.args.posonlyargs + method.args.args)
                if found and found.signatures and all(len(wanted) != given for wanted, _ in found.signatures):
                    wanted = ", ".join(name for name, _ in found.signatures[0][0])
                    self._fault(method, f"{found.name} is called with ({wanted})")
        self.generic_visit(node)

    def visit_FunctionDef(self, node: Any) -> None:
        self._scopes.append(_Scope(node, self._others))
        self.generic_visit(node)
        self._scopes.pop()

    visit_AsyncFunctionDef = visit_Lambda = visit_FunctionDef  # noqa: N815

    def visit_If(self, node: Any) -> None:
        self.visit(node.test)
        for guards, part in ((_granted(node.test), node.body), (_denied(node.test), node.orelse)):
            with self._guarded(guards):
                for child in part if isinstance(part, list) else [part]:
                    self.visit(child)

    visit_IfExp = visit_If  # noqa: N815

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        known: Guards = frozenset()
        for value in node.values:
            with self._guarded(known):
                self.visit(value)
            known |= _granted(value) if isinstance(node.op, ast.And) else _denied(value)

    @contextmanager
    def _guarded(self, guards: Guards) -> Iterator[None]:
        self._guards.append(guards)
        yield
        self._guards.pop()

    def _use(self, node: ast.expr, owner: ast.expr, name: str) -> None:
        kind = self.kind(owner)
        if not kind or kind.what == "call":
            return
        self.used.add(_label(kind, name))
        guarded = any((ast.unparse(owner), name) in guards for guards in self._guards)
        if self._member(kind, name) is None and not guarded:
            self._fault(node, f"no {_label(kind, name)}")

    def _check_arguments(self, node: ast.Call, callee: Kind) -> None:
        if callee.what == "class":
            callee = self._kind_of_member(Kind("object", callee.name), "__init__") or callee
        keywords = [keyword.arg for keyword in node.keywords]
        if not callee.signatures or None in keywords or any(isinstance(arg, ast.Starred) for arg in node.args):
            return
        if not any(_fits(wanted, len(node.args), keywords) for wanted, _ in callee.signatures):
            takes = " or ".join(f"({', '.join(name for name, _ in wanted)})" for wanted, _ in callee.signatures)
            self._fault(node, f"{callee.name} takes {takes}, not {ast.unparse(node)}")

    def _fault(self, node: Any, text: str) -> None:
        self.faults.append((node.lineno, text))


def _label(owner: Kind, name: str) -> str:
    return f"{owner.name or 'trt'}.{name}"


def _returned(callee: Kind | None) -> Kind | None:
    """What a call gives, if all overloads give the same class."""
    given = {back for _, back in callee.signatures} if callee else set()
    return Kind("object", str(*given)) if len(given) == 1 and None not in given else None


def _attribute_by_text(node: ast.Call) -> tuple[ast.expr, str | None, str] | None:
    """hasattr, getattr, setattr: of what, which name (None: not written out), and how."""
    how = node.func.id if isinstance(node.func, ast.Name) else ""
    if how not in ("hasattr", "getattr", "setattr") or len(node.args) < 2:
        return None
    if how == "getattr" and len(node.args) == 3:
        how = "getattr with a default"
    owner, name = node.args[:2]
    return owner, str(name.value) if isinstance(name, ast.Constant) else None, how


def _granted(test: ast.expr) -> Guards:
    """What is known to be there where `test` holds."""
    if isinstance(test, ast.Call) and (asked := _attribute_by_text(test)) and asked[2] == "hasattr" and asked[1]:
        return frozenset({(ast.unparse(asked[0]), asked[1])})
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return _denied(test.operand)
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
        return frozenset().union(*map(_granted, test.values))
    return frozenset()


def _denied(test: ast.expr) -> Guards:
    """What is known to be there where `test` does not hold."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return _granted(test.operand)
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.Or):
        return frozenset().union(*map(_denied, test.values))
    return frozenset()


def _fits(wanted: tuple[tuple[str, bool], ...], positional: int, keywords: list[str | None]) -> bool:
    rest = wanted[positional:]
    return (
        positional <= len(wanted)
        and set(keywords) <= {name for name, _ in rest}
        and all(name in keywords for name, needed in rest if needed)
    )
