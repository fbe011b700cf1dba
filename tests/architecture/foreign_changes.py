"""Finds where a source file changes modules of other packages: the analysis behind test_foreign_modules.py.

It reads the syntax only. A name is foreign if it is imported from another package, or stands for something that is (`m = torch`,
`vars(torch)`, `sys.modules["torch"]`, `importlib.import_module("torch").nn`); names are resolved scope by scope, so that a local
variable with the name of an import elsewhere in the file is not taken for it.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Collection, Iterator
from functools import cache
from itertools import pairwise

FREE = {"os.environ", "sys.path", "os.environb"}
"""Settings of the process, made to be changed."""
SETTERS = {"setattr", "delattr", "__setattr__", "__delattr__"}
ITEMS = {"setitem", "delitem", "iadd", "ior", "iconcat"}  # of `operator`
FILLERS = {"setdefault", "update", "pop", "popitem", "clear", "__setitem__", "__delitem__", "__ior__", "__iadd__"}
FILLERS |= {"append", "appendleft", "extend", "insert", "remove", "add", "discard", "sort", "reverse"}
BUILTINS = {name: f"builtins.{name}" for name in ("setattr", "delattr", "exec", "eval", "vars", "getattr", "__import__")}
PATCHING = re.compile(r"(^|\.)mock\.(patch\b|_patch)|\bMonkeyPatch(\.context)?$")
SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)

Names = dict[str, str]


def changed_modules(source: str, ours: Collection[str]) -> list[str]:
    """What a file does to modules of packages that are not `ours`, as it is written: attributes and entries that it assigns or
    deletes, `setattr` and its kin (also handed on to `partial` or `map`), methods that fill or empty a container of a module,
    `unittest.mock.patch` and pytest's monkeypatch, and `exec` and `eval`, which can do all of it unseen.
    """
    scopes = _scopes(ast.parse(source), {**BUILTINS, "__builtins__": "builtins"})
    made = [found for scope, names in scopes for node in _own(scope) for found in _changes(node, names, ours)]
    _own.cache_clear()  # it holds the trees
    return made


def _changes(node: ast.AST, names: Names, ours: Collection[str]) -> Iterator[str]:
    for target in _targets(node):
        if isinstance(target, ast.Attribute | ast.Subscript) and _foreign(target.value, names, ours):
            if not (isinstance(node, ast.AugAssign) and _thing(target, names) in FREE):
                yield ast.unparse(target)
        elif isinstance(target, ast.Name) and _grows(node) and _foreign(target, names, ours):
            yield ast.unparse(target)
    if isinstance(node, ast.Call):
        name = _full(node.func, names)
        last, given = name.rpartition(".")[2], node.args
        changes = bool(given) and _sets(name, names) and _foreign(given[0], names, ours)
        handed = _fills(node, last, names, ours) or _hands_on(given, names, ours)
        if changes or handed or name in {"builtins.exec", "builtins.eval"} or PATCHING.search(name):
            yield ast.unparse(node.func)
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and PATCHING.search(_full(node, names)):
        yield ast.unparse(node)


def _grows(node: ast.AST) -> bool:
    """Whether a statement fills a container in place: `modules |= ...`, `paths += [...]`."""
    literal = ast.List | ast.ListComp | ast.Dict | ast.DictComp | ast.Set
    return isinstance(node, ast.AugAssign) and (isinstance(node.op, ast.BitOr) or isinstance(node.value, literal))


def _sets(name: str, names: Names) -> bool:
    """Whether a function of this full name changes its first argument."""
    owner, _, last = name.rpartition(".")
    return last in SETTERS or (last in ITEMS and owner == "operator") or (owner in {"dict", "list", "set"} and last in FILLERS)


def _fills(call: ast.Call, last: str, names: Names, ours: Collection[str]) -> bool:
    """Whether a container of a foreign module is filled or emptied by its method; `numpy.append` is no such method."""
    if last not in FILLERS or not isinstance(call.func, ast.Attribute) or not _foreign(call.func.value, names, ours):
        return False
    owner = _thing(call.func.value, names)
    return "?" in owner or "[" in owner or not _is_module(owner)


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, AttributeError, ValueError):
        return False


def _hands_on(given: list[ast.expr], names: Names, ours: Collection[str]) -> bool:
    """`partial(setattr, torch, ...)`, `map(setattr, [torch], ...)`: a setter, and after it something of a foreign module."""
    for setter, after in pairwise(given):
        if isinstance(setter, ast.Name | ast.Attribute) and _sets(_full(setter, names), names):
            parts = after.elts if isinstance(after, ast.Tuple | ast.List | ast.Set) else [after]
            parts = [inner for one in parts for inner in (one.elts if isinstance(one, ast.Tuple | ast.List) else [one])]
            if any(_foreign(one, names, ours) for one in parts):
                return True
    return False


# -- scopes and names --------------------------------------------------------------------------------------------------


def _scopes(scope: ast.AST, outer: Names, attributes: Names | None = None) -> Iterator[tuple[ast.AST, Names]]:
    """Every scope with its names. A class's own names are not seen in its methods, and `self.m = torch` of one is in all."""
    names = {**(attributes or {}), **_named(scope, outer)}
    yield scope, names
    nested = [node for node in _own(scope) if isinstance(node, SCOPES)]
    if isinstance(scope, ast.ClassDef):
        found = [inner for node in nested for _, inner in _scopes(node, outer)]
        names, attributes = outer, {name: value for one in found for name, value in one.items() if "." in name}
    for node in nested:
        yield from _scopes(node, names, attributes)


@cache
def _own(scope: ast.AST) -> list[ast.AST]:
    """The nodes of a scope; a nested scope is one of them, what stands in it is not, but its decorators and defaults are."""
    found: list[ast.AST] = []
    waiting: list[ast.AST] = list(ast.iter_child_nodes(scope))
    if isinstance(scope, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        waiting = list(scope.body)
    elif isinstance(scope, ast.Lambda):
        waiting = [scope.body]
    while waiting:
        node = waiting.pop()
        found.append(node)
        if not isinstance(node, SCOPES):
            waiting += ast.iter_child_nodes(node)
            continue
        waiting += getattr(node, "decorator_list", [])
        if not isinstance(node, ast.ClassDef):
            waiting += [*node.args.defaults, *(one for one in node.args.kw_defaults if one is not None)]
    return found


def _named(scope: ast.AST, outer: Names) -> Names:
    """Names that stand for foreign things here: those of outside that are not bound again, imports, and other names of them."""
    local = _bound(scope)
    found = {name: value for name, value in outer.items() if name not in local}
    if isinstance(scope, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        _name(_aliases(scope.args), outer, found)  # a default is evaluated outside
    pairs: list[tuple[ast.expr, ast.expr]] = []
    for node in _own(scope):
        if isinstance(node, ast.Import):
            roots = {name.name.partition(".")[0]: name.name.partition(".")[0] for name in node.names if not name.asname}
            found |= roots | {name.asname: name.name for name in node.names if name.asname}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found |= {name.asname or name.name: f"{node.module}.{name.name}" for name in node.names}
        pairs += _aliases(node)
    for _ in range(3):  # another name of another name
        _name(pairs, found, found)
    return found


def _name(pairs: list[tuple[ast.expr, ast.expr]], known: Names, found: Names) -> None:
    for target, value in pairs:
        if isinstance(target, ast.Name | ast.Attribute) and (name := _thing(value, known)):
            found.setdefault(ast.unparse(target), name)


def _bound(scope: ast.AST) -> set[str]:
    """Names that a scope binds itself."""
    if isinstance(scope, ast.Module):
        return set()
    found, shared = set[str](), set[str]()
    if isinstance(scope, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        given = scope.args
        found = {one.arg for one in (*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg) if one}
    for node in _own(scope):
        if isinstance(node, ast.Global | ast.Nonlocal):
            shared |= set(node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
    return found - shared


def _aliases(node: ast.AST) -> list[tuple[ast.expr, ast.expr]]:
    """The names that a statement, a walrus, a loop over a literal or a default gives to values."""
    pairs: list[tuple[ast.expr, ast.expr]] = []
    if isinstance(node, ast.Assign):
        pairs = [(target, node.value) for target in node.targets]
    elif isinstance(node, ast.AnnAssign | ast.NamedExpr) and node.value is not None:
        pairs = [(node.target, node.value)]
    elif isinstance(node, ast.withitem) and node.optional_vars is not None:
        pairs = [(node.optional_vars, node.context_expr)]
    elif isinstance(node, ast.For | ast.comprehension) and isinstance(node.iter, ast.Tuple | ast.List | ast.Set):
        pairs = [(node.target, value) for value in node.iter.elts]
    elif isinstance(node, ast.arguments):
        named = [*node.posonlyargs, *node.args][-len(node.defaults) :] if node.defaults else []
        given = [*zip(named, node.defaults, strict=True), *zip(node.kwonlyargs, node.kw_defaults, strict=True)]
        pairs = [(ast.Name(argument.arg), value) for argument, value in given if value is not None]
    spread = [pair for pair in pairs if all(isinstance(one, ast.Tuple | ast.List) for one in pair)]
    pairs += [inner for target, value in spread for inner in zip(target.elts, value.elts, strict=False)]  # pyright: ignore
    return pairs


# -- expressions -------------------------------------------------------------------------------------------------------


def _full(node: ast.expr, names: Names) -> str:
    """The dotted name of an expression, from the module on that its first name is; as it is written where it has none."""
    return _thing(node, names) or ast.unparse(node)


def _thing(node: ast.AST, names: Names) -> str:
    """The module, or thing of one, that an expression is (`?` where it cannot be told which); empty if it is anything else."""
    match node:
        case ast.Name():
            return names.get(node.id, "")
        case ast.Attribute():
            inside = _thing(node.value, names)
            return f"{inside}.{node.attr}" if inside else names.get(ast.unparse(node), "")
        case ast.Call():
            return _of_call(node, names)
        case ast.Subscript(value=ast.Name() | ast.Attribute() | ast.Call(), slice=key) if not isinstance(key, ast.Slice):
            owner = _thing(node.value, names)
            return "?" if owner == "sys.modules" else f"{owner}[]" if owner and owner not in FREE else ""
    return next(filter(None, (_thing(value, names) for value in _choices(node))), "")


def _choices(node: ast.AST) -> list[ast.expr]:
    """What an expression can be one of: `m := a`, `a if c else b`, `a or b`, `[a, b][0]`, `{"x": a}["x"]`, `a["x"]["y"]`."""
    match node:
        case ast.NamedExpr(value=value) | ast.Subscript(value=ast.Subscript() as value):
            return [value]
        case ast.IfExp(body=body, orelse=orelse):
            return [body, orelse]
        case ast.Subscript(value=ast.Dict(values=values) | ast.Tuple(elts=values) | ast.List(elts=values)):
            return values
        case ast.BoolOp(values=values):
            return values
    return []


def _of_call(node: ast.Call, names: Names) -> str:
    name, given = _full(node.func, names), [one.value for one in node.args if isinstance(one, ast.Constant)]
    if name.endswith("import_module") or name in {"builtins.__import__", "pytest.importorskip"}:
        return str(given[0]) if given else "?"
    if name.startswith("sys.modules.") or name == "inspect.getmodule":
        return "?"
    if name in {"builtins.getattr", "builtins.vars", "importlib.reload"} and node.args:
        inside = _thing(node.args[0], names)
        return f"{inside}.__dict__" if inside and name.endswith("vars") else inside
    return ""


def _foreign(node: ast.expr, names: Names, ours: Collection[str]) -> bool:
    """Whether an expression is a thing of a foreign module."""
    name = _thing(node, names)
    return bool(name) and name not in FREE and re.split(r"[.\[]", name)[0] not in ours


def _targets(node: ast.AST) -> list[ast.expr]:
    """Everything that a statement writes to."""
    if isinstance(node, ast.Assign | ast.Delete):
        given = list(node.targets)
    elif isinstance(node, ast.AugAssign | ast.AnnAssign | ast.For | ast.AsyncFor | ast.comprehension):
        given = [node.target]
    elif isinstance(node, ast.withitem) and node.optional_vars is not None:
        given = [node.optional_vars]
    else:
        return []
    while nested := [one for one in given if isinstance(one, ast.Tuple | ast.List | ast.Starred)]:
        given = [one for one in given if one not in nested]
        given += [inner for one in nested for inner in ([one.value] if isinstance(one, ast.Starred) else one.elts)]
    return given
