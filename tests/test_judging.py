"""What is asked of a reconstruction beside its likeness: identity, class, LPIPS, and the words."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn
from torchmetrics.functional.image import learned_perceptual_image_patch_similarity
from torchvision import models

from splitdeploy.attacks.auxiliary import Auxiliary
from splitdeploy.attacks.base import run_attack
from splitdeploy.attacks.baselines import best_baseline
from splitdeploy.attacks.identification import Identification, class_kept, identify
from splitdeploy.attacks.images import load_photographs
from splitdeploy.attacks.intervals import wilson95
from splitdeploy.attacks.judging import Judges, judged
from splitdeploy.attacks.least_squares import LeastSquares
from splitdeploy.attacks.perceptual import BACKBONES, lpips
from splitdeploy.attacks.pixel_head import PixelHead
from splitdeploy.attacks.quality import Quality, judge
from splitdeploy.attacks.target import AttackTarget
from splitdeploy.attacks.threat import ThreatModel
from splitdeploy.attacks.verdict import WORDS, Level, level_of, verdict
from splitdeploy.profiles.report import Baseline


def photographs(count: int, size: int = 24) -> Tensor:
    return torch.from_numpy(load_photographs("photos", shape=(3, size, size), count=count).pixels)


# --- identification -------------------------------------------------------------------------


def test_a_picture_is_told_from_a_pale_dark_noisy_copy() -> None:
    pixels = photographs(12)
    draw = torch.Generator().manual_seed(0)
    poor = 0.3 * pixels[:4] + 0.1 + 0.02 * torch.randn(pixels[:4].shape, generator=draw)
    found = identify(poor, pixels[:4], pixels[4:])
    assert found == Identification((1, 1, 1, 1), 12)
    assert (found.rate, found.chance, found.above_chance) == (1.0, 1 / 12, True)


def test_the_rank_is_the_place_in_the_gallery() -> None:
    pixels = photographs(6)
    # Each reconstruction is the next original: its own is never the nearest.
    found = identify(pixels[:3].roll(-1, 0), pixels[:3], pixels[3:])
    distances = [
        sorted((float((_unit(pixels[(i + 1) % 3]) - _unit(q)).square().sum()), j)
               for j, q in enumerate(pixels))
        for i in range(3)
    ]  # fmt: skip
    expected = tuple([j for _, j in row].index(i) + 1 for i, row in enumerate(distances))
    assert found.ranks == expected and min(expected) > 1


def _unit(picture: Tensor) -> Tensor:
    flat = picture.double() - picture.double().mean()
    return flat / flat.norm()


def test_flat_reconstructions_tell_nothing() -> None:
    pixels = photographs(5)
    found = identify(torch.full_like(pixels[:2], 0.4), pixels[:2], pixels[2:])
    assert found.ranks == (5, 5) and not found.above_chance


def test_copies_of_an_original_are_no_rivals() -> None:
    pixels = photographs(4)
    found = identify(pixels[:2], pixels[:2], torch.cat([pixels, pixels[:1] * 0.5]))
    assert found == Identification((1, 1), 4)
    with pytest.raises(ValueError, match="pictures of one shape"):
        identify(pixels, pixels[:2], pixels)


@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_of_a_share_is_wilson_s(case: tuple[int, int]) -> None:
    hits, n = case
    expected = stats.binomtest(hits, n).proportion_ci(0.95, "wilson")
    assert wilson95(hits, n) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_a_share_of_nothing_is_refused() -> None:
    for case in ((0, 0), (3, 2), (-1, 2)):
        with pytest.raises(ValueError, match="expected 0 to n hits"):
            wilson95(*case)


def test_the_class_is_kept_where_the_answer_is_the_same() -> None:
    pixels = torch.tensor([0.1, 0.2, 0.8, 0.9]).view(4, 1, 1, 1).expand(4, 1, 4, 4)

    def bright(pictures: Tensor) -> Tensor:
        mean = pictures.mean((1, 2, 3))
        return torch.stack([0.5 - mean, mean - 0.5], 1)

    found = class_kept(bright, pixels.flip(0), pixels)
    assert (found.hits, found.images, found.rate) == (0, 4, 0.0)
    found = class_kept(bright, pixels[[1, 0, 2, 0]], pixels)
    assert found.rate == 0.75 and found.ci95 == wilson95(3, 4)


# --- LPIPS ----------------------------------------------------------------------------------


def _put_backbone(hub: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seeded weights where torch's hub would keep the trained ones."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(hub))
    torch.manual_seed(0)
    weights = getattr(models, BACKBONES[name]).DEFAULT  # type: ignore[index]
    net = {"squeeze": models.squeezenet1_1, "alex": models.alexnet}[name](weights=None)
    (hub / "checkpoints").mkdir(parents=True, exist_ok=True)
    torch.save(net.state_dict(), hub / "checkpoints" / weights.url.rpartition("/")[2])


def test_lpips_is_that_of_torchmetrics_where_the_network_is_at_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _put_backbone(tmp_path, "squeeze", monkeypatch)
    monkeypatch.setattr(torch.hub, "download_url_to_file", pytest.fail)
    y = photographs(3, 40)
    x = (y + 0.3).clamp(0, 1)
    found = lpips(x + 1e-3, y)
    expected = learned_perceptual_image_patch_similarity(
        (x + 1e-3).clamp(0, 1), y, "squeeze", normalize=True
    )
    assert found.value == pytest.approx(float(expected), rel=1e-5)
    assert "squeezenet1_1" in found.text
    assert lpips(y, y).value == pytest.approx(0.0, abs=1e-7)
    grey = lpips(x[:, :1], y[:, :1])
    assert grey.value is not None and grey.value > 0


def test_without_its_network_there_is_a_reason_and_no_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", pytest.fail)
    y = photographs(2, 40)
    found = lpips(y, y)
    assert found.value is None and "none of alexnet" in found.text and str(tmp_path) in found.text
    assert "32 pixels" in lpips(y[..., :16, :16], y[..., :16, :16]).text
    _put_backbone(tmp_path, "squeeze", monkeypatch)
    file = next((tmp_path / "checkpoints").iterdir())
    torch.save({"wrong": torch.zeros(1)}, file)
    assert lpips(y, y).value is None and "cannot be used" in lpips(y, y).text


# --- the words ------------------------------------------------------------------------------

unit = st.floats(0, 1)
decibels = st.floats(0, 60)


def _told(hits: int, n: int = 8, gallery: int = 40) -> Identification:
    return Identification((1,) * hits + (gallery,) * (n - hits), gallery)


@given(unit, unit, decibels, decibels, unit, decibels, st.integers(0, 8), st.integers(0, 8))
def test_a_better_reconstruction_never_gets_worse_words(
    ssim: float, more: float, psnr: float, louder: float, guess: float, guess_db: float,
    hits: int, extra: int,
) -> None:  # fmt: skip
    baseline = Baseline(guess_db, guess, 0.05)
    worse = level_of(ssim, psnr, baseline, _told(hits))
    better = level_of(
        ssim + (1 - ssim) * more, psnr + louder, baseline, _told(min(8, hits + extra))
    )
    assert better >= worse
    assert level_of(ssim, psnr, baseline, None) <= worse


@pytest.mark.parametrize(
    ("ssim", "psnr_db", "hits", "level"),
    [
        (0.10, 13.0, 0, Level.GUESS),
        (0.14, 13.9, 0, Level.GUESS),  # 0.04 and 0.9 dB more than the guess: no trace
        (0.16, 13.0, 0, Level.OUTLINES),
        (0.10, 14.0, 0, Level.OUTLINES),
        (0.10, 13.0, 4, Level.OUTLINES),  # a machine tells what nobody sees
        (0.36, 13.0, 0, Level.OUTLINES),
        (0.38, 13.0, 0, Level.RECOGNISABLE),
        (0.92, 25.0, 8, Level.COPY),
    ],
)
def test_the_levels(ssim: float, psnr_db: float, hits: int, level: Level) -> None:
    assert level_of(ssim, psnr_db, Baseline(13.0, 0.1, 0.05), _told(hits)) == level


def quality(ssim: float, low: float, high: float, images: int = 8) -> Quality:
    return Quality(20.0, ssim, 0.01, (low, high), images, (18.0, 22.0), (0.005, 0.015))


def test_the_words_carry_the_figures_and_how_sure_they_are() -> None:
    baseline = Baseline(19.9, 0.1, 0.05)
    text = verdict(quality(0.5, 0.3, 0.7), baseline, _told(8)).text
    assert text.startswith("The cloud can recover a recognisable picture. SSIM 0.50 over 8")
    assert "best guess has 0.10" in text and "which of 40 pictures" in text
    assert "100% of the time (68% to 100%; chance is 2.5%)" in text
    assert "may be outlines to a recognisable picture (95 % interval)" in text
    assert "may be" not in verdict(quality(0.5, 0.45, 0.55), baseline).text


def test_nothing_recovered_is_no_proof_of_safety() -> None:
    baseline = Baseline(20.5, 0.3, 0.01)
    poor = replace(quality(0.3, 0.29, 0.31), psnr_ci95_db=(19.0, 21.0))
    ended, cut_short = (verdict(poor, baseline, converged=c).text for c in (True, False))
    assert ended.startswith(WORDS[Level.GUESS]) and "proves no safety" in ended
    assert "a longer attack may recover more" in cut_short
    one = verdict(quality(0.3, -1.0, 1.0, images=1), baseline).text
    assert "One picture says nothing of others." in one


def test_a_guess_of_photographs_is_called_a_guess() -> None:
    pixels = photographs(6)
    baseline = best_baseline(pixels)
    flat = judge(torch.full_like(pixels, 0.5), pixels)
    assert verdict(flat, baseline).level == Level.GUESS
    assert verdict(judge(pixels, pixels), baseline).level == Level.COPY


# --- together -------------------------------------------------------------------------------


def test_a_record_holds_all_that_was_asked() -> None:
    pixels = photographs(10)
    head = PixelHead(nn.Conv2d(3, 6, 3, padding=1), (0.5,) * 3, (0.2,) * 3).eval()
    with torch.no_grad():
        target = AttackTarget(head(pixels[:3]), head, (3, 24, 24))
    asked = Judges(
        gallery=pixels[3:], classifier=lambda x: x.mean((2, 3)), perceptual=True,
        baseline=best_baseline(pixels[:3]),
    )  # fmt: skip
    record, _ = run_attack(LeastSquares(), target, pixels[:3], judges=asked)
    assert record.identified == record.class_kept == 1.0
    assert record.identified_chance == pytest.approx(0.1)
    assert record.identified_ci95 == wilson95(3, 3)
    assert record.lpips is None and any("no LPIPS" in note for note in record.notes)
    assert any("weak evidence" in note for note in record.notes)
    assert record.verdict is not None and record.verdict.startswith(WORDS[Level.COPY])
    assert record.psnr_ci95_db is not None and record.mse_ci95 is not None
    assert math.isfinite(record.psnr_ci95_db[1])
    plain, _ = run_attack(LeastSquares(), target, pixels[:3])
    assert plain.identified is plain.class_kept is None and plain.verdict is not None


def test_one_picture_without_others_is_not_identified() -> None:
    pixels = photographs(1)
    fields = judged(pixels, pixels, Judges(gallery=pixels), converged=True)
    assert "identified" not in fields and "pictures was sent" not in fields["verdict"]


def test_a_threat_model_says_what_the_attackers_pictures_were() -> None:
    class WithPictures(LeastSquares):
        name = "with-pictures"
        threat = ThreatModel(weights=True, auxiliary_data=True)

    pixels = photographs(4, 12)
    head = PixelHead(nn.Identity(), (0.0,) * 3, (1.0,) * 3).eval()
    own = Auxiliary(pixels[2:], "same distribution")
    target = AttackTarget((pixels[:2],), head, (3, 12, 12), auxiliary=own)
    record, _ = run_attack(WithPictures(), target, pixels[:2])
    assert record.threat_model.endswith("(2 pictures, same distribution)")
    assert "pictures, same" not in run_attack(LeastSquares(), target, pixels[:2])[0].threat_model
