"""Write down which names TensorRT's Python module has, for the strict fakes of the tests.

    python benchmarks/describe_tensorrt.py --out tests/data              the module installed here
    python benchmarks/describe_tensorrt.py --api DIR --out tests/data    listings made elsewhere

A listing is JSON: ``{"version": …, "names": {NAME: {"kind": "class" | "enum" | …, "members": […],
"doc": {MEMBER: signature line}}}}``. Where TensorRT is installed, ``--listing FILE`` writes one.
What the tests ship is shorter: for each class its attributes, and for each method the names of
its arguments, those with a default marked by ``=``; null where overloads hide them.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any

_OPENING, _CLOSING = "([{<", ")]}>"


def list_module(module: Any) -> dict[str, Any]:
    """The listing of an installed ``tensorrt`` module."""
    names: dict[str, Any] = {}
    for name in dir(module):
        held = getattr(module, name)
        if name.startswith("_"):
            continue
        if isinstance(held, type) and hasattr(held, "__members__"):
            names[name] = {"kind": "enum", "members": sorted(held.__members__)}
        elif isinstance(held, type):
            members = [member for member in dir(held) if not member.startswith("_")]
            docs = {m: _first_line(getattr(held, m)) for m in members if callable(getattr(held, m))}
            names[name] = {"kind": "class", "members": members, "doc": docs}
        else:
            names[name] = {"kind": type(held).__name__}
    return {"version": str(module.__version__), "names": names}


def _first_line(method: Any) -> str:
    lines = (getattr(method, "__doc__", None) or "").strip().splitlines()
    return lines[0] if lines else ""


def compact(listing: dict[str, Any]) -> dict[str, Any]:
    """What the tests ship of a listing."""
    enums: dict[str, Any] = {}
    classes: dict[str, Any] = {}
    functions: list[str] = []
    for name, entry in sorted(listing["names"].items()):
        if entry["kind"] == "enum":
            enums[name] = sorted(entry["members"])
        elif entry["kind"] == "class":
            docs = {member: line for member, line in entry.get("doc", {}).items() if line}
            methods = {member: arguments(line) for member, line in sorted(docs.items())}
            attributes = sorted(set(entry["members"]) - methods.keys())
            classes[name] = {"attributes": attributes, "methods": methods}
        elif entry["kind"] in {"function", "builtin_function_or_method"}:
            functions.append(name)
    return {
        "version": listing["version"],
        "enums": enums,
        "classes": classes,
        "functions": functions,
    }


def arguments(signature: str) -> list[str] | None:
    """The names of a method's arguments, without ``self``.

    Args:
        signature: Such as ``get_input(self: INetworkDefinition, index: int) -> ITensor``.

    Returns:
        Names, with ``=`` behind those that have a default; None where the line does not tell.
    """
    found = re.match(r"\w+\((?P<rest>.*)", signature)
    if found is None or "*args" in signature:
        return None
    parts, depth, current = [], 0, ""
    for sign in found["rest"].replace("->", "  "):
        if depth == 0 and sign in ",)":
            parts.append(current.strip())
            current = ""
            if sign == ")":
                break
            continue
        depth += (sign in _OPENING) - (sign in _CLOSING)
        current += sign
    named = [part for part in parts if part]
    return [_argument(part) for part in named if part.partition(":")[0] != "self"]


def _argument(part: str) -> str:
    name, _, kind = part.partition(":")
    return f"{name.strip()}=" if "=" in kind.replace("==", "") else name.strip()


def main() -> int:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--api", type=Path, help="folder of listings, one a version")
    parser.add_argument("--out", type=Path, help="folder that the compact ones go into")
    parser.add_argument("--listing", type=Path, help="write the installed module's listing here")
    given = parser.parse_args()
    if given.api is not None:
        listings = [json.loads(path.read_text()) for path in sorted(given.api.glob("*.json"))]
        if not listings:
            print(f"expected listings (*.json) in {given.api}, there are none", file=sys.stderr)
            return 1
    else:
        try:
            listings = [list_module(importlib.import_module("tensorrt"))]
        except ImportError:
            print("TensorRT is not installed here: give listings with --api", file=sys.stderr)
            return 1
    if given.listing is not None:
        given.listing.write_text(json.dumps(listings[0], indent=1) + "\n")
    for listing in listings if given.out is not None else []:
        path = given.out / f"tensorrt_{listing['version']}.json"
        path.write_text(_one_line_a_name(compact(listing)))
        print(path)
    return 0


def _one_line_a_name(document: dict[str, Any]) -> str:
    """JSON whose lines can be compared by eye."""

    def block(held: dict[str, Any]) -> str:
        lines = [
            f"  {json.dumps(k)}: {json.dumps(v, separators=(',', ':'))}" for k, v in held.items()
        ]
        return "{\n" + ",\n".join(lines) + "\n }"

    parts = [
        f' "version": {json.dumps(document["version"])}',
        f' "functions": {json.dumps(document["functions"])}',
        f' "enums": {block(document["enums"])}',
        f' "classes": {block(document["classes"])}',
    ]
    return "{\n" + ",\n".join(parts) + "\n}\n"


if __name__ == "__main__":
    raise SystemExit(main())
