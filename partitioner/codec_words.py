"""Says in words what the codec of a pick costs, so that nobody takes a coarse one unknowingly."""

from __future__ import annotations

from collections.abc import Iterator

from splitdeploy.attacks.intervals import wilson95
from splitdeploy.partitioner.limits import agreement
from splitdeploy.partitioner.reasons import Decision
from splitdeploy.profiles.codec_record import CodecRecord


def codec_reasons(decision: Decision) -> Iterator[str]:
    """What the codec of the pick costs, where several precisions are compared.

    Args:
        decision: The decision.

    Yields:
        One sentence, where the pick has a codec that was measured and that no limit is on.
    """
    row, limits = decision.row, decision.report.constraints
    loss = row.codec_loss
    if row.precision is None or loss is None or limits.min_agreement is not None:
        return
    if not loss.changed:
        yield f"Its {row.precision} payload {_cost(loss)}."


def codec_warnings(decision: Decision) -> Iterator[str]:
    """What the codec of the pick costs where that is something, and what is not known of it.

    Args:
        decision: The decision.

    Yields:
        Sentences; with one precision only where the codec changed a class.
    """
    row = decision.row
    loss, limit = row.codec_loss, decision.report.constraints.min_agreement
    kind = row.precision or decision.report.edge.precision
    if loss is not None and loss.changed and limit is None:
        yield (
            f"{row.name}: its {kind} payload {_cost(loss)}; --min-agreement SHARE sets a limit, "
            "and --image-count more pictures."
        )
    if row.precision is None or row.precision == "fp32":
        return
    if agreement(row) is None and loss is None:
        yield (
            f"What the {kind} payload of {row.name} costs the answers was not measured: profile "
            "that run anew."
        )
    yield (
        f"What a head that computes in {kind} costs the answers is not in the figures of "
        f"{row.name}: splitdeploy export --head-precision {kind} tells."
    )


def _cost(loss: CodecRecord) -> str:
    error = f"the largest error is {loss.max_rel_error:.1e} of the largest result"
    if loss.same_class is None or loss.changed is None:
        return f"was tried on {loss.images} pictures, whose results are no classes: {error}"
    low, high = (100 * end for end in wilson95(loss.changed, loss.images))
    changed = loss.changed or "none"
    return (
        f"changed the class of {changed} of {loss.images} pictures (95 % interval "
        f"{low:.0f} to {high:.0f} %; {error})"
    )
