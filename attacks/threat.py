"""What an attacker is taken to know and to be able to do."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ThreatModel:
    """An attacker who sees the smashed data, and what he has besides.

    Attributes:
        weights: He knows the head's weights (and then its architecture, and can run it).
        architecture: He knows the head's architecture.
        auxiliary_data: He has pictures of his own; how close their distribution is to the victim's
            is told with them (`splitdeploy.attacks.auxiliary`).
        auxiliary_labels: His own pictures have labels.
        labels: He knows the true labels of the inputs.
        queries: He can run the head on inputs of his choice, without seeing into it.
        tail: He has the tail, as the cloud operator does, and uses it.
        generator: He has a generator of pictures like the victim's.
        active: He can meddle with training or inference instead of only watching.
        last_part: He has the layers behind a second cut, which run at the edge.
        answers: He sees what the whole system answers to pictures of his own, as who holds a device
            does.
    """

    weights: bool
    architecture: bool = True
    auxiliary_data: bool = False
    auxiliary_labels: bool = False
    labels: bool = False
    queries: bool = False
    tail: bool = False
    generator: bool = False
    active: bool = False
    last_part: bool = False
    answers: bool = False

    def __str__(self) -> str:
        """In a phrase: ``white-box: head's weights known; passive; no data``."""
        if self.weights:
            access = "white-box: head's weights known"
        elif self.architecture:
            access = "grey-box: head's architecture known"
        else:
            access = "black-box: head unknown"
        phrases = [access]
        if self.queries:
            phrases.append("queries")
        if self.tail:
            phrases.append("tail known")
        if self.last_part:
            phrases.append("last layers known")
        if self.answers:
            phrases.append("a device's answers")
        phrases.append("active" if self.active else "passive")
        data = [
            words
            for has, words in (
                (self.auxiliary_data and not self.auxiliary_labels, "pictures of his own"),
                (self.auxiliary_labels, "labelled pictures of his own"),
                (self.generator, "a generator of pictures"),
                (self.labels, "labels"),
            )
            if has
        ]
        phrases.append(" and ".join(data) or "no data")
        return "; ".join(phrases)


WHITE_BOX = ThreatModel(weights=True)
"""The cloud operator who was also given, or stole, the head: the strongest passive attacker."""
