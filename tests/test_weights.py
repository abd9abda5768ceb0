"""Weights by name, by file and at random; nothing in a file is ever run."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import SmallResNet
from torch import nn

from splitdeploy.partitioner import weights as weights_module
from splitdeploy.partitioner.models import load_model
from splitdeploy.partitioner.weights import apply_state, enliven, fetch, load_state, state_sha256
from splitdeploy.profiles.errors import WeightsError

MODEL = "small_models:small_resnet"


@pytest.fixture
def trained() -> nn.Module:
    """Weights that no seed of the tests gives."""
    torch.manual_seed(1234)
    return SmallResNet()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty place for downloaded weights."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "hub" / "checkpoints"


class RunsCode:
    """What a malicious pickle holds: a call that happens when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def no_network(*_: object, **__: object) -> None:
    raise TimeoutError("timed out")


def test_random_weights_are_seeded() -> None:
    hashes = [load_model("squeezenet1_1", weights="none", seed=s).weights for s in (0, 0, 1)]
    assert hashes[0].sha256 == hashes[1].sha256 != hashes[2].sha256
    assert hashes[0].source == "random, seed 0"
    assert not hashes[0].trained


def test_the_digest_is_of_names_types_shapes_and_bytes() -> None:
    module = nn.Linear(2, 1)
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} torch.float32 {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().tobytes())
    assert state_sha256(module) == digest.hexdigest()
    with torch.no_grad():
        module.bias += 1e-6
    assert state_sha256(module) != digest.hexdigest()


@pytest.mark.parametrize("form", ["plain", "prefix", "nested", "model", "safetensors"])
def test_a_state_dict_is_read_from_a_file(form: str, trained: nn.Module, tmp_path: Path) -> None:
    state = dict(trained.state_dict())
    path = tmp_path / ("weights.safetensors" if form == "safetensors" else "weights.pth")
    if form == "safetensors":
        from safetensors.torch import save_file

        save_file(state, path)
    elif form == "prefix":
        torch.save({f"module.{name}": value for name, value in state.items()}, path)
    elif form in {"nested", "model"}:
        key = "state_dict" if form == "nested" else "model"
        torch.save({key: state, "epoch": 3}, path)
    else:
        torch.save(state, path)
    model = load_model(MODEL, weights=str(path))
    assert model.weights.sha256 == state_sha256(trained)
    assert model.weights.source == f"file {path.name}"
    assert model.weights.trained


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(
        WeightsError, match=r"expected a weights file at .*gone\.pth, there is none"
    ):
        load_model(MODEL, weights=str(tmp_path / "gone.pth"))


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize("keep", [0.0, 0.01, 0.5, 0.95])
def test_a_truncated_file_is_told(
    name: str, keep: float, trained: nn.Module, tmp_path: Path
) -> None:
    path = tmp_path / name
    if path.suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file(dict(trained.state_dict()), path)
    else:
        torch.save(trained.state_dict(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(WeightsError, match="is damaged or no state dict") as error:
        load_model(MODEL, weights=str(path))
    assert "\n" not in str(error.value)


def test_the_file_of_another_model_says_what_it_lacks(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save(nn.Linear(3, 2).state_dict(), path)
    with pytest.raises(
        WeightsError, match=r"is not of small_models:small_resnet: it lacks \d+"
    ) as e:
        load_model(MODEL, weights=str(path))
    assert "stem.weight" in str(e.value)
    assert "has besides 2 tensors (weight, bias" in str(e.value)


def test_a_tensor_of_another_shape_is_told(trained: nn.Module, tmp_path: Path) -> None:
    state = dict(trained.state_dict())
    state["fc.weight"] = torch.zeros(7, 8)
    path = tmp_path / "reshaped.pth"
    torch.save(state, path)
    with pytest.raises(WeightsError, match=r"fc\.weight is \[7, 8\] where \[5, 8\] is expected"):
        load_model(MODEL, weights=str(path))


def test_weights_that_do_not_fit_change_nothing(tmp_path: Path) -> None:
    module = nn.Linear(3, 2)
    before = state_sha256(module)
    with pytest.raises(WeightsError, match="lacks 1"):
        apply_state(module, {"weight": torch.ones(2, 3)}, tmp_path / "half.pth", "linear")
    assert state_sha256(module) == before


def test_batch_counters_may_be_missing(trained: nn.Module, tmp_path: Path) -> None:
    state = {n: t for n, t in trained.state_dict().items() if not n.endswith("batches_tracked")}
    path = tmp_path / "old.pth"
    torch.save(state, path)
    assert load_model(MODEL, weights=str(path)).weights.sha256 == state_sha256(trained)


@pytest.mark.parametrize("form", ["torch", "raw", "module"])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(
    form: str, trained: nn.Module, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    mark, path = tmp_path / "it_ran", tmp_path / "weights.pth"
    if form == "torch":
        torch.save({"state_dict": dict(trained.state_dict()), "hook": RunsCode(mark)}, path)
    elif form == "raw":
        path.write_bytes(pickle.dumps(RunsCode(mark)))
    else:
        torch.save(trained, path)
    with pytest.raises(WeightsError, match=r"whole pickled modules are refused"):
        load_state(path)
    assert not mark.exists()
    assert not recwarn.list


@pytest.mark.parametrize("content", [[1, 2], {"a": 3}, torch.zeros(2)])
def test_what_is_no_state_dict_is_told(content: object, tmp_path: Path) -> None:
    path = tmp_path / "odd.pth"
    torch.save(content, path)
    with pytest.raises(WeightsError, match="expected tensors by name"):
        load_state(path)


def test_without_a_network_random_weights_come_at_once(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timeouts = []

    def connect(_: object, timeout: float) -> None:
        timeouts.append(timeout)
        raise TimeoutError("timed out")

    monkeypatch.setattr(weights_module.socket, "create_connection", connect)
    model = load_model("squeezenet1_1")
    assert model.weights.source == "random, seed 0 (pretrained ones could not be had)"
    assert not model.weights.trained
    assert timeouts == [weights_module.CONNECT_TIMEOUT_S]
    assert weights_module.CONNECT_TIMEOUT_S <= 5
    assert not cache.exists()


def test_a_cached_file_is_taken_without_a_network(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchvision

    monkeypatch.setattr(weights_module.socket, "create_connection", no_network)
    torch.manual_seed(77)
    module = torchvision.models.squeezenet1_1(weights=None)
    url = torchvision.models.SqueezeNet1_1_Weights.DEFAULT.url
    cache.mkdir(parents=True)
    torch.save(module.state_dict(), cache / Path(url).name)
    model = load_model("squeezenet1_1")
    assert model.weights.trained
    assert model.weights.source == f"pretrained, torchvision {Path(url).name}"
    assert model.weights.sha256 == state_sha256(module)


class Answer:
    """An HTTP answer with these bytes."""

    def __init__(self, body: bytes) -> None:
        self.blocks = [body, b""]

    def read(self, _: int) -> bytes:
        return self.blocks.pop(0)

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, *_: object) -> None:
        self.blocks = []


class Connection:
    """A connection that came."""

    def close(self) -> None:
        """Nothing."""


@pytest.mark.parametrize("intact", [True, False])
def test_a_download_is_kept_only_if_its_checksum_is_in_its_name(
    intact: bool, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = b"weights"
    name = f"net-{hashlib.sha256(body).hexdigest()[:8]}.pth"
    monkeypatch.setattr(weights_module.socket, "create_connection", lambda *_, **__: Connection())
    sent = body if intact else body[:-1]
    monkeypatch.setattr(weights_module.urllib.request, "urlopen", lambda *_, **__: Answer(sent))
    if intact:
        assert fetch(f"https://weights.example/{name}") == cache / name
        assert (cache / name).read_bytes() == body
    else:
        with pytest.raises(WeightsError, match="did not arrive whole"):
            fetch(f"https://weights.example/{name}")
    assert [path.name for path in cache.iterdir()] == ([name] if intact else [])


def test_zero_matrices_come_alive_the_same_way_twice() -> None:
    modules = [nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3)) for _ in range(2)]
    for module in modules:
        nn.init.zeros_(module[1].weight)
        nn.init.zeros_(module[1].bias)
    kept = modules[0][0].weight.clone()
    for module in modules:
        enliven(module, 3)
    assert torch.equal(modules[0][0].weight, kept)
    assert modules[0][1].weight.all()
    assert not modules[0][1].bias.any()
    assert torch.equal(modules[0][1].weight, modules[1][1].weight)


def narrowing(gain: float) -> nn.Module:
    """Twelve convolutions that each change the signal by a factor; a bias at the end."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for _ in range(12):
        convolution = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        nn.init.normal_(convolution.weight, std=gain / 27**0.5)
        layers += [convolution, nn.BatchNorm2d(3)]
    return nn.Sequential(*layers, nn.Conv2d(3, 3, 1))


@pytest.mark.parametrize("gain", [0.03, 1.0, 30.0])
def test_a_signal_that_fades_below_the_biases_is_brought_back(gain: float) -> None:
    twins = [narrowing(gain), narrowing(gain)]
    before = state_sha256(twins[0])
    for module in twins:
        enliven(module, 1, (3, 8, 8))
    assert state_sha256(twins[0]) == state_sha256(twins[1])
    assert not twins[0].training
    first, second = twins[0](torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2)))
    assert (first - second).abs().max() > 1e-2 * first.abs().max()
    # Where the answers told two inputs apart before, nothing is changed.
    assert (state_sha256(twins[0]) != before) is (gain == 0.03)


def test_batch_norms_stay_as_they_are_without_a_shape() -> None:
    module = narrowing(0.03)
    before = state_sha256(module)
    enliven(module, 1)
    assert state_sha256(module) == before
