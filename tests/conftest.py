"""What every test has: one thread for torch where it is loaded, and examples that repeat."""

from __future__ import annotations

import os
import signal
import sys

import pytest
from hypothesis import settings

# A shell that starts the tests in the background has them ignore Ctrl-C, and all that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("ci", derandomize=True, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(autouse=True)
def one_torch_thread() -> None:
    """Tests run beside each other; torch is not imported for those that do not need it."""
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "set_num_threads"):
        torch.set_num_threads(1)
