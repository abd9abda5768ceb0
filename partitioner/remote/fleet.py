"""The same on several devices at once."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from splitdeploy.partitioner.progress import Reporter
from splitdeploy.partitioner.remote.address import parse_address
from splitdeploy.partitioner.remote.deploy import (
    DeployOptions,
    DeviceOutcome,
    Step,
    deploy_step,
    on_device,
    rollback_step,
    status_step,
)
from splitdeploy.partitioner.remote.package import pack
from splitdeploy.profiles.errors import UsageError

_MOST_AT_ONCE = 16


def deploy(
    bundle: Path,
    devices: Sequence[str],
    options: DeployOptions,
    reporter: Reporter,
    *,
    local_tail: bool = False,
) -> list[DeviceOutcome]:
    """Put a bundle on devices; one that fails keeps what it had, and does not stop the others.

    Args:
        bundle: Its folder.
        devices: Their addresses.
        options: What runs it there.
        reporter: Told as it goes.
        local_tail: Whether the tail goes too.

    Returns:
        What became of each, in the same order.
    """
    addresses = check_devices(devices)
    with tempfile.TemporaryDirectory(prefix="splitdeploy-") as aside:
        reporter.stage("recording outputs", 1)
        package = pack(bundle, Path(aside), local_tail=local_tail)
        reporter.advance()
        total = package.size_bytes * len(addresses)
        many = f"{len(addresses)} devices" if len(addresses) > 1 else "the device"
        reporter.stage(f"copying to {many}", total)
        lock = threading.Lock()

        def advance(amount: float) -> None:
            with lock:
                reporter.advance(amount)

        step = deploy_step(package, options, advance, reporter.note)
        return _all(addresses, options, step, reporter)


def rollback(
    devices: Sequence[str], options: DeployOptions, reporter: Reporter
) -> list[DeviceOutcome]:
    """Let the version before run again on devices.

    Args:
        devices: Their addresses.
        options: How they are reached.
        reporter: Told as it goes.

    Returns:
        What became of each.
    """
    return _all(check_devices(devices), options, rollback_step(options), reporter)


def status(
    devices: Sequence[str], options: DeployOptions, reporter: Reporter
) -> list[DeviceOutcome]:
    """See what runs where.

    Args:
        devices: Their addresses.
        options: How they are reached.
        reporter: Told as it goes.

    Returns:
        What there is on each.
    """
    return _all(check_devices(devices), options, status_step, reporter)


def check_devices(devices: Sequence[str]) -> list[str]:
    """Refuse addresses that are none, or that come twice.

    Args:
        devices: As the user typed them.

    Returns:
        The addresses.

    Raises:
        UsageError: One of them is no address, or comes twice.
    """
    addresses = [str(parse_address(device)) for device in devices]
    for address in addresses:
        if addresses.count(address) > 1:
            raise UsageError(f"expected each device once, got {address} twice")
    return addresses


def _all(
    addresses: Sequence[str], options: DeployOptions, step: Step, reporter: Reporter
) -> list[DeviceOutcome]:
    def one(address: str) -> DeviceOutcome:
        outcome = on_device(address, options, step)
        if len(addresses) > 1:
            reporter.note(f"{address}: {outcome.error or outcome.done}")
        return outcome

    work: Callable[[str], DeviceOutcome] = one
    with ThreadPoolExecutor(min(_MOST_AT_ONCE, len(addresses))) as pool:
        return list(pool.map(work, addresses))
