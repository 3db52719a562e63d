"""Imports go one way: cli, daemon, {cluster, config, control, system}, engine, protocol; the lab stands on them all."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# From the lowest layer to the highest. A module belongs to the group with the longest matching name; groups of one
# layer do not know each other.
LAYERS: list[set[str]] = [
    {"centipede.errors", "centipede.protocol.drops"},
    {"centipede.protocol"},
    {"centipede.engine"},
    {"centipede.cluster", "centipede.config", "centipede.control", "centipede.system", "centipede.log"},
    {"centipede.daemon"},
    {"centipede.cli"},
]
BELONGS = {
    "centipede.__main__": "centipede.cli",
    "centipede.fields": "centipede.config",
    "centipede.keyfile": "centipede.config",
    "centipede.place": "centipede.config",
    "centipede.tls": "centipede.config",
    "centipede.clusterconfig": "centipede.config",
    "centipede.summary": "centipede.daemon",
    "centipede.show": "centipede.daemon",
    "centipede.changes": "centipede.daemon",
    "centipede.names": "centipede.daemon",
    "centipede.listening": "centipede.daemon",
    "centipede.tunnel": "centipede.daemon",
    "centipede.background": "centipede.daemon",
    "centipede": "centipede.errors",
}
IMPURE = {"socket", "time", "threading", "logging", "os", "random", "secrets", "select", "selectors", "subprocess"}


def modules(package: str) -> list[str]:
    paths = (ROOT / package).rglob("*.py")
    return sorted(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in paths)


def imports(module: str) -> set[str]:
    """Names of all modules that ``module`` imports anywhere in its source, also within functions."""
    path = ROOT / Path(*module.split("."))
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    found: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} uses a relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULES else str(node.module))
    return found


MODULES = set(modules("centipede")) | set(modules("lab"))


def group(module: str) -> str:
    if module in BELONGS:
        return BELONGS[module]
    names = {name for layer in LAYERS for name in layer}
    while module not in names:
        assert "." in module, f"{module} belongs to no layer: add it to this test"
        module = module.rpartition(".")[0]
    return module


def layer(of: str) -> int:
    return next(index for index, groups in enumerate(LAYERS) if of in groups)


@pytest.mark.parametrize("module", modules("centipede"))
def test_a_module_imports_only_from_layers_below(module: str) -> None:
    own = group(module)
    for imported in imports(module):
        if imported.split(".")[0] == "lab":
            pytest.fail(f"{module} imports {imported}: the lab is built on Centipede, not the other way round")
        if imported.split(".")[0] != "centipede":
            continue
        other = group(imported)
        assert other == own or layer(other) < layer(own), f"{module} ({own}) imports {imported} ({other})"


@pytest.mark.parametrize("module", ["centipede.errors", "centipede.protocol.drops"])
def test_the_lowest_modules_import_nothing_of_the_project(module: str) -> None:
    assert not {name for name in imports(module) if name.startswith(("centipede", "lab"))}


@pytest.mark.parametrize("module", modules("centipede/protocol"))
def test_the_protocol_is_pure(module: str) -> None:
    assert not {name for name in imports(module) if name.split(".")[0] in IMPURE}


def test_pyroute2_is_used_in_two_places() -> None:
    users = {module for module in modules("centipede") if any(name.startswith("pyroute2") for name in imports(module))}
    assert users == {"centipede.system.links", "centipede.system.detour"}
