"""The main steps from Python, each one call.

from splitdeploy import find_cuts, load_model, profile, split

model = load_model("resnet18")
for cut in find_cuts(model):
print(cut.name, cut.payload_bytes)
split(model, "layer2.1", "bundle", precision="fp16")
report = profile("resnet18", "runs/demo", device="jetson-nano")
print(report.recommendation)
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from splitdeploy.partitioner.bundle import check_replaceable
from splitdeploy.partitioner.models import LoadedModel
from splitdeploy.partitioner.options import ProfileOptions
from splitdeploy.partitioner.plan import choose_cuts, make_plan, model_graph
from splitdeploy.partitioner.profile import profile as run_profile
from splitdeploy.partitioner.profile import write_cut_bundle
from splitdeploy.partitioner.progress import Reporter, Silent
from splitdeploy.partitioner.run_folder import check_writable
from splitdeploy.partitioner.sweep import verify_cuts
from splitdeploy.profiles.cut import CutPoint
from splitdeploy.profiles.errors import CutError, VerificationError
from splitdeploy.profiles.report import CutReport, SweepReport


def find_cuts(model: LoadedModel, cuts: str = "block") -> tuple[CutPoint, ...]:
    """The cut points of a model, between the two ends.

    Args:
        model: From `load_model`.
        cuts: ``block``, ``layer``, ``all`` (every operation), or names with commas between them.

    Returns:
        ``cloud-only``, the cuts in the order of execution, ``edge-only``.
    """
    return choose_cuts(model_graph(model), cuts)


def split(
    model: LoadedModel,
    cut: str,
    out: Path | str,
    *,
    precision: str = "fp32",
    images: Path | None = None,
    image_count: int = 4,
    seed: int = 0,
    reporter: Reporter | None = None,
) -> CutReport:
    """Cut a model, verify the halves, and write them as a bundle.

    Args:
        model: From `load_model`.
        cut: The name of a module that ends there, or of an end.
        out: The bundle's folder; replaced once the new one is whole.
        precision: Of the payload: ``fp32``, ``fp16`` or ``int8``.
        images: A folder of pictures to verify (and calibrate) on; None for photographs that
            scikit-image carries.
        image_count: How many of them.
        seed: Places the crops of the photographs.
        reporter: Told as it goes.

    Returns:
        The cut with its verification.

    Raises:
        CutError: Nothing of that name can be cut at.
        VerificationError: The tail on the head's output differs from the whole model.
    """
    told, target = reporter or Silent(), Path(out)
    check_writable(target)
    check_replaceable(target)
    with tempfile.TemporaryDirectory(prefix="splitdeploy-") as folder:
        plan = make_plan(
            model,
            cuts=cut,
            precision=precision,
            images=images,
            image_count=image_count,
            seed=seed,
            folder=Path(folder),
        )
        rows = verify_cuts(plan, told)
        place = next((at for at, row in enumerate(rows) if row.name == cut), None)
        if place is None:
            raise CutError(f"expected the name of one cut, got {cut!r}: see find_cuts(model)")
        row = rows[place]
        if row.error is not None:
            raise VerificationError(f"{cut}: {row.error}")
        told.stage("writing the bundle")
        write_cut_bundle(plan, place, precision, row, target)
    return row


def profile(model: str, out: Path | str, **settings: Any) -> SweepReport:
    """Find what every cut of a model costs and gives away, and recommend one.

    Args:
        model: A torchvision name, ``package.module:factory``, a ``.pt2`` or an ``.onnx`` file.
        out: The run folder.
        **settings: Fields of `ProfileOptions`, such as ``device="jetson-nano"``.

    Returns:
        The report, as written into the run folder.
    """
    return run_profile(ProfileOptions(model, **settings), Path(out))
