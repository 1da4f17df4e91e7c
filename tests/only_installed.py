"""Runs programs of ours as if only some distributions were installed; the child of tests/test_extras.py.

    python -m tests.only_installed '{"refused": ["yaml"], "runs": [...], "modules": ["cloud_inspect"], "left_out": []}'

No top-level module named in `refused` can be imported. Each of `runs`, a function `module:name` and its arguments, must
end with 0. Then `modules` are imported, and all below them but those that begin with one of `left_out`.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import sys
from importlib.abc import MetaPathFinder


class Refusing(MetaPathFinder):
    def __init__(self, names: set[str]) -> None:
        self.names = names

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def import_all(module: str, left_out: tuple[str, ...]) -> None:
    root = importlib.import_module(module)
    for found in pkgutil.walk_packages(getattr(root, "__path__", ()), f"{module}."):
        if not found.name.startswith(left_out) and not found.name.endswith(".__main__"):
            importlib.import_module(found.name)


def run(main: str, *arguments: str) -> None:
    module, _, name = main.partition(":")
    sys.argv = [module, *arguments]
    try:
        getattr(importlib.import_module(module), name)()
    except SystemExit as end:
        assert not end.code, (arguments, end.code)


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    sys.meta_path.insert(0, Refusing(set(asked["refused"])))
    for one in asked["runs"]:
        run(*one)
    for one in asked["modules"]:
        import_all(one, tuple(asked["left_out"]))
