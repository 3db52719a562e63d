"""The pages for people: configurations they show are accepted, and what they link to, or the code cites, is there."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from centipede.config import load_config
from centipede.protocol.identity import Identity

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("*/README.md"),
        *ROOT.glob("tests/*/README.md"),
        *ROOT.glob("results/*/*/README.md"),
    ]
)
SHOWN = [
    pytest.param(block, id=f"{page.relative_to(ROOT)}-{number}")
    for page in PAGES
    for number, block in enumerate(re.findall(r"```toml\n(.*?)```", page.read_text(), re.DOTALL), 1)
]
CODE = [
    path
    for part in ("centipede", "lab", "tests")
    for path in ROOT.glob(f"{part}/**/*")
    if path.suffix in {".py", ".c", ".h"} and path.name != "_native.c"
]
CITED = re.compile(r'(docs/[a-z-]+\.md) "([^"]+)"')
OWN, PEER = (Identity.from_seed(bytes([number]) * 32) for number in (1, 2))


def titles(page: Path) -> list[str]:
    return re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)


@pytest.mark.parametrize("shown", SHOWN)
def test_a_configuration_that_is_shown_is_accepted(shown: str, tmp_path: Path) -> None:
    interface = tomllib.loads(shown)["interface"]
    key = tmp_path / interface.get("private_key_file", "own.key")
    key.write_text(OWN.text())
    key.chmod(0o600)
    text = re.sub('public_key = ".*"', "", shown).replace("[[peer]]", f'[[peer]]\npublic_key = "{PEER.public.text}"')
    missing = {"private_key_file": f'"{key.name}"', "address": '["10.7.0.1/24"]'}
    lines = [f"{name} = {value}" for name, value in missing.items() if name not in interface]
    file = tmp_path / "shown.toml"
    file.write_text(text.replace("[interface]", "\n".join(["[interface]", *lines])))
    load_config(file)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)\s#]*)(?:#([^)\s]+))?\)", page.read_text())
    for path, anchor in links:
        target = page.parent / path if path else page
        assert target.exists(), f"{page.name}: there is no {path}"
        if anchor:
            known = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles(target)}
            assert anchor in known, f"{page.name}: {path} has no section {anchor}"


def test_sections_cited_in_the_code_are_there() -> None:
    cited = {found: path for path in CODE for found in CITED.findall(path.read_text())}
    assert cited
    for (page, title), path in cited.items():
        assert title in titles(ROOT / page), f"{path.relative_to(ROOT)}: {page} has no section {title!r}"
