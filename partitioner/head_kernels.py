"""The fused kernels of the heads of a run, found again from its model."""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from pathlib import Path

from splitdeploy.partitioner.kernels import kernel_groups
from splitdeploy.partitioner.models import LoadedModel, load_model
from splitdeploy.partitioner.plan import choose_cuts, make_plan, model_graph
from splitdeploy.profiles.cut import EDGE_ONLY
from splitdeploy.profiles.errors import ModelError
from splitdeploy.profiles.kernel import KernelGroup
from splitdeploy.profiles.report import SweepReport


def head_kernels(
    report: SweepReport, cuts: Collection[str], model: str | None = None
) -> dict[str, tuple[KernelGroup, ...]]:
    """Export the model of a run again, without its weights, and group the kernels of its heads.

    Args:
        report: Of the run.
        cuts: Names of the heads.
        model: Where the model is now; None takes the name in the report.

    Returns:
        The kernels by cut, for as many inputs as a request of the run has.

    Raises:
        ModelError: The model is not that of the run.
    """
    loaded = load_model(
        model or report.model.name, weights="none", input_shape=report.model.input_shape[1:]
    )
    wanted = {row.name for row in report.cuts if row.error is None} & set(cuts)
    with tempfile.TemporaryDirectory(prefix="splitdeploy-") as folder:
        plan = make_plan(
            loaded,
            cuts=_choice(loaded, wanted),
            precision="fp32",
            images=None,
            image_count=1,
            seed=report.seed,
            folder=Path(folder),
        )
        found = {}
        for cut in plan.cuts:
            if cut.name not in wanted:
                continue
            then = report.find(cut.name).cut
            # A report holds the sizes of the codec, the plan those of the model: MACs are the same.
            if cut.head_macs != then.head_macs:
                raise ModelError(
                    f"expected the model of the run, whose head at {cut.name} has "
                    f"{then.head_macs} MACs, got one with {cut.head_macs}: name it with --model"
                )
            found[cut.name] = kernel_groups(plan.slicer.cut(cut).head, report.batch)
    return found


def _choice(model: LoadedModel, wanted: Collection[str]) -> str:
    """The grain that has these cuts; where none has all, their names."""
    # Of two names for one boundary a grain shows one, and a list of names another.
    graph = model_graph(model)
    for grain in ("block", "layer", "all"):
        if set(wanted) <= {cut.name for cut in choose_cuts(graph, grain)}:
            return grain
    return ",".join(name for name in wanted if name != EDGE_ONLY)
