"""``splitdeploy run``: pictures of every source, results in every form, and what went wrong."""

from __future__ import annotations

import csv
import io
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from command_line import splitdeploy
from odd_server import abort, answer, late, odd_server
from PIL import Image
from split_bundles import SIZE, expected, make_bundle

from splitdeploy.cloud_runtime.server import TailServer
from splitdeploy.edge_runtime.bundle import read_bundle
from splitdeploy.edge_runtime.preprocess import Preprocessing
from splitdeploy.edge_runtime.sources import open_picture, picture_files, video_frames
from splitdeploy.profiles.errors import ImagesError, MissingExtraError

PREPROCESS = Preprocessing(3, SIZE, SIZE, (0.5,) * 3, (0.5,) * 3)
COUNT = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundles") / "plain")


@pytest.fixture(scope="module")
def cloud(folder: Path) -> Iterator[str]:
    with TailServer([read_bundle(folder, "cloud")], port=0, threads=1) as server:
        yield f"127.0.0.1:{server.port}"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(5)
    for number in range(COUNT):
        pixels = rng.integers(0, 256, (12, 10, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    (folder / "notes.txt").write_text("not a picture")
    return folder


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cv2 = pytest.importorskip("cv2")
    path: Path = tmp_path_factory.mktemp("videos") / "v.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (32, 24))
    assert writer.isOpened()
    for number in range(6):
        frame = np.zeros((24, 32, 3), np.uint8)
        frame[..., 2] = 40 * number  # OpenCV's order is blue, green, red
        writer.write(frame)
    writer.release()
    return path


def scores(picture: Any) -> Any:
    return expected(PREPROCESS([picture]))[0]


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def run(folder: Path, *arguments: object) -> Any:
    return splitdeploy("run", folder, "--threads", 1, "--deadline", "20s", *arguments)


def test_a_folder_through_a_cloud(folder: Path, cloud: str, pictures: Path) -> None:
    outcome = run(folder, "--cloud", cloud, pictures, "--format", "json", "--top", 3)
    assert outcome.code == 0, outcome.err
    found = lines(outcome.out)
    assert [Path(one["picture"]).name for one in found] == [f"{n}.png" for n in range(COUNT)]
    for number, one in enumerate(found):
        wanted = scores(Image.open(pictures / f"{number}.png"))
        assert [top["class"] for top in one["top"]] == np.argsort(-wanted)[:3].tolist()
        assert one["top"][0]["score"] == pytest.approx(wanted.max(), rel=1e-4)
        assert (one["answered_by"], one["error"], one["index"]) == ("cloud", None, number)
        assert one["times"]["total_s"] > 0 and one["outputs"]["y"]["shape"] == [1, 10]
    assert f"{COUNT} pictures: {COUNT} answered by the cloud in" in outcome.err
    for told in ("preprocess median", "head       median", "wire       median", "tail", "p95"):
        assert told in outcome.err


@pytest.mark.parametrize("form", ["table", "md", "csv"])
def test_every_form_tells_the_same(
    folder: Path, cloud: str, pictures: Path, tmp_path: Path, form: str
) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(f"class {n}" for n in range(10)))
    files = [pictures / "2.png", pictures / "0.png"]
    arguments = ("--cloud", cloud, *files, "--labels", labels, "--format", form, "-q")
    outcome = run(folder, *arguments)
    assert (outcome.code, outcome.err) == (0, "")
    best = [f"class {int(np.argmax(scores(Image.open(file))))}" for file in files]
    if form == "csv":
        rows = list(csv.DictReader(io.StringIO(outcome.out)))
        assert [row["picture"] for row in rows] == [str(file) for file in files]
        assert [row["labels"].split(";")[0] for row in rows] == best
        assert all(float(row["total_s"]) > 0 for row in rows)
        return
    body = outcome.out.splitlines()[1 if form == "table" else 2 :]
    assert len(body) == 2
    for line, label, file in zip(body, best, files, strict=True):
        assert label in line and file.name in line and "cloud" in line


def test_without_a_cloud(folder: Path, pictures: Path) -> None:
    outcome = run(folder, "--local", pictures, "--limit", 3, "--format", "json")
    assert outcome.code == 0, outcome.err
    assert [one["answered_by"] for one in lines(outcome.out)] == ["local"] * 3
    assert "3 answered locally" in outcome.err and "sent " not in outcome.err


def test_a_video(folder: Path, cloud: str, video: Path) -> None:
    outcome = run(folder, "--cloud", cloud, "--video", video, "--limit", 5, "--format", "json")
    assert outcome.code == 0, outcome.err
    found = lines(outcome.out)
    assert [one["picture"] for one in found] == [f"frame {n}" for n in range(5)]
    frames = list(video_frames(video))
    assert len(frames) == 6 and frames[5][..., 0].mean() > 150 > 60 > frames[5][..., 2].mean()
    for one, frame in zip(found, frames, strict=False):
        assert one["top"][0]["class"] == int(np.argmax(scores(frame)))
    whole = run(folder, "--local", "--video", video, "--format", "json", "-q")
    assert len(lines(whole.out)) == 6


def test_a_broken_picture_is_told_and_the_rest_is_answered(
    folder: Path, cloud: str, pictures: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes((pictures / "0.png").read_bytes()[:200])
    outcome = run(folder, "--cloud", cloud, broken, pictures, "--format", "json")
    assert outcome.code == 1
    by = [one["answered_by"] for one in lines(outcome.out)]
    assert by == ["refused", *["cloud"] * COUNT]
    assert f"{broken}: refused: expected a picture in {broken}, it cannot be read" in outcome.err
    assert "1 refused" in outcome.err


def test_what_the_cloud_does_not_answer(folder: Path, pictures: Path) -> None:
    act = abort(grpc.StatusCode.UNAVAILABLE)
    with odd_server(answer, always=act) as odd:
        arguments = ("--cloud", odd.address, pictures, "--window", 1, "--retries", 0)
        outcome = run(folder, *arguments)
        assert outcome.code == 1 and "UNAVAILABLE: as told" in outcome.err
        assert "1 answered by the cloud" in outcome.err and "3 refused" in outcome.err
    with odd_server(always=act) as odd:
        outcome = run(folder, "--cloud", odd.address, pictures, "--fallback", "local")
        assert outcome.code == 0 and f"{COUNT} answered locally" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("PICTURES",), 2, "expected --cloud HOST:PORT, or --local to run both halves here"),
        (("--cloud", "a:1", "--local", "PICTURES"), 2, "got both"),
        (("--local",), 2, "expected pictures from one source: .*, got none"),
        (("--local", "--camera", "0", "PICTURES"), 2, "got several"),
        (("--local", "NOWHERE"), 1, "expected a picture or a folder of them at .*, there is none"),
        (("--local", "EMPTY"), 1, "no pictures in .*: expected files ending in .png"),
        (("--local", "--video", "NOWHERE"), 1, "expected a video file at .*, there is none"),
        (("--local", "--video", "NOTES"), 1, "expected a video that OpenCV .* can read, got"),
        (("--local", "--deadline", "5", "PICTURES"), 2, "expected a time with a unit"),
        (("--local", "--labels", "NOTES", "PICTURES"), 2, "a name for each of 10 .*, got 1 lines"),
        (("--local", "--labels", "NOWHERE", "PICTURES"), 2, "expected the names of classes in"),
        (("--local", "--provider", "XPU", "PICTURES"), 1, "execution provider XPU is not in"),
        (("--cloud", "here", "PICTURES"), 2, "expected the cloud's address as HOST:PORT"),
        (("--cloud", "127.0.0.1:1", "--deadline", "200ms", "PICTURES"), 1, "none answered within"),
        (("--cloud", "a:1", "--tls-cert", "NOTES", "PICTURES"), 2, "got the certificate alone"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant(
    folder: Path, pictures: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    if "--video" in arguments:
        pytest.importorskip("cv2")
    places = {
        "PICTURES": pictures, "NOTES": pictures / "notes.txt", "EMPTY": tmp_path,
        "NOWHERE": tmp_path / "nowhere",
    }  # fmt: skip
    outcome = splitdeploy("run", folder, *(places.get(word, word) for word in arguments))
    assert outcome.code == code
    assert outcome.out == "" and len(outcome.err.splitlines()) == 1
    assert re.search(said, outcome.err), outcome.err


def test_no_bundle(tmp_path: Path, pictures: Path) -> None:
    outcome = splitdeploy("run", tmp_path, "--local", pictures)
    assert outcome.code == 1 and "there is no manifest.json in it" in outcome.err


TAKEN_BY_A_THREAD = """
import signal, sys, threading

from splitdeploy.__main__ import main

def take():
    sys.stdin.readline()
    signal.pthread_kill(threading.get_ident(), signal.SIGINT)

threading.Thread(target=take, daemon=True).start()
sys.exit(main(sys.argv[1:]))
"""
"""Ctrl-C that does not wake the main thread: the system may give it to any, and one that comes just
before a wait is lost on it as well."""


@pytest.mark.parametrize("taken_by", ["the process", "a thread"])
def test_interrupting_tells_what_was_done(folder: Path, pictures: Path, taken_by: str) -> None:
    program = ["-m", "splitdeploy"] if taken_by == "the process" else ["-c", TAKEN_BY_A_THREAD]
    with odd_server(*[answer] * 2, always=late(60)) as odd:
        process = subprocess.Popen(
            [
                *(sys.executable, *program, "run", str(folder), str(pictures)),
                *("--cloud", odd.address, "--deadline", "60s", "--window", "1"),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        ends_s = time.monotonic() + 30
        while len(odd.received) < 3 and time.monotonic() < ends_s:
            time.sleep(0.02)
        if taken_by == "the process":
            process.send_signal(signal.SIGINT)
        out, err = process.communicate("now\n" if taken_by == "a thread" else None, timeout=30)
    assert process.returncode == 130
    assert len(out.splitlines()) == 3  # a heading and the two that were answered
    assert "2 answered by the cloud" in err and "interrupted" in err and "Traceback" not in err


def test_files_are_taken_in_order_and_endings_do_not_matter_for_them(pictures: Path) -> None:
    named = [pictures / "notes.txt", pictures]
    assert picture_files(named) == [
        pictures / "notes.txt", *(pictures / f"{number}.png" for number in range(COUNT)),
    ]  # fmt: skip
    with pytest.raises(ImagesError, match="expected a picture in .*notes.txt, it cannot be read"):
        open_picture(pictures / "notes.txt")


def test_frames_are_released_when_they_are_left(video: Path) -> None:
    frames = video_frames(video)
    assert next(frames).shape == (24, 32, 3)
    frames.close()  # type: ignore[attr-defined]
    assert list(frames) == []
    with pytest.raises(ImagesError, match="expected a video that OpenCV .* can read, got camera"):
        video_frames(99)


def test_without_opencv_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'splitdeploy\[video\]'"):
        video_frames(0)


def test_several_cuts_of_one_model(folder: Path, pictures: Path, tmp_path: Path) -> None:
    other = make_bundle(tmp_path / "other", served="tiny_other_tail")
    manifest = json.loads((other / "manifest.json").read_text())
    (other / "manifest.json").write_text(json.dumps(manifest | {"cut": "later"}))
    bundles = [read_bundle(place, "cloud") for place in (folder, other)]
    with TailServer(bundles, port=0, threads=1) as server:
        cloud = f"127.0.0.1:{server.port}"
        found = splitdeploy("run", folder, "--also", other, "--cloud", cloud, pictures,
                            "--format", "json")  # fmt: skip
    lines = [json.loads(line) for line in found.out.splitlines()]
    assert found.code == 0 and len(lines) == COUNT
    assert {line["answered_by"] for line in lines} == {"cloud"}
    refused = splitdeploy("run", folder, "--also", other, "--local", pictures)
    assert refused.code == 2 and "leave it out with --local" in refused.err
