"""Whether a server can be reached: the one check of the doctor that speaks to another machine."""

from __future__ import annotations

from splitdeploy.edge_runtime.doctor import Check
from splitdeploy.edge_runtime.link import Link
from splitdeploy.edge_runtime.tls import ClientTls
from splitdeploy.profiles.errors import CloudError


def check_cloud(address: str, tls: ClientTls | None = None, deadline_s: float = 5.0) -> Check:
    """Ask a server whether it is ready.

    Args:
        address: ``host:port``.
        tls: How to secure the connection; None sends in the clear.
        deadline_s: The longest to wait.

    Returns:
        The check; ``failed`` where it does not answer, or is not ready.

    Raises:
        UsageError: The address is none, or the certificates will not do.
    """  # noqa: DOC502
    link = Link(address, tls=tls)
    try:
        ready = link.ready(deadline_s)
        trip_s = link.round_trip_s(deadline_s)
    except CloudError as error:
        mend = "start it there (splitdeploy serve BUNDLE), open its port, or mend the certificates"
        return Check("cloud", "failed", str(error), mend)
    finally:
        link.close()
    if not ready:
        return Check(
            "cloud", "failed", f"{address} answers and is not ready", "wait, or see its log"
        )
    how = "in the clear" if tls is None else "over TLS"
    return Check("cloud", "ok", f"{address} is ready, {trip_s * 1e3:.1f} ms away, {how}")
