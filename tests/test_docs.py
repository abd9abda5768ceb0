"""What the documents say is there, is there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import click
import pytest

from splitdeploy.cli.main import cli

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
COMMAND = re.compile(r"^\s*(?:\S*/)?splitdeploy ([a-z]+)|`splitdeploy ([a-z]+)[^`]*`", re.MULTILINE)


def slug(heading: str) -> str:
    """The anchor that a heading gets when the document is shown."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_relative_link_leads_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for link in LINK.findall(text):
        if link.startswith(("https://", "http://", "mailto:")):
            continue
        file, _, anchor = link.partition("#")
        target = (document.parent / file) if file else document
        assert target.exists(), f"{document.name} links to {link}, which is not there"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {slug(heading) for heading in headings}, link


def commands() -> dict[str, click.Command]:
    """Every verb of the command line."""
    context = click.Context(cli)
    found = {name: cli.get_command(context, name) for name in cli.list_commands(context)}
    return {name: command for name, command in found.items() if command is not None}


def test_every_command_in_the_documents_exists() -> None:
    for document in DOCUMENTS:
        for pair in COMMAND.findall(document.read_text(encoding="utf-8")):
            verb = pair[0] or pair[1]
            assert verb in commands(), f"{document.name} names `splitdeploy {verb}`"


def test_every_flag_in_the_readme_exists() -> None:
    known = {
        option
        for command in commands().values()
        for parameter in command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
    }
    named = set(re.findall(r"--[a-z][a-z-]+", (ROOT / "README.md").read_text(encoding="utf-8")))
    assert named <= known, f"README names {sorted(named - known)}"


def test_make_targets_in_the_documents_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    for document in DOCUMENTS:
        named = re.findall(r"(?:^|`)make ([a-z]+)\b", document.read_text(encoding="utf-8"), re.M)
        assert set(named) <= targets, document.name


def test_the_test_command_of_the_readme_is_what_continuous_integration_runs() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert "make test" in script
    assert "make test" in (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    subprocess.run(["bash", "-n", str(ROOT / ".ci" / "run")], check=True)


def test_the_exact_versions_name_no_place_to_fetch_them_from() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = re.compile(r"[a-z0-9-]+==[0-9][0-9a-z.]*( ; [a-z_]+ \S+ \"[^\"]+\"( and .+)?)?")
    for line in lines:
        assert line.startswith("#") or pinned.fullmatch(line), line
