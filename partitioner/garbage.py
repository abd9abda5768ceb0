"""Python's collector of cycles, kept from looking at millions of objects that stay."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_SELDOM = (50_000, 50, 100)
"""Thresholds; Python's own are (700, 10, 10)."""


@contextmanager
def seldom_collected() -> Iterator[None]:
    """Collect garbage seldom for as long as this lasts.

    Importing torch, tracing and exporting make many objects and drop few: an eighth of their time
    went into looking for cycles among them. Attacks leave cycles that hold tensors, so that this is
    not for them.

    Yields:
        While modules are imported or graphs are made.
    """
    before = gc.get_threshold()
    gc.set_threshold(*_SELDOM)
    try:
        yield
    finally:
        gc.set_threshold(*before)
