"""Modules of other packages are changed in one file only, where each change says for which version it was made."""

from __future__ import annotations

from pathlib import Path

import pytest
from foreign_changes import changed_modules

ROOT = Path(__file__).parents[2]
PACKAGES = ("datacomp_core", "tasks", "flows", "deployments")
BENCHMARKS = tuple(path.stem for path in (ROOT / "benchmarks").glob("*.py"))  # they import one another by these names
PATCHES = {
    "datacomp_core/library_patches.py": "the one file for them",
    "datacomp_core/external_code.py": "its modules are files that a user gives, which no import system knows",
}


def test_no_module_of_another_package_is_changed() -> None:
    """In the product, and in benchmarks, whose figures would be of another library."""
    for path in sorted(path for folder in (*PACKAGES, "benchmarks") for path in (ROOT / folder).rglob("*.py")):
        name = str(path.relative_to(ROOT))
        found = changed_modules(path.read_text(), (*PACKAGES, *(BENCHMARKS if path.parts[-2] == "benchmarks" else ())))
        assert not found or name in PATCHES, f"{name} changes {', '.join(found)}: patches are in datacomp_core/library_patches.py"


def test_the_files_with_patches_are_known_by_what_they_change() -> None:
    """The list is as short as it can be, and the analysis finds in the real files what stands there."""
    for name in PATCHES:
        assert changed_modules((ROOT / name).read_text(), PACKAGES), f"{name} changes nothing: take it off the list"


ATTRIBUTES = [
    "import torch\ntorch.backends.cudnn.benchmark = True",
    "import torch.nn as nn\nnn.Linear = None",
    "import torch.nn\ntorch.load = None",
    "from img2dataset import downloader as theirs\ntheirs.fetch, a = 1, 2",
    "from PIL import Image\ndel Image.open",
    "import torch\ntorch.nn.Linear.forward = None",
    "import torch\ntorch.seen += 1",
    "import torch\ntorch.load: object = None",
    "import torch\nfor torch.load in [None]: pass",
    "import torch\nwith open('a') as torch.load: pass",
    "import torch\n[torch.load, *torch.rest] = 1, 2",
    "import torch\n[1 for torch.load in [None]]",
    "def f():\n    import torch\n    torch.load = None",
    "import torch\nclass A:\n    torch.load = None",
    "import builtins\nbuiltins.print = None",
    "import os\nos.environ = {}",
    "def f():\n    async def g():\n        import torch\n        torch.load = None",
    "import torch\ntorch.nn.Linear.forward.__globals__['math'] = None",
]
SETATTR = [
    "import os\nsetattr(os.path, 'join', None)",
    "import os\ndelattr(os.path, 'join')",
    "import os\nobject.__setattr__(os, 'sep', None)",
    "import os\ntype.__setattr__(os.PathLike, 'a', None)",
    "import os\nos.__setattr__('sep', None)\nsetattr(os, 'sep', None)",
    "import os, builtins\nbuiltins.setattr(os, 'sep', None)",
    "import os\ns = setattr\ns(os, 'sep', None)",
    "import torch\nfrom functools import partial\npartial(setattr, torch, 'load')(None)",
    "import functools, torch\nfunctools.partial(delattr, torch)('load')",
    "import functools, torch\nfunctools.partial(object.__setattr__, torch, 'load')(None)",
    "import torch\nlist(map(setattr, [torch], ['load'], [None]))",
    "import torch\nfrom itertools import starmap\nlist(starmap(setattr, [(torch, 'load', None)]))",
    "import torch\ns = setattr\nlist(map(s, (torch,), ['load'], [None]))",
    "import torch\nfor m, name in [(torch, 'load')]:\n    setattr(m, name, None)",
    "import torch\nf = lambda: setattr(torch, 'load', None)",
]
ENTRIES = [
    "import sys\nsys.modules['torch'] = None",
    "import sys\nsys.modules.setdefault('torch', None)",
    "import sys\nsys.modules |= {'torch': None}",
    "from sys import modules\nmodules |= {'torch': None}",
    "import sys as system\nsystem.modules['torch'] = None",
    "from sys import modules\nmodules['torch'] = None",
    "from sys import modules as them\nthem.update(torch=None)",
    "import sys\ndel sys.modules['torch']",
    "import sys\ndict.update(sys.modules, torch=None)",
    "import sys\ndict.__setitem__(sys.modules, 'torch', None)",
    "import operator, sys\noperator.setitem(sys.modules, 'torch', None)",
    "from operator import setitem\nimport sys\nsetitem(sys.modules, 'torch', None)",
    "from operator import delitem as drop\nimport sys\ndrop(sys.modules, 'torch')",
    "import operator, sys\noperator.ior(sys.modules, {'torch': None})",
    "import operator, sys\nfrom functools import partial\npartial(operator.setitem, sys.modules)('torch', None)",
    "import sys\nfrom functools import partial\npartial(dict.update, sys.modules)(torch=None)",
    "import torch\ntorch.nn.REG['a'] = 1",
    "import torch\ntorch.nn.REG['a']['b'] = 1",
    "import torch\ntorch.nn.REG['a'].b = 1",
    "import torch\ntorch.nn.REG['a'] += 1",
    "import torch\ndel torch.nn.REG['a']",
    "import torch\ntorch.nn.REG.update(a=1)",
    "import torch\ntorch.nn.REG.pop('a')",
    "import torch\ntorch.nn.REG['a'].append(1)",
    "import torch\ntorch.nn.LIST[:] = []",
    "import torch\ntorch.nn.LIST.append(1)",
    "import torch\ntorch.nn.LIST += [1]",
    "from open_clip.factory import _MODEL_CONFIGS\n_MODEL_CONFIGS['a'] = {}",
    "from open_clip.factory import _MODEL_CONFIGS as known\nknown.update(a={})",
    "from open_clip.factory import NAMES\nNAMES += ['a']",
    "import torch\nmine = torch.nn.REG\nmine['a'] = 1",
    "import warnings\nwarnings.filters.insert(0, None)",
    "import torch\nvars(torch)['load'] = None",
    "import torch\nvars(torch).update(load=None)",
    "import torch\nnames = vars(torch)\nnames['load'] = None",
    "import torch\nvars(torch.nn)['Linear'] = None",
    "import torch\ntorch.__dict__['load'] = None",
    "import torch\ntorch.__dict__.update(load=None)",
    "import operator, torch\noperator.setitem(vars(torch), 'load', None)",
    "__builtins__['open'] = None",
]
OTHER_NAMES = [
    "import sys\nsetattr(sys.modules['torch'], 'a', 1)",
    "import sys\nsys.modules['torch'].a = 1",
    "import sys\nm = sys.modules['torch']\nm.load = None",
    "import sys\nsys.modules.get('torch').load = None",
    "import sys\nsys.modules.__getitem__('torch').load = None",
    "import torch\nm = torch\nm.load = None",
    "import torch\nm = torch.nn\nn = m\nn.Linear = None",
    "import importlib\nimportlib.import_module('torch').load = None",
    "import importlib\nimportlib.reload(importlib.import_module('torch')).load = None",
    "from importlib import import_module\nm = import_module('torch')\nm.load = None",
    "import importlib\nload = importlib.import_module\nload('torch').load = None",
    "import inspect\ninspect.getmodule(print).load = None",
    "__import__('torch').load = None",
    "import torch\ngetattr(torch, 'nn').Linear = None",
    "import torch\nm: object = torch\nm.load = None",
    "import torch\nm = n = torch\nn.load = None",
    "import torch\nm, n = torch, 1\nm.load = None",
    "import torch\n(m := torch).load = None",
    "import torch\nif m := torch:\n    m.load = None",
    "import torch\nfor m in (torch, torch.nn):\n    m.load = None",
    "import torch\nwith torch as m:\n    m.load = None",
    "import torch\ndef f(a, m=torch):\n    m.load = None",
    "import torch\ndef f(a, *, m=torch):\n    m.load = None",
    "import torch\ndef f(torch=torch):\n    torch.load = None",
    "import torch\n(torch if f() else None).load = None",
    "import torch\nm = f() or torch\nm.load = None",
    "import torch\n[torch][0].load = None",
    "import torch\n{'a': torch}['a'].load = None",
    "import torch\nclass A:\n    m = torch\n    m.load = None",
    "import torch\nclass A:\n    def f(self):\n        self.m = torch\n        self.m.load = None",
    "class A:\n    def f(self):\n        import torch\n        self.m = torch\n    def g(self):\n        self.m.load = None",
    "import torch\ndef f():\n    m = torch\n    def g():\n        m.load = None",
    "import torch\ndef f():\n    global m\n    m = torch\n    m.load = None",
]
TOOLS = [
    "from unittest import mock\nmock.patch('torch.load')",
    "from unittest.mock import patch\nwith patch.object(object, 'a'): pass",
    "from unittest.mock import patch as change\nchange.dict('sys.modules', torch=None)",
    "import unittest.mock\nunittest.mock.patch('torch.load')",
    "from unittest import mock\n@mock.patch('torch.load')\ndef f(): pass",
    "from unittest.mock import patch\n@patch.multiple('torch', load=None)\nclass A: pass",
    "from unittest import mock\nchange = mock.patch\nchange('torch.load')",
    "from unittest import mock as m\nf(m.patch)",
    "import pytest\npytest.MonkeyPatch().setattr('torch.load', None)",
    "from pytest import MonkeyPatch as Other\nOther()",
    "from pytest import MonkeyPatch\nwith MonkeyPatch.context() as m: pass",
    "from _pytest.monkeypatch import MonkeyPatch\nMonkeyPatch()",
    "exec('import torch; torch.load = None')",
    "eval('setattr(torch, 1, 2)')",
    "import builtins\nbuiltins.exec('a')",
    "run = exec\nrun('a')",
    "def f():\n    return [eval(one) for one in g()]",
]
OURS = [
    "import os\nos.environ['A'] = 'b'\nos.environ.update(A='b')\nos.environ.pop('A')\ndel os.environ['A']",
    "import os\nos.environ |= {'A': 'b'}",
    "import sys\nsys.path.insert(0, 'a')\nsys.path += ['a']",
    "class Own: pass\nOwn.x = 1\nx = Own()\nx.y = 2\nsetattr(x, 'y', 3)\nx.z.w = {}",
    "x = Own()\nobject.__setattr__(x, 'y', 4)\nvars(x)['y'] = 5",
    "import torch\nmodel = torch.nn.Linear(1, 1)\nmodel.weight = None\nmodel.REG['a'] = 1\nmodel.eval()\nmodel.list.append(1)",
    "import numpy as np\na = np.append([1], 2)\nb = np.insert([1], 0, 2)\na[0] = 1\nb += [1]\nnp.ma.append(a, b)",
    "import math\nbest = math.inf\nbest -= 1",
    "import os\nos.remove('a')\nimport operator\noperator.add(1, 2)\noperator.setitem({}, 'a', 1)",
    "from functools import partial\nx = {}\npartial(setattr, x, 'y')(1)",
    "from functools import partial\nlist(map(setattr, [x], ['y'], [1]))\npartial(dict.update, x)",
    "import numpy as np\nlist(map(setattr, f(), ['y'], map(np.asarray, [1])))",
    "def f():\n    import torch\n    return torch\ndef g(torch):\n    torch.load = None",
    "from a import table\ndef f():\n    table = {}\n    table['a'] = 1\n    table.update(b=2)",
    "import torch\nclass A:\n    def f(self): self.m = torch\nclass B:\n    def f(self): self.m.load = None",
    "import torch\nclass A:\n    m = torch\n    def f(self, m):\n        m.load = None",
    "import torch\nfor m in f(torch):\n    m.load = None",
    "import torch\nf = lambda torch: setattr(torch, 'a', 1)",
    "from datacomp_core.clip import KNOWN\nKNOWN['a'] = 1",
    "from . import near\nnear.a = 1",
    "import re\npattern = re.compile('a')\npattern.evaluate('b')\nx.exec('a')\nspec.loader.exec_module(made)",
    "import sys\nfound = dict(sys.modules)\nfound['a'] = 1\nsys.modules.get('a')",
    "import copy, torch\nREG = dict(torch.nn.REG)\nREG['a'] = 1\ncopy.deepcopy(torch.nn.REG)['a'] = 1",
    "import numpy.typing as npt\nInts = npt.NDArray[int]\nx: Ints = f()\nx[0] = 1",
    "import torch\ntorch.set_num_threads(1)\ntorch.serialization.add_safe_globals([])",
    "import sys\nwords = sys.argv[1:]\nwords.pop(0)\nwords += ['a']",
    "def patch(): pass\npatch()\nx.patch('a')\nclient.patch('/a')",
]


@pytest.mark.parametrize("source", [*ATTRIBUTES, *SETATTR, *ENTRIES, *OTHER_NAMES, *TOOLS])
def test_a_change_of_another_module_would_be_seen(source: str) -> None:
    compile(source, "a snippet", "exec")
    assert changed_modules(source, PACKAGES)


@pytest.mark.parametrize("source", OURS)
def test_what_is_ours_may_be_changed(source: str) -> None:
    compile(source, "a snippet", "exec")
    assert changed_modules(source, PACKAGES) == []
