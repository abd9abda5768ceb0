"""What an attacker is taken to know and to be able to do."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ThreatModel:
    """An attacker who sees the smashed data, and what he has besides.

    Attributes:
        weights: He knows the head's weights (and then its architecture).
        architecture: He knows the head's architecture.
        auxiliary_data: He has pictures like the victim's.
        labels: He knows the true labels of the inputs.
        queries: He can run the head on inputs of his choice, without seeing into it.
        active: He can meddle with training or inference instead of only watching.
    """

    weights: bool
    architecture: bool = True
    auxiliary_data: bool = False
    labels: bool = False
    queries: bool = False
    active: bool = False

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
        phrases.append("active" if self.active else "passive")
        data = [
            words
            for has, words in ((self.auxiliary_data, "similar pictures"), (self.labels, "labels"))
            if has
        ]
        phrases.append(" and ".join(data) or "no data")
        return "; ".join(phrases)


WHITE_BOX = ThreatModel(weights=True)
"""The cloud operator who was also given, or stole, the head: the strongest passive attacker."""
