"""A bundle ready to run on the device.

Its head with its noise, the last part where there is one, and the tail where the device may answer
alone.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from splitdeploy.edge_runtime.bundle import Bundle, read_bundle
from splitdeploy.edge_runtime.guard_noise import draw
from splitdeploy.edge_runtime.onnxruntime_session import CPU, OnnxRuntimeSession
from splitdeploy.edge_runtime.preprocess import Picture
from splitdeploy.edge_runtime.session import FREE, Array, Session, shown
from splitdeploy.profiles.cut import TensorSpec
from splitdeploy.profiles.errors import ImagesError, ReportError, SessionError

_TRIALS = 3
_SMOOTHING = 0.2


@dataclass(frozen=True)
class HeadOutput:
    """What a head gave for some pictures.

    Attributes:
        payload: What is sent: the tail's inputs in their order.
        held: What the last part takes besides; nothing without one.
        broken: Which pictures hold NaN or infinity.
    """

    payload: dict[str, Array]
    held: dict[str, Array]
    broken: NDArray[np.bool_]


class OpenedBundle:
    """Runs a bundle's head and last part, and its tail where that was asked for.

    Threads may share it.

    Args:
        bundle: What to run, or its folder.
        tail: Whether to open the tail too; it is then run a few times to see how long it takes.
        providers: ONNX Runtime's, for all parts.
        threads: How many an operator may use; None leaves it to ONNX Runtime.
        head: A session to run the head in, in place of ONNX Runtime's; it stays its owner's.

    Attributes:
        head_s: What the head took for one picture at the start; 0 where it could not be tried.
        tail_s: What the tail takes for one picture, smoothed; 0 before it was run.
        last_s: The same of the last part; 0 where there is none.

    Raises:
        ReportError: The bundle has no tail, where one was asked for.
        SessionError: The session of the head is not that of this bundle.
    """

    def __init__(
        self,
        bundle: Bundle | Path | str,
        *,
        tail: bool = False,
        providers: Sequence[str] = (CPU,),
        threads: int | None = None,
        head: Session | None = None,
    ) -> None:
        self.bundle = bundle if isinstance(bundle, Bundle) else read_bundle(Path(bundle), "edge")
        if tail and not self.bundle.tail.is_file():
            raise ReportError(
                f"expected tail.onnx in {self.bundle.folder} for answers without the cloud, there "
                "is none: copy it from the whole bundle, or refuse what the cloud does not answer"
            )
        self._lock, self._tail_lock = threading.Lock(), threading.Lock()
        self._last_lock = threading.Lock()
        self._own = head is None
        self.head_s = self.tail_s = self.last_s = 0.0
        self._tail: Session | None = None
        self._last: Session | None = None
        self._head = head or OnnxRuntimeSession(
            self.bundle.head, providers=providers, threads=threads
        )
        try:
            self._check_head()
            self.head_s = self._warm(self._head, (*self.bundle.head_inputs, *self._noise_specs()))
            if self.bundle.return_at is not None:
                self._last = OnnxRuntimeSession(
                    self.bundle.last, providers=providers, threads=threads
                )
                self.last_s = self._warm(self._last, self.bundle.last_inputs)
            if tail:
                self._tail = OnnxRuntimeSession(
                    self.bundle.tail, providers=providers, threads=threads
                )
                self.tail_s = self._warm(self._tail, self.bundle.tail_inputs)
        except BaseException:
            self.close()
            raise

    @property
    def batches(self) -> bool:
        """Whether several pictures may go through all parts at once."""
        bundle = self.bundle
        ends = (*bundle.head_inputs, *bundle.tail_inputs, *bundle.tail_outputs)
        ends = (*ends, *bundle.last_inputs, *bundle.last_outputs)
        return all(spec.shape[:1] == (FREE,) for spec in ends)

    @property
    def has_tail(self) -> bool:
        """Whether it can answer without the cloud."""
        return self._tail is not None

    def outputs_of(self, pictures: int) -> tuple[TensorSpec, ...]:
        """What the tail gives for so many pictures."""
        specs = self.bundle.tail_outputs
        if not self.batches:
            return specs
        return tuple(TensorSpec(s.name, (pictures, *s.shape[1:]), s.dtype) for s in specs)

    def feed(self, item: Picture | Array | Mapping[str, Array]) -> dict[str, Array]:
        """What the head takes for one picture, without the noise.

        Args:
            item: A picture, or an array for each of the head's inputs, a batch of one.

        Returns:
            By input name.

        Raises:
            ImagesError: It is neither, or of another shape or dtype, or not finite.
        """
        specs = self.bundle.head_inputs
        if isinstance(item, Image.Image):
            return self._preprocessed(item)
        if isinstance(item, np.ndarray) and item.dtype == np.uint8 and item.ndim == 3:
            return self._preprocessed(item)
        if isinstance(item, Mapping):
            given = dict(item)
        elif isinstance(item, np.ndarray) and len(specs) == 1:
            given = {specs[0].name: item}
        else:
            raise ImagesError(
                f"expected a picture or an array for each of {_names(specs)}, got "
                f"{type(item).__name__}"
            )
        if set(given) != {spec.name for spec in specs}:
            raise ImagesError(
                f"expected an array for each of {_names(specs)}, got {', '.join(given) or 'none'}"
            )
        for spec in specs:
            _check(spec, given[spec.name])
        return given

    def joined(self, feeds: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
        """What the head takes for some pictures, with noise drawn anew for each of them."""
        if len(feeds) == 1:
            found = dict(feeds[0])
        else:
            found = {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}
        return found | draw(self.bundle.noise, len(feeds))

    def run_head(self, feeds: Mapping[str, Array]) -> HeadOutput:
        """What is sent, what is held, and which of its pictures hold NaN or infinity.

        Args:
            feeds: From `joined`.

        Returns:
            The tail's inputs in their order, what the last part takes besides, a flag a picture.

        Raises:
            SessionError: The head failed, or gave something else than the tail takes.
        """
        with self._lock:
            given = self._head.run(feeds)
        pictures = len(next(iter(feeds.values()))) if self.batches else 1
        broken = np.zeros(pictures, np.bool_)
        sent, held = self.bundle.tail_inputs, self.bundle.held
        for spec in (*sent, *held):
            array = given[spec.name]
            if array.dtype.name != spec.dtype:
                raise SessionError(
                    f"{self._head.name}: expected {spec.name!r} in {spec.dtype} from the head, got "
                    f"{array.dtype}: build it of this bundle's head.onnx"
                )
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                broken |= ~np.isfinite(array.reshape(pictures, -1)).all(axis=1)
        return HeadOutput(
            {spec.name: given[spec.name] for spec in sent},
            {spec.name: given[spec.name] for spec in held},
            broken,
        )

    def run_tail(
        self, payload: Mapping[str, Array], in_time: Callable[[], bool]
    ) -> tuple[dict[str, Array], float] | None:
        """Answer without the cloud.

        Args:
            payload: The head's, as it would be sent.
            in_time: Asked when the tail's turn has come, behind others that wait for it.

        Returns:
            What it gives, and the seconds that the tail took; None where it was too late.

        Raises:
            SessionError: The tail was not opened, or it failed.
        """
        if self._tail is None:
            raise SessionError("expected a bundle opened with its tail, it was opened without")
        with self._tail_lock:
            if not in_time():
                return None
            begun_s = time.perf_counter()
            outputs = self._tail.run(payload)
            took_s = time.perf_counter() - begun_s
            pictures = len(next(iter(payload.values()))) if self.batches else 1
            self.tail_s += _SMOOTHING * (took_s / pictures - self.tail_s)
        return {spec.name: outputs[spec.name] for spec in self.bundle.tail_outputs}, took_s

    def run_last(
        self, returned: Mapping[str, Array], held: Mapping[str, Array]
    ) -> tuple[Mapping[str, Array], float | None]:
        """From what the tail gave to the model's results.

        Args:
            returned: The tail's outputs.
            held: The head's, from `run_head`.

        Returns:
            The results, and the seconds that the last part took; without one, what was given and
            None.

        Raises:
            SessionError: It failed, or was closed.
        """  # noqa: DOC502
        if self._last is None:
            return returned, None
        given = {**held, **returned}
        with self._last_lock:
            begun_s = time.perf_counter()
            outputs = self._last.run({s.name: given[s.name] for s in self.bundle.last_inputs})
            took_s = time.perf_counter() - begun_s
            pictures = len(next(iter(given.values()))) if self.batches else 1
            self.last_s += _SMOOTHING * (took_s / pictures - self.last_s)
        return {spec.name: outputs[spec.name] for spec in self.bundle.last_outputs}, took_s

    def close(self) -> None:
        """Close its sessions; a head that was given stays open."""
        with self._lock:
            if self._own:
                self._head.close()
        with self._tail_lock:
            if self._tail is not None:
                self._tail.close()
        with self._last_lock:
            if self._last is not None:
                self._last.close()

    def _preprocessed(self, picture: Picture) -> dict[str, Array]:
        preprocessing, specs = self.bundle.preprocessing, self.bundle.head_inputs
        if preprocessing is None or len(specs) != 1:
            raise ImagesError(
                f"this bundle does not tell how to make its input of a picture: give an array for "
                f"each of {_names(specs)}"
            )
        try:
            pixels = preprocessing.pixels(picture)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            # Pillow decodes late, and its decoders fail in many ways.
            raise ImagesError(
                f"expected a picture, it cannot be decoded ({type(error).__name__}: {error})"
            ) from error
        return {specs[0].name: preprocessing.normalise(pixels[None])}

    def _noise_specs(self) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(n.name, (FREE, *n.shape), n.dtype) for n in self.bundle.noise)

    def _check_head(self) -> None:
        takes = {spec.name for spec in self._head.inputs}
        gives = {spec.name for spec in self._head.outputs}
        wanted = {s.name for s in (*self.bundle.head_inputs, *self._noise_specs())}
        sent = {spec.name for spec in (*self.bundle.tail_inputs, *self.bundle.held)}
        if takes != wanted or not sent <= gives:
            raise SessionError(
                f"expected a head with inputs {', '.join(sorted(wanted))} and outputs "
                f"{', '.join(sorted(sent))}, got {self._head!r}: open this bundle's own head"
            )

    def _warm(self, session: Session, specs: Sequence[TensorSpec]) -> float:
        """Run on zeros, so that the first picture is not slower than others; the median time."""
        feeds = {
            spec.name: np.zeros([1 if size == FREE else size for size in spec.shape], spec.dtype)
            for spec in specs
        }
        times = []
        for _ in range(1 + _TRIALS):
            begun_s = time.perf_counter()
            try:
                session.run(feeds)
            except SessionError:
                return 0.0  # sizes that are left open may not be 1; the first picture warms it
            times.append(time.perf_counter() - begun_s)
        return statistics.median(times[1:])


def _check(spec: TensorSpec, array: Array) -> None:
    # One picture at a time: whoever has several gives several.
    wanted = (1, *spec.shape[1:]) if spec.shape[:1] == (FREE,) else spec.shape
    fine = isinstance(array, np.ndarray) and array.dtype.name == spec.dtype
    fits = fine and len(array.shape) == len(wanted) and all(
        one in {FREE, other} for one, other in zip(wanted, array.shape, strict=True)
    )  # fmt: skip
    if not fits:
        got = f"{array.dtype} {shown(array.shape)}" if isinstance(array, np.ndarray) else array
        raise ImagesError(
            f"{spec.name!r}: expected {spec.dtype} {shown(wanted)} for one picture, got "
            f"{got if isinstance(array, np.ndarray) else type(array).__name__}"
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ImagesError(f"{spec.name!r}: expected finite numbers, got NaN or infinity")


def _names(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(spec.name for spec in specs)
