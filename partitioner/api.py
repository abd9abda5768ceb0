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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from splitdeploy.partitioner.bundle import check_replaceable
from splitdeploy.partitioner.codec_loss import CodecLoss, judged_pictures
from splitdeploy.partitioner.models import LoadedModel
from splitdeploy.partitioner.options import ProfileOptions
from splitdeploy.partitioner.plan import choose_cuts, make_plan, model_graph
from splitdeploy.partitioner.profile import profile as run_profile
from splitdeploy.partitioner.profile import write_cut_bundle
from splitdeploy.partitioner.progress import Reporter, Silent
from splitdeploy.partitioner.ranges import CALIBRATED_ON, Ranges
from splitdeploy.partitioner.run_folder import check_writable
from splitdeploy.partitioner.sweep import verify_cuts
from splitdeploy.profiles.cut import EDGE_ONLY, CutPoint
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


@dataclass(frozen=True)
class Exported:
    """What `split` found.

    Attributes:
        row: The cut with its verification.
        ranges: What an int8 codec was calibrated to; None for the other precisions.
        loss: What the codec costs; None for ``fp32``, which sends the tensors as they are, and
            for a model that takes no picture.
    """

    row: CutReport
    ranges: Ranges | None
    loss: CodecLoss | None

    def told(self) -> list[str]:
        """What a user should know of the codec, a line each."""
        lines = []
        if self.loss is not None:
            lines.append(self.loss.told())
        if self.ranges is not None and self.ranges.images < CALIBRATED_ON:
            lines.append(
                f"warning: int8 was calibrated on {self.ranges.images} pictures, of "
                f"{CALIBRATED_ON} that it should have: give more with --images"
            )
        if self.loss is not None and not self.loss.aside:
            lines.append(
                "warning: the codec was judged on pictures that were used before, since there are "
                "no others: give more with --images"
            )
        return lines


def split(
    model: LoadedModel,
    cut: str,
    out: Path | str,
    *,
    precision: str = "fp32",
    return_at: str | None = None,
    images: Path | None = None,
    image_count: int = 4,
    seed: int = 0,
    reporter: Reporter | None = None,
) -> Exported:
    """Cut a model, verify the halves, judge the codec, and write them as a bundle.

    Args:
        model: From `load_model`.
        cut: The name of a module that ends there, or of an end.
        out: The bundle's folder; replaced once the new one is whole.
        precision: Of the payload: ``fp32``, ``fp16`` or ``int8``.
        return_at: A second cut behind the first: what lies behind it is a third part, which the
            edge runs, so that the cloud never has the result; None for two halves.
        images: A folder of pictures; None for photographs that scikit-image carries. Behind those
            to verify on, ``int8`` is calibrated on 32 of them, and a codec judged on 32 more.
        image_count: How many of them to verify on.
        seed: Places the crops of the photographs.
        reporter: Told as it goes.

    Returns:
        The cut with its verification, and what the codec costs.

    Raises:
        CutError: Nothing of that name can be cut at.
        UsageError: ``return_at`` is an end, or does not lie behind the cut.
        VerificationError: The tail on the head's output differs from the whole model.
    """  # noqa: DOC502
    if return_at is not None and cut == EDGE_ONLY:
        raise CutError(
            f"expected a cut before {return_at}, got {EDGE_ONLY}, where nothing is sent: leave "
            "return_at out, or cut elsewhere"
        )
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
            return_at=return_at,
        )
        rows = verify_cuts(plan, told)
        place = next((at for at, row in enumerate(rows) if row.name == cut), None)
        if place is None:
            raise CutError(f"expected the name of one cut, got {cut!r}: see find_cuts(model)")
        row = rows[place]
        if row.error is not None:
            raise VerificationError(f"{cut}: {row.error}")
        told.stage("judging the codec and writing the bundle")
        judged = None
        if precision != "fp32" and plan.pixels is not None:
            used = image_count + (plan.ranges.images if plan.ranges and plan.ranges.aside else 0)
            judged = judged_pictures(model.input.shape, images, used, seed)
        loss = write_cut_bundle(plan, place, precision, row, target, judged)
    return Exported(row, plan.ranges, loss)


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
