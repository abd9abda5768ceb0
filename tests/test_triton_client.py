"""The client, unchanged, gets its answers from a real Triton: one by one, streamed, in batches."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import split_bundles
import triton_process
from certificates import Authority
from triton_process import TritonProcess

from splitdeploy.edge_runtime.client import SplitClient
from splitdeploy.edge_runtime.tls import ClientTls
from splitdeploy.profiles.errors import CloudError

pytestmark = pytest.mark.skipif(not triton_process.HAVE_TRITON, reason=triton_process.MISSING)

COUNT = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return split_bundles.make_bundle(tmp_path_factory.mktemp("bundles") / "plain")


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonProcess]:
    started = TritonProcess([folder], tmp_path_factory.mktemp("work"))
    yield started
    assert started.stop() == 0


def test_one_by_one_streamed_and_in_batches(server: TritonProcess, folder: Path) -> None:
    pictures = split_bundles.arrays(COUNT)
    with SplitClient(folder, server.address, deadline_s=30, max_batch=16) as client:
        answers = [client.infer(picture) for picture in pictures[:5]]
        answers += client.stream(pictures)
        answers += client.infer_batch(pictures)
        assert client.stats.answered_by_cloud == len(answers) == 5 + 2 * COUNT
    for answer, picture in zip(answers, pictures[:5] + pictures + pictures, strict=True):
        assert answer.answered_by == "cloud"
        split_bundles.check_right(answer.outputs, picture)


def test_a_request_that_is_too_large_is_refused_and_the_next_answered(
    server: TritonProcess, folder: Path
) -> None:
    pictures = split_bundles.arrays(32)
    with SplitClient(folder, server.address, deadline_s=30, max_batch=32) as client:
        refused = client.infer_batch(pictures)
        assert {answer.kind for answer in refused} == {"refused"}
        assert "batch-size must be <= 16" in str(refused[0].error)
        split_bundles.check_right(client.infer(pictures[0]).outputs, pictures[0])


def test_a_tail_that_it_does_not_serve_is_told(server: TritonProcess, tmp_path: Path) -> None:
    other = split_bundles.make_bundle(tmp_path / "other", served="another_tail")
    with pytest.raises(CloudError, match="another_tail"):
        SplitClient(other, server.address)


def test_over_mutual_tls_and_while_it_is_gone(folder: Path, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    end, mine = authority.server(), authority.client()
    started = TritonProcess([folder], tmp_path / "work", [end.cert, end.key, authority.pair.cert])
    tls = ClientTls(authority.pair.cert, mine.cert, mine.key)
    pictures = split_bundles.arrays(3)
    try:
        with SplitClient(
            folder, started.address, tls=tls, fallback="local", deadline_s=5.0
        ) as client:
            first = client.infer(pictures[0])
            assert first.answered_by == "cloud"
            os.kill(started.process.pid, signal.SIGTERM)
            started.process.wait(timeout=30)
            second = client.infer(pictures[1])
            assert second.answered_by == "local"
            for answer, picture in ((first, pictures[0]), (second, pictures[1])):
                split_bundles.check_right(answer.outputs, picture)
    finally:
        assert started.stop() == 0
