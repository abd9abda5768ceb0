"""``splitdeploy doctor``: what this machine is and has, and how to mend what it lacks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from splitdeploy.cli import options as shared
from splitdeploy.cli.tables import print_csv, print_table
from splitdeploy.profiles.errors import UsageError

if TYPE_CHECKING:
    from splitdeploy.edge_runtime.doctor import Check

_MARKS = {"ok": "ok", "warn": "warn", "missing": "missing", "failed": "FAILED"}


def _path(help_text: str) -> dict[str, Any]:
    return {"metavar": "FILE", "type": click.Path(path_type=Path), "help": help_text}


@click.command("doctor")
@click.option("--cloud", metavar="HOST:PORT", help="Also ask whether this server is ready.")
@click.option("--tls-ca", **_path("Roots that vouch for it, in PEM; else nothing is encrypted."))
@click.option("--tls-cert", **_path("A client's certificate, in PEM, for mutual TLS."))
@click.option("--tls-key", **_path("Its private key, in PEM."))
@click.option("--selftest", is_flag=True, help="Run a head from end to end and write a file.")
@click.option(
    "--bundle",
    type=click.Path(path_type=Path),
    metavar="BUNDLE",
    help="Whose head --selftest runs; default: a tiny one whose answer is known.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE.json",
    default=Path("splitdeploy-selftest.json"),
    show_default=True,
    help="What --selftest writes.",
)
@shared.format_option
@shared.verbosity_options
def command(form: str, **given: Any) -> int:
    """Tell what this machine is and has, and how to mend what it lacks.

    \b
    Example:
      splitdeploy doctor --cloud 192.168.1.2:8001

    Ends with 0 where everything that was asked for works; what is merely missing is told, not
    counted as a failure. With --selftest a head is run on every engine that is here, and a file is
    written that can be attached to an issue.
    """
    _check_flags(given)
    from splitdeploy.edge_runtime.doctor import diagnose

    checks = diagnose()
    if given["cloud"] is not None:
        checks.append(_cloud(given))
    document: dict[str, Any] = {"checks": [check.to_json() for check in checks]}
    if given["selftest"]:
        tested, document["selftest"] = _selftest(checks, given)
        checks += tested
        document["checks"] = [check.to_json() for check in checks]
    _print(checks, document, form)
    return 1 if any(check.status == "failed" for check in checks) else 0


def _check_flags(given: dict[str, Any]) -> None:
    for flag in ("tls_ca", "tls_cert", "tls_key"):
        if given[flag] is not None and given["cloud"] is None:
            name = "--" + flag.replace("_", "-")
            raise UsageError(f"expected --cloud HOST:PORT with {name}, got none: name the server")
    if given["bundle"] is not None and not given["selftest"]:
        raise UsageError("expected --selftest with --bundle, got none: add it")


def _cloud(given: dict[str, Any]) -> Check:
    from splitdeploy.edge_runtime.doctor_cloud import check_cloud
    from splitdeploy.edge_runtime.tls import ClientTls

    files = [given[flag] for flag in ("tls_ca", "tls_cert", "tls_key")]
    return check_cloud(given["cloud"], ClientTls(*files) if any(files) else None)


def _selftest(checks: Sequence[Check], given: dict[str, Any]) -> tuple[list[Check], dict[str, Any]]:
    """The document, which is written, and a line for every backend."""
    from splitdeploy.edge_runtime.selftest import selftest
    from splitdeploy.profiles.store import write_atomically

    if not given["quiet"]:
        click.echo("running a head on every engine: this takes some ten seconds each", err=True)
    found = selftest(checks, bundle=given["bundle"])
    write_atomically(given["out"], json.dumps(found, indent=1) + "\n")
    click.echo(f"written: {given['out']}", err=True)
    return [_line(result, found["ok"]) for result in found["results"]], found


def _line(result: dict[str, Any], some_ok: bool) -> Check:
    from splitdeploy.edge_runtime.doctor import Check

    name = f"selftest {result['backend']}"
    if not result["opened"]:
        return Check(name, "missing" if some_ok else "failed", result["error"])
    if not result["ok"]:
        return Check(name, "failed", result.get("error") or result["checked"])
    latency, energy = result["latency_s"], result["energy"]
    text = f"{result['checked']}; {latency['median'] * 1e3:.3g} ms ({latency['stability']})"
    if "not_measured" in energy:
        text += "; energy not measured"
    else:
        text += f"; {energy['energy_j'] * 1e3:.3g} ± {energy['standard_error_j'] * 1e3:.2g} mJ"
    return Check(name, "ok", text)


def _print(checks: Sequence[Check], document: dict[str, Any], form: str) -> None:
    if form == "json":
        click.echo(json.dumps(document, indent=2))
        return
    columns = ["check", "status", "found", "mend"]
    rows = [[c.name, _MARKS[c.status], c.found, c.mend] for c in checks]
    if form == "csv":
        print_csv(columns, rows)
    elif form == "md":
        print_table("this machine", columns, rows, markdown=True)
    else:
        # Lines, not a table: what is found may be long, and is read from the left.
        for check in checks:
            click.echo(f"{_MARKS[check.status]:8} {check.name}: {check.found}")
            if check.mend and check.status != "ok":
                click.echo(f"{'':8} -> {check.mend}")
