"""Heads of a bundle in further precisions, for engines: made, judged on pictures, and recorded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto

from splitdeploy.attacks.images import load_photographs
from splitdeploy.edge_runtime.bundle import Bundle, read_bundle
from splitdeploy.edge_runtime.guard_noise import draw
from splitdeploy.edge_runtime.onnxruntime_session import OnnxRuntimeSession
from splitdeploy.edge_runtime.session import Array, Session
from splitdeploy.partitioner.answer_loss import AnswerLoss, relative_error, same_class
from splitdeploy.partitioner.bundle import save_graph, take_place
from splitdeploy.partitioner.codec_loss import Judged, judged_pictures
from splitdeploy.partitioner.half_graph import to_half
from splitdeploy.partitioner.progress import Reporter, Silent
from splitdeploy.partitioner.qdq import activation_ranges, quantisable, quantise
from splitdeploy.partitioner.ranges import CALIBRATED_ON
from splitdeploy.partitioner.verify import run_behind
from splitdeploy.profiles.digest import file_sha256
from splitdeploy.profiles.errors import (
    ImagesError,
    OutputError,
    UnknownNameError,
    VerificationError,
)
from splitdeploy.profiles.store import write_atomically

HEAD_PRECISIONS = ("fp16", "int8")


@dataclass(frozen=True)
class HeadLoss(AnswerLoss):
    """What a head in another precision costs, over the bundle's own, both with the bundle's tail.

    Attributes:
        head_rel_error: The largest difference of what the heads send, over the largest of it.
        source: ``measured``.
        runtime: Where: fp16 operators that a CPU lacks are computed in float32 there.
    """

    head_rel_error: float
    source: str = "measured"
    runtime: str = "onnxruntime on a CPU"


@dataclass(frozen=True)
class HeadVariant:
    """A head in another precision.

    Attributes:
        precision: ``fp16`` or ``int8``.
        calibrated_on: How many pictures gave the ranges; 0 for fp16.
        loss: None for a model that takes no picture.
    """

    precision: str
    calibrated_on: int
    loss: HeadLoss | None

    def told(self) -> str:
        """One line for people."""
        if self.loss is None:
            return f"head in {self.precision}: not judged, the model takes no picture"
        loss = self.loss
        parts = [*loss.parts(), f"{loss.head_rel_error:.1e} of what is sent"]
        aside = "" if loss.aside else ", used before since there are no others"
        return (
            f"head in {self.precision}, measured on {loss.images} pictures ({loss.pictures}"
            f"{aside}): {', '.join(parts)}"
        )


def check_head_precisions(precisions: Sequence[str]) -> None:
    """Refuse precisions that no head can be made in.

    Args:
        precisions: As the user named them.

    Raises:
        UnknownNameError: One of them is not among `HEAD_PRECISIONS`.
    """
    for precision in precisions:
        if precision not in HEAD_PRECISIONS:
            raise UnknownNameError("precision of a head", precision, HEAD_PRECISIONS)


def add_head_variants(
    folder: Path,
    precisions: Sequence[str],
    *,
    images: Path | None = None,
    seed: int = 0,
    few_images: bool = False,
    reporter: Reporter | None = None,
) -> tuple[HeadVariant, ...]:
    """Put heads in further precisions into a bundle; the bundle is replaced once it is whole.

    Args:
        folder: The bundle.
        precisions: ``fp16``, ``int8`` or both.
        images: A folder of pictures; None for scikit-image's photographs.
        seed: Places the crops of the photographs, and draws the noise of a defended head.
        few_images: Whether int8 may be calibrated on fewer pictures than it should.
        reporter: Told as it goes.

    Returns:
        What was made.

    Raises:
        ImagesError: int8 has too few pictures, or the model takes none.
        VerificationError: A head puts out what is not finite.
        OutputError: The bundle cannot be written.
    """  # noqa: DOC502
    check_head_precisions(precisions)
    bundle, told = read_bundle(folder), reporter or Silent()
    head = onnx.load(str(bundle.head))
    told.stage("heads in further precisions", len(precisions))
    aside = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(aside, ignore_errors=True)
    made = []
    try:
        shutil.copytree(folder, aside)
        for precision in dict.fromkeys(precisions):
            graph, calibrated = _made(bundle, head, precision, images, seed, few_images)
            save_graph(graph, folder, aside / f"head.{precision}.onnx")
            loss = _judge(bundle, aside / f"head.{precision}.onnx", images, calibrated, seed)
            made.append(HeadVariant(precision, calibrated, loss))
            told.advance()
        _tell(aside, made)
        take_place(aside, folder)
    except OSError as error:
        raise OutputError(
            f"cannot write the bundle {folder}: {error.strerror or error}; free space there"
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return tuple(made)


def _made(
    bundle: Bundle,
    head: ModelProto,
    precision: str,
    images: Path | None,
    seed: int,
    few_images: bool,
) -> tuple[ModelProto, int]:
    """The head in a precision, and how many pictures it was calibrated on."""
    noise = [entry.name for entry in bundle.noise]
    if precision == "fp16":
        return to_half(head, noise), 0
    places = quantisable(head, noise)
    pixels = _pictures(bundle, images, seed)
    if len(pixels) < CALIBRATED_ON and not few_images:
        raise ImagesError(
            f"expected at least {CALIBRATED_ON} pictures to calibrate int8 on, got {len(pixels)} "
            f"in {images or 'photos'}: give more with --images, or accept a worse calibration with "
            "--few-images"
        )
    ranges = activation_ranges(head, places, _feeds(bundle, pixels, seed))
    return quantise(head, places, ranges), len(pixels)


def _pictures(bundle: Bundle, images: Path | None, seed: int) -> NDArray[np.float32]:
    taken = bundle.preprocessing
    if taken is None:
        raise ImagesError(
            "expected a model of pictures to calibrate int8 on, this one takes none: leave "
            "--head-precision int8 out"
        )
    shape = (taken.channels, taken.height, taken.width)
    return load_photographs(images or "photos", shape=shape, count=CALIBRATED_ON, seed=seed).pixels


def _feeds(bundle: Bundle, pixels: NDArray[np.float32], seed: int) -> Iterator[dict[str, Array]]:
    """The head's inputs, a picture at a time; the noise repeats, to compare heads."""
    generator = np.random.default_rng(seed)
    for picture in pixels:
        if bundle.preprocessing is not None:
            first = {bundle.head_inputs[0].name: bundle.preprocessing.normalise(picture[None])}
            yield {**first, **draw(bundle.noise, 1, random_bytes=generator.bytes)}


def _judge(
    bundle: Bundle, path: Path, images: Path | None, calibrated: int, seed: int
) -> HeadLoss | None:
    """Run pictures through both heads and all that comes behind."""
    taken = bundle.preprocessing
    if taken is None:
        return None
    shape = (1, taken.channels, taken.height, taken.width)
    judged = judged_pictures(shape, images, calibrated, seed)
    sent: tuple[list[Array], list[Array]] = ([], [])
    results: tuple[list[Array], list[Array]] = ([], [])
    with (
        OnnxRuntimeSession(bundle.head) as before,
        OnnxRuntimeSession(path) as after,
        OnnxRuntimeSession(bundle.tail) as tail,
        _last_part(bundle) as last,
    ):
        for feeds in _feeds(bundle, judged.pixels, seed):
            for which, head in enumerate((before, after)):
                payload = head.run(feeds)
                sent[which].append(
                    np.concatenate([v.astype(np.float32).ravel() for v in payload.values()])
                )
                results[which].append(run_behind(payload, tail, last)[0])
    return _compared(sent, results, judged, path)


def _last_part(bundle: Bundle) -> AbstractContextManager[Session | None]:
    return nullcontext() if bundle.return_at is None else OnnxRuntimeSession(bundle.last)


def _compared(
    sent: tuple[list[Array], list[Array]],
    results: tuple[list[Array], list[Array]],
    judged: Judged,
    path: Path,
) -> HeadLoss:
    first, second = (np.concatenate(part) for part in results)
    error, sent_error = (
        relative_error(np.concatenate(a), np.concatenate(b)) for a, b in (results, sent)
    )
    if not np.isfinite([error, sent_error]).all():
        raise VerificationError(
            f"{path.name} puts out what is not finite on these pictures: its values do not fit "
            "into the precision; leave this --head-precision out, or cut elsewhere"
        )
    same = same_class(first, second)
    return HeadLoss(len(first), judged.pictures, judged.aside, *same, error, sent_error)


def _tell(folder: Path, made: Sequence[HeadVariant]) -> None:
    """Write the variants into the manifest."""
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text("utf-8"))
    variants = dict(manifest.get("head_variants") or {})
    for variant in made:
        name = f"head.{variant.precision}.onnx"
        variants[variant.precision] = {"file": name, **asdict(variant)}
        for path in sorted(folder.glob(f"head.{variant.precision}.*")):
            manifest["files"][path.name] = {
                "sha256": file_sha256(path),
                "bytes": path.stat().st_size,
            }
    manifest["head_variants"] = variants
    write_atomically(folder / "manifest.json", json.dumps(manifest, indent=2) + "\n")
