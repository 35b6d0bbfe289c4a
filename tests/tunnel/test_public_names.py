"""The public names: listed once, all there, and free of charge until they are used."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import pytest

import tunnel

SOURCE = Path(tunnel.__file__)


def test_every_name_is_there_and_listed_in_its_module() -> None:
    for name in tunnel.__all__:
        home = import_module(tunnel._HOME[name])
        assert getattr(tunnel, name) is getattr(home, name)
        assert name in home.__all__
    assert sorted(tunnel.__all__) == sorted(tunnel._HOME)
    assert set(tunnel.__all__) <= set(dir(tunnel))


def test_type_checkers_see_the_same_names() -> None:
    seen: dict[str, str | None] = {}
    for node in ast.walk(ast.parse(SOURCE.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tunnel."):
            seen |= {alias.name: node.module for alias in node.names}
    assert seen == tunnel._HOME


def test_no_public_name_is_also_a_modules() -> None:
    # Importing tunnel.relay would put the module in the place of a public name `relay`.
    modules = {module.name for module in iter_modules([str(SOURCE.parent)])}
    assert modules.isdisjoint(tunnel.__all__)


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = tunnel.nothing


def test_routes_do_not_pay_for_tls_or_trio() -> None:
    code = (
        "import sys, tunnel\n"
        "tunnel.RouteTable, tunnel.parse_destination, tunnel.RefusalCode\n"
        "print({'trio', 'OpenSSL', 'h11', 'cryptography', 'ssl'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_tunnel_knows_neither_vault_nor_mdx() -> None:
    for path in SOURCE.parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not {name.split(".")[0] for name in names} & {"vault", "mdx", "keyring"}, path
