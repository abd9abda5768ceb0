"""Exported programs from disk: read, cut and verified, and never unpickled."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import SmallResNet

from splitdeploy.partitioner.models import LoadedModel, load_model
from splitdeploy.partitioner.plan import Plan, make_plan
from splitdeploy.partitioner.progress import Silent
from splitdeploy.partitioner.sweep import run_halves_of, verify_cuts
from splitdeploy.profiles.errors import ModelError


class RunsCode:
    """What a malicious pickle holds: a call that happens when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def save_program(path: Path, *, batch: int = 1, dynamic: bool = False) -> SmallResNet:
    torch.manual_seed(0)
    module = SmallResNet().eval()
    shapes = ({0: torch.export.Dim("batch", min=1)},) if dynamic else None
    program = torch.export.export(module, (torch.zeros(batch, 3, 16, 16),), dynamic_shapes=shapes)
    torch.export.save(program, path)
    return module


def rewrite(path: Path, change: Callable[[str, bytes], bytes], *, add: dict[str, bytes]) -> None:
    """The same archive with other members."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    root = next(iter(members)).split("/")[0]
    with zipfile.ZipFile(path, "w") as archive:
        for name, body in members.items():
            archive.writestr(name, change(name, body))
        for name, body in add.items():
            archive.writestr(f"{root}/{name}", body)


def plan_of(model: LoadedModel, folder: Path) -> Plan:
    return make_plan(
        model, cuts="all", precision="fp32", images=None, image_count=3, seed=0, folder=folder
    )


@pytest.mark.parametrize("dynamic", [False, True])
def test_every_cut_of_a_program_equals_the_module_that_was_saved(
    dynamic: bool, tmp_path: Path
) -> None:
    path = tmp_path / "net.pt2"
    module = save_program(path, batch=2 if dynamic else 1, dynamic=dynamic)
    model = load_model(str(path))
    assert model.name == "net"
    assert model.input.shape == (1, 3, 16, 16)
    assert model.weights.source == "in net.pt2"
    plan = plan_of(model, tmp_path)
    assert plan.exported.dynamic_batch is dynamic
    assert plan.images == (3 if dynamic else 1)
    rows = verify_cuts(plan, Silent())
    assert len(rows) > 10
    for row in (*rows, *(run_halves_of(plan, row) for row in rows)):
        assert row.error is None
        assert row.verified is not None and row.verified.ok
    with torch.no_grad():
        expected = module(torch.from_numpy(plan.feeds["x"])).numpy()
    assert plan.expected[0] == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_the_torch_head_of_a_fixed_batch_takes_many_pictures(tmp_path: Path) -> None:
    path = tmp_path / "net.pt2"
    module = save_program(path)
    plan = plan_of(load_model(str(path)), tmp_path)
    assert plan.pixels is not None
    assert len(plan.pixels) == 3
    head = plan.pixel_head(plan.cuts[-1])
    assert head is not None
    pixels = torch.from_numpy(plan.pixels)
    with torch.no_grad():
        expected = torch.cat([module(head.normalise(one[None])) for one in pixels])
        assert torch.allclose(head(pixels)[0], expected, rtol=1e-5, atol=1e-6)


def test_a_program_of_a_fixed_batch_above_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.pt2"
    save_program(path, batch=2)
    with pytest.raises(
        ModelError, match="takes a fixed batch of 2.*export it with a dynamic batch"
    ):
        load_model(str(path))


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.99])
def test_a_truncated_archive_is_told(keep: float, tmp_path: Path) -> None:
    path = tmp_path / "net.pt2"
    save_program(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(ModelError, match="is damaged or no exported program"):
        load_model(str(path))


def test_another_archive_is_told(tmp_path: Path) -> None:
    path = tmp_path / "net.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(ModelError, match="is damaged or no exported program"):
        load_model(str(path))


@pytest.mark.parametrize("kind", ["custom_obj_0", "opaque_obj_0"])
def test_an_archive_with_pickled_objects_is_refused(kind: str, tmp_path: Path) -> None:
    path, mark = tmp_path / "net.pt2", tmp_path / "it_ran"
    save_program(path)
    body = pickle.dumps(RunsCode(mark))
    rewrite(path, lambda _, kept: kept, add={f"data/constants/{kind}": body})
    with pytest.raises(ModelError, match="holds pickled objects, which could run code"):
        load_model(str(path))
    assert not mark.exists()


def test_pickled_sample_inputs_do_not_run(tmp_path: Path) -> None:
    path, mark = tmp_path / "net.pt2", tmp_path / "it_ran"
    save_program(path)
    evil = tmp_path / "evil.pt"
    torch.save((RunsCode(mark),), evil)
    rewrite(path, lambda name, kept: evil.read_bytes() if "sample_inputs" in name else kept, add={})
    with pytest.raises(ModelError, match="is damaged or no exported program"):
        load_model(str(path))
    assert not mark.exists()
