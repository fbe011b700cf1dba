"""Registries: one table a sort of thing that anybody may add to: filters, scores, recipes, evaluation tasks, protocols.

Three doors lead in: a decorator in this package, a decorator in an installed package that names its module as an entry point of
the group (`datacomp.filters`), and a decorator in a single file (`datacomp_core/external_code.py`). A table is filled when it is
first read, so that importing one filter loads nothing else.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import threading
from collections.abc import Iterator, Mapping
from typing import Any, Generic, TypeVar

from datacomp_core.errors import SpecError, unknown
from datacomp_core.external_code import code_of, is_ours, package_of, registers_in

T = TypeVar("T")
_loading = threading.RLock()


class Registry(Mapping[str, T], Generic[T]):
    """Names to things. `home` is the module whose import registers what this package ships. A module of the entry points `group`
    or `also` may register it: one module may have a filter and the recipes of it."""

    def __init__(self, noun: str, group: str, home: str, *also: str) -> None:
        self.noun, self.groups, self.home = noun, (group, *also), home
        self._known: dict[str, T] = {}
        self._modules: dict[str, str] = {}
        self._added: dict[str, dict[str, T]] = {}
        self._is_filled = False

    def add(self, name: str, thing: T, module: str) -> None:
        """Register a thing. A name of this package cannot be taken by others; a file that is loaded again replaces its own."""
        taken = self._modules.get(name, "")
        if taken and taken != module and is_ours(taken):
            raise SpecError(
                f"The {self.noun} {name!r} of {code_of(module)} has the name of one that exists: give yours another name."
            )
        packages = {package_of(taken), package_of(module)} if taken else set[str]()
        if len(packages) == 2 and all(packages):
            raise SpecError(
                f"The packages {' and '.join(sorted(packages))} both register the {self.noun} {name!r}: uninstall one."
            )
        registers_in(module)
        self._known[name] = thing
        self._modules[name] = module
        self._added.setdefault(module, {})[name] = thing

    def find(self, name: str) -> T:
        """SpecError names what is known."""
        if name not in self:
            raise unknown(self.noun, name, self)
        return self[name]

    def module_of(self, name: str) -> str:
        """The module that registered a thing."""
        return self._modules[name]

    def added_by(self, module: str) -> dict[str, T]:
        """Return what one module registered, in its order, even if another module has taken the name since."""
        return dict(self._added.get(module, {}))

    def of_code(self, name: str, code: str) -> T | None:
        """Return what external code with this identity registered under a name: one process may use two versions of a file."""
        self._fill()
        found = (things[name] for module, things in self._added.items() if name in things and code_of(module) == code)
        return next(found, None)

    def __getitem__(self, name: str) -> T:
        self._fill()
        return self._known[name]

    def __contains__(self, name: object) -> bool:
        self._fill()
        return name in self._known

    def __iter__(self) -> Iterator[str]:
        self._fill()
        return iter(list(self._known))

    def __len__(self) -> int:
        self._fill()
        return len(self._known)

    def _fill(self) -> None:
        if self._is_filled:
            return
        with _loading:
            if self._is_filled:
                return
            self._is_filled = True  # what is imported below may look something up
            try:
                importlib.import_module(self.home)
                installed = importlib.metadata.entry_points()
                for group in self.groups:
                    for entry in installed.select(group=group):
                        self._load(entry)
            except BaseException:
                self._is_filled = False
                raise

    def _load(self, entry: importlib.metadata.EntryPoint) -> None:
        try:
            entry.load()
        except (Exception, SystemExit) as problem:
            owner = entry.dist.name if entry.dist is not None else entry.value
            raise SpecError(
                f"The package {owner} offers {entry.group} ({entry.value}) and fails to load: "
                f"{type(problem).__name__}: {problem}. Correct it, or uninstall it."
            ) from problem


_FILTERS, _SCORES, _RECIPES = "datacomp.filters", "datacomp.scores", "datacomp.recipes"
FILTERS: Registry[Any] = Registry("filter kind", _FILTERS, "datacomp_core.filters", _SCORES, _RECIPES)
SCORES: Registry[Any] = Registry("score", _SCORES, "datacomp_core.scores", _FILTERS, _RECIPES)
RECIPES: Registry[Any] = Registry("recipe", _RECIPES, "datacomp_core.recipes", _FILTERS, _SCORES)
_PROTOCOLS, _TASKS = "datacomp.protocols", "datacomp.tasks"
PROTOCOLS: Registry[Any] = Registry("protocol", _PROTOCOLS, "datacomp_core.evaluation.protocols", _TASKS)
"""How a sort of test set is scored (evaluation/protocol.py)."""
TASKS: Registry[Any] = Registry("evaluation task", _TASKS, "datacomp_core.evaluation.custom", _PROTOCOLS)
"""Evaluation tasks beside those of the suites, by key (evaluation/custom.py)."""
