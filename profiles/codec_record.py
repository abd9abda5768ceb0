"""What the codec of a cut's payload costs the answers, as data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast, get_args

from splitdeploy.profiles.document import Node
from splitdeploy.profiles.measurement import Source


@dataclass(frozen=True)
class CodecRecord:
    """Answers of the cut model with its codec against those of the whole model in fp32.

    Attributes:
        images: On how many pictures.
        same_class: The share that keeps its first class; None where results are no classes.
        max_rel_error: The largest difference of a result over the results' largest magnitude;
            infinite where a result is not finite.
        source: ``measured``.
        note: What ran it, and what is not in it.
    """

    images: int
    same_class: float | None
    max_rel_error: float
    source: Source = "measured"
    note: str = ""

    @property
    def changed(self) -> int | None:
        """How many pictures change their class; None where results are no classes."""
        return None if self.same_class is None else round(self.images * (1 - self.same_class))


def codec_to_json(record: CodecRecord) -> dict[str, Any]:
    """The document of a codec's cost, as it stands in a cut's ``codec_loss``.

    Args:
        record: What to write.

    Returns:
        Its document; an error that is not finite is null.
    """
    error = record.max_rel_error
    return {**vars(record), "max_rel_error": error if math.isfinite(error) else None}


def codec_from_json(node: Node) -> CodecRecord:
    """The cost of a codec.

    Args:
        node: Where it stands.

    Returns:
        The record.
    """
    share, note = node.get("same_class"), node.get("note")
    return CodecRecord(
        images=node["images"].integer(),
        same_class=share.number() if share else None,
        max_rel_error=node["max_rel_error"].number_or_infinity(),
        source=cast("Source", node["source"].choice(get_args(Source))),
        note=note.text() if note else "",
    )
