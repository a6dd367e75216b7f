"""Fillings of holes whose worth is known, and the baselines; on painted scenes."""

import copy
import io
import math
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from course_utils import baselines, fillings
from course_utils.data import Images, as_grey
from course_utils.distributions import DiscretisedLogistic, logistic_sample, to_level
from course_utils.evaluate import mean_and_error
from course_utils.holes import harmonic_fill, pasted, with_hole
from course_utils.models.common import centre
from course_utils.models.inpainting_vae import InpaintingVAE
from course_utils.models.unet import UNet
from course_utils.objectives import hole_bound
from course_utils.scenes import draw_scenes


@pytest.fixture(scope="module")
def scenes() -> Images:
    return Images(*draw_scenes(60, seed=3))


@pytest.fixture(scope="module")
def x(scenes) -> torch.Tensor:
    """(8, 7, 64, 64), the last eight scenes."""
    return with_hole(as_grey(scenes.pixels[-8:]))


@pytest.fixture(scope="module")
def truth(x) -> torch.Tensor:
    return centre(x[:, :3])


@pytest.fixture(scope="module")
def train(scenes) -> Images:
    return scenes.subset(slice(0, 50))


def smooth_noise(n_draws: int, n: int) -> torch.Tensor:
    """Draws that vary in large blotches: (n_draws, n, 3, 32, 32)."""
    blotches = F.interpolate(torch.randn(n_draws * n, 3, 4, 4), size=32, mode="bilinear")
    return 0.2 * blotches.unflatten(0, (n_draws, n))


# Filling holes -----------------------------------------------------------------------------------


class Remembering(nn.Module):
    """Puts into a hole the first known pixel's red, plus noise, plus 100 where layer 1 is to vary."""

    def __init__(self):
        super().__init__()
        self.device = nn.Parameter(torch.zeros(1))
        self.norm = nn.BatchNorm2d(3)
        self.sizes, self.modes = [], []

    def complete(self, x, n_draws=1, vary=None):
        self.sizes.append(len(x))
        self.modes.append(self.training)
        filling = self.norm(centre(x[:, :3]))  # in training mode this would move the running averages
        filling = 0 * filling + x[:, :1, :1, :1] + (100 if vary is not None and 1 in vary else 0)
        return filling.repeat(n_draws, 1, 1, 1) + 1e-4 * torch.randn(n_draws * len(x), 3, 32, 32)


@pytest.mark.parametrize("chunk", [1, 3, 8, 100])
def test_fillings_come_draw_by_draw_in_the_order_of_the_photographs(x, chunk):
    model = Remembering()
    found = fillings.fillings_of(model, x, 5, chunk=chunk)
    assert found.shape == (5, 8, 3, 32, 32) and max(model.sizes) == min(chunk, 8)
    expected = x[:, 0, 0, 0]
    assert (found.mean(dim=(2, 3, 4)) - expected).abs().max() < 1e-3
    assert found.std(dim=0).min() > 0, "draws are copies"


def test_fillings_repeat_themselves_and_leave_everything_as_it_was(x):
    model = Remembering().train()
    state, before = torch.get_rng_state(), copy.deepcopy(model.state_dict())
    first = fillings.fillings_of(model, x, 2)
    assert torch.equal(first, fillings.fillings_of(model, x, 2))
    assert not torch.equal(first, fillings.fillings_of(model, x, 2, seed=1))
    assert torch.equal(state, torch.get_rng_state())
    assert model.training and not any(model.modes) and not first.requires_grad
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_the_layers_that_vary_are_passed_on(x):
    model = Remembering()
    assert fillings.fillings_of(model, x, 1, vary=(1,)).min() > 99
    assert fillings.fillings_of(model, x, 1, vary=(0, 2)).max() < 2


def drawn_pixels(model: InpaintingVAE, x: torch.Tensor, n_draws: int) -> torch.Tensor:
    """A draw of every layer, then of every pixel."""

    def draw(level, prior, h):
        return torch.distributions.Normal(prior[0], (0.5 * prior[1]).exp()).sample()

    guess, told = model.context(x)
    told = [t.repeat(n_draws, 1, 1, 1) for t in told]
    return model.likelihood.sample(model.descend(guess.repeat(n_draws, 1, 1, 1), told, draw)[2])


def test_full_draws_are_draws_of_the_likelihood(x):
    model = InpaintingVAE(UNet()).eval()
    for value in model.prior.parameters():
        nn.init.normal_(value, std=0.2)  # or all priors would be N(0, 1)
    found = fillings.full_draws_of(model, x[:3], 40, chunk=3)
    with torch.no_grad():
        expected = drawn_pixels(model, x[:3], 40).unflatten(0, (40, 3))
    assert torch.equal(found, to_level(found))
    error = found.std(dim=0).mean() / expected.std(dim=0).mean() - 1
    assert abs(error) < 0.02
    assert (found.mean(dim=0) - expected.mean(dim=0)).abs().mean() < 0.03
    assert found.std(dim=0).mean() > 3 * fillings.fillings_of(model, x[:3], 40).std(dim=0).mean()
    assert model.likelihood.mean(torch.zeros(1, 14, 3, 2, 2)).abs().max() == 0, "the model itself was changed"


# Near the truth? ---------------------------------------------------------------------------------


def test_psnr_is_that_of_torchmetrics(x, truth):
    from torchmetrics.functional.image import peak_signal_noise_ratio

    guess = torch.stack([centre(x[:, 3:6]), torch.rand_like(truth)])
    each = [[peak_signal_noise_ratio(a, b, data_range=1.0) for a, b in zip(g, truth)] for g in guess]  # noqa: B905
    torch.testing.assert_close(fillings.hole_psnr(truth, guess), torch.tensor(each))


def test_psnr_of_a_constant_error_and_of_none(truth):
    assert fillings.hole_psnr(truth, truth + 0.1).tolist() == pytest.approx([20.0] * 8, abs=1e-4)
    assert fillings.hole_psnr(truth, truth).tolist() == pytest.approx([10 * math.log10(12 * 255**2)] * 8)


def ssim_by_hand(a: np.ndarray, b: np.ndarray) -> float:
    """Wang et al. 2004, eq. 13, window by window: (32, 32) twice, in [0, 1]."""
    bell = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    w, found = np.outer(bell, bell) / bell.sum() ** 2, []
    for i in range(22):
        for j in range(22):
            p, q = a[i : i + 11, j : j + 11], b[i : i + 11, j : j + 11]
            m, n = (w * p).sum(), (w * q).sum()
            v, u, c = (w * (p - m) ** 2).sum(), (w * (q - n) ** 2).sum(), (w * (p - m) * (q - n)).sum()
            found.append((2 * m * n + 1e-4) * (2 * c + 9e-4) / ((m * m + n * n + 1e-4) * (v + u + 9e-4)))
    return float(np.mean(found))


def test_ssim_is_that_of_the_paper(x, truth):
    truth, guess = truth[:2], centre(x[:2, 3:6])
    expected = [
        np.mean([ssim_by_hand(p, q) for p, q in zip(a, b, strict=True)])
        for a, b in zip(truth.double().numpy(), guess.double().numpy(), strict=True)
    ]
    assert fillings.hole_ssim(truth, guess).tolist() == pytest.approx(expected, abs=1e-4)


def test_ssim_of_flat_pictures_is_the_luminance_term():
    truth, a, b = torch.full((2, 3, 32, 32), 0.8), torch.full((3, 32, 32), 0.2), torch.full((3, 32, 32), 0.8)
    expected = (2 * 0.8 * 0.2 + 1e-4) / (0.8**2 + 0.2**2 + 1e-4)
    found = fillings.hole_ssim(truth, torch.stack([torch.stack([a, b]), torch.stack([b, a])]))
    assert found.flatten().tolist() == pytest.approx([expected, 1, 1, expected], abs=1e-4)


def test_ssim_needs_no_import_before_it_is_asked():
    """It would bring matplotlib into a training."""
    code = "import course_utils.baselines, course_utils.fillings, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"matplotlib", "torchmetrics"} & set(loaded.stdout.split())


def test_best_so_far_is_the_best_of_the_first_k(truth):
    guesses = truth + torch.tensor([0.3, 0.1, 0.2, 0.01]).reshape(4, 1, 1, 1, 1)
    expected = -20 * torch.log10(torch.tensor([0.3, 0.1, 0.1, 0.01]))
    torch.testing.assert_close(fillings.best_so_far(truth, guesses), expected[:, None].expand(4, 8))


def test_the_noise_control_has_the_samples_mean_and_variance(truth):
    samples = truth + smooth_noise(50, 8) * torch.linspace(0.1, 1, 8).reshape(8, 1, 1, 1)
    control = fillings.noise_control(samples)
    torch.testing.assert_close(control.mean(dim=0), samples.mean(dim=0), atol=1e-5, rtol=0)
    torch.testing.assert_close(fillings.diversity(control), fillings.diversity(samples), rtol=0.02, atol=0)
    assert torch.equal(control, fillings.noise_control(samples))
    assert not torch.equal(control, fillings.noise_control(samples, seed=1))
    deviations = (control - samples.mean(dim=0)).flatten(0, 2)
    neighbours = (deviations[:, 1:] * deviations[:, :-1]).mean() / deviations.square().mean()
    assert abs(neighbours) < 0.01, "the noise is not white"


def test_samples_that_are_white_noise_are_as_good_as_their_control(truth):
    samples = 0.5 + 0.1 * torch.randn(6, 8, 3, 32, 32)
    ours, theirs = (fillings.best_so_far(truth, each) for each in (samples, fillings.noise_control(samples)))
    assert (ours - theirs).abs().max() < 0.1  # dB


def test_only_samples_that_know_their_photograph_beat_the_borrowed_control():
    truth = 0.5 + smooth_noise(1, 200)[0]
    blind = 0.5 + smooth_noise(10, 200)
    gain = fillings.best_so_far(truth, blind) - fillings.best_so_far(truth, fillings.borrowed_control(blind))
    estimate = mean_and_error(gain[9])
    assert abs(estimate.value) < 3 * estimate.stderr
    white = fillings.best_so_far(truth, fillings.noise_control(blind))
    assert (fillings.best_so_far(truth, blind) - white)[9].mean() > 1, "white noise is too weak a control"
    knowing = blind.clone()
    knowing[3] = truth + 0.3 * (blind[3] - 0.5)  # one of ten is near
    gain = (
        fillings.best_so_far(truth, knowing)[9]
        - fillings.best_so_far(truth, fillings.borrowed_control(knowing))[9]
    )
    assert mean_and_error(gain).value > 3


def test_the_borrowed_control_has_the_samples_mean_and_variance_and_anothers_shapes(truth):
    samples = truth + smooth_noise(9, 8) * torch.linspace(0.1, 1, 8).reshape(8, 1, 1, 1)
    control = fillings.borrowed_control(samples)
    torch.testing.assert_close(control.mean(dim=0), samples.mean(dim=0), atol=1e-5, rtol=0)
    torch.testing.assert_close(fillings.diversity(control), fillings.diversity(samples))
    ours, theirs = (control - samples.mean(dim=0))[4, 5], (samples - samples.mean(dim=0))[4, 4]
    assert torch.corrcoef(torch.stack([ours.flatten(), theirs.flatten()]))[0, 1] > 0.999
    assert fillings.borrowed_control(truth.expand(3, -1, -1, -1, -1)).isfinite().all(), (
        "of samples that agree"
    )


def test_paired_differences_leave_out_what_photographs_have_in_common():
    common, own = 5 * torch.randn(400), 0.1 * torch.randn(400)
    found = fillings.paired(common + own + 2, common)
    assert found.value == pytest.approx(2, abs=0.03) and found.n == 400
    assert found.stderr == pytest.approx(own.std().item() / 20, rel=1e-3)
    with pytest.raises(ValueError, match="per photograph"):
        fillings.paired(common, common[:399])
    with pytest.raises(ValueError, match="per photograph"):
        fillings.paired(common[:, None], common[:, None])


# Of how many kinds? ------------------------------------------------------------------------------


def test_diversity_is_in_grey_levels(truth):
    samples = truth + (10 / 255) * torch.randn(200, 8, 3, 32, 32) * torch.tensor([1.0, 2, 2])[:, None, None]
    expected = [10 * math.sqrt((1 + 4 + 4) / 3)] * 8
    assert fillings.diversity(samples).tolist() == pytest.approx(expected, rel=0.01)
    assert fillings.diversity(truth.expand(4, -1, -1, -1, -1)).max() < 1e-3
    assert fillings.diversity(torch.stack([truth, truth + 2 / 255])).tolist() == pytest.approx(
        [math.sqrt(2)] * 8, rel=1e-3
    )


@pytest.mark.parametrize(
    "u, v, band",
    [(0, 0, 0), (0, 1, 1), (1, 1, 1), (2, 0, 2), (2, 3, 2), (4, 0, 3), (7, 3, 3), (8, 0, 4), (16, 0, 5)],
)
@pytest.mark.parametrize("colour, kind", [((1, 1, 1), 0), ((2, -1, -1), 1), ((0, 1, -1), 1)])
def test_a_cosine_lies_in_its_band(u, v, band, colour, kind):
    place = (torch.arange(32) + 0.5) * math.pi / 32
    wave = torch.cos(u * place)[:, None] * torch.cos(v * place)
    wave = wave * torch.tensor(colour, dtype=torch.float32)[:, None, None]
    samples = 0.5 + torch.tensor([0.0, 0.1, -0.2]).reshape(3, 1, 1, 1, 1) * wave
    found = fillings.band_variance(samples)
    assert found.shape == (1, 2, 6)
    expected = torch.zeros(1, 2, 6)
    expected[0, kind, band] = fillings.diversity(samples)[0] ** 2
    torch.testing.assert_close(found, expected, atol=0.01, rtol=1e-4)


def test_bands_add_up_to_the_squared_diversity(truth):
    samples = truth + smooth_noise(7, 8) + 0.1 * torch.randn(7, 8, 3, 32, 32)
    found = fillings.band_variance(samples)
    torch.testing.assert_close(found.sum(dim=(1, 2)), fillings.diversity(samples) ** 2)
    assert found.min() > 0


def test_white_noise_has_the_variance_of_each_band_s_share():
    samples = (3 / 255) * torch.randn(40, 20, 3, 32, 32)
    radius = np.hypot(*np.meshgrid(np.arange(32), np.arange(32)))
    edges = [*fillings.BANDS, math.inf]
    share = [((radius >= low) & (radius < high)).mean() for low, high in pairwise(edges)]
    found = fillings.band_variance(samples).mean(dim=0)
    expected = 9 * torch.tensor(share) * torch.tensor([[1 / 3], [2 / 3]])
    torch.testing.assert_close(found, expected.float(), rtol=0.12, atol=0)


# Calibrated, and without a seam? -----------------------------------------------------------------


def share_within(share: float, narrowness: float) -> float:
    """How much of N(0, 1) is within the central interval of N(0, 1 / narrowness²)."""
    normal = torch.distributions.Normal(0.0, 1.0)
    edge = normal.icdf(torch.tensor(0.5 + share / 2)) / narrowness
    return (2 * normal.cdf(edge) - 1).item()


@pytest.mark.parametrize("share", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("narrowness", [0.5, 1.0, 2.0])
def test_coverage_of_gaussian_draws(share, narrowness):
    truth = 0.5 + 0.1 * torch.randn(10, 3, 32, 32)
    draws = 0.5 + 0.1 / narrowness * torch.randn(300, 10, 3, 32, 32)
    found = fillings.coverage(truth, draws, share)
    assert found.shape == (10,)
    assert found.mean().item() == pytest.approx(share_within(share, narrowness), abs=0.01)


@pytest.mark.parametrize("n_draws", [1, 4, 19, 32])
@pytest.mark.parametrize("levels", [1, 2, 3, 200])
def test_a_right_model_covers_its_share_with_few_draws_and_with_ties(n_draws, levels):
    found = 100 + torch.randint(levels, (n_draws + 1, 20, 3, 32, 32))
    draws, truth = found[1:].float() / 255, found[0].float() * (1 / 255)  # which differ in the last bit
    for share in (0.5, 0.95):
        assert fillings.coverage(truth, draws, share).mean().item() == pytest.approx(share, abs=0.006)


def test_coverage_of_draws_that_are_all_wrong(truth):
    draws = (truth + 2 + 0.1 * torch.randn(99, 8, 3, 32, 32)).clamp(min=1.1)
    assert fillings.coverage(truth, draws, 0.5).max() == 0
    assert fillings.coverage(truth, draws, 0.99).tolist() == pytest.approx([0.5] * 8, abs=1e-4)
    draws = draws[:, :, :, :16]
    half = torch.cat([draws, truth[:, :, 16:].expand(99, -1, -1, -1, -1)], dim=-2)
    assert fillings.coverage(truth, half, 0.5).tolist() == pytest.approx([0.25] * 8, abs=1e-4)


def test_seam_ratio_of_a_photograph_pasted_into_itself(x, truth):
    """Its own, step by step."""
    expected = []
    for picture in (255 * x[:, :3]).double().numpy():
        across, beside = [], []
        for p in (picture, picture.transpose(0, 2, 1)):
            for a, b in ((15, 16), (48, 47)):  # outside, inside
                lines = [p[:, row, 16:48] for row in (2 * a - b, a, b, 2 * b - a)]
                steps = [np.abs(one - other).mean() for one, other in pairwise(lines)]
                across.append(steps[1])
                beside += [steps[0], steps[2]]
        expected.append((np.mean(across) + 1) / (np.mean(beside) + 1))
    found = fillings.seam_ratio(x, truth)
    assert found.tolist() == pytest.approx(expected, rel=1e-4)
    assert found.mean().item() == pytest.approx(1, abs=0.15)
    assert torch.equal(found, fillings.seam_ratio(x[:, :3], truth))


def test_seams_show(x, truth):
    own = fillings.seam_ratio(x, truth)
    several = torch.stack([truth, 1 - truth, truth + 0.3])
    found = fillings.seam_ratio(x, several)
    assert found.shape == (3, 8)
    torch.testing.assert_close(found[0], own)
    assert (found[1:] > 2 * own).all()
    flat = torch.full((2, 3, 64, 64), 0.25)
    assert fillings.seam_ratio(flat, centre(flat)).tolist() == [1, 1]
    raised = fillings.seam_ratio(flat, centre(flat) + 9 / 255)
    assert raised.tolist() == pytest.approx([10, 10], rel=1e-4)


# Do samples differ by their border only? -----------------------------------------------------------


def rings(profile: torch.Tensor) -> torch.Tensor:
    """A number for each distance from the rim, in its place: (..., 16) -> (..., 32, 32)."""
    near = torch.minimum(torch.arange(32), torch.arange(32).flip(0))
    return profile[..., torch.minimum(near[:, None], near)]


def border_pattern(x: torch.Tensor) -> torch.Tensor:
    smooth = centre(harmonic_fill(x[:, :3]))
    return smooth - smooth.mean(dim=(2, 3), keepdim=True)


def test_samples_that_differ_by_how_far_the_border_runs_do_so_in_full(x):
    profiles = torch.randn(9, 8, 1, 16)  # another for each sample and photograph
    samples = 0.5 + rings(profiles) * border_pattern(x)
    torch.testing.assert_close(fillings.border_share(x, samples), torch.ones(8))
    assert fillings.border_share(x.roll(1, 0), samples).mean() < 0.6, "any pattern would do"


def test_samples_that_differ_by_noise_do_so_as_far_as_chance_has_it(x):
    """16 of 3,072 numbers are free, whichever the pattern."""
    samples = 0.5 + 0.1 * torch.randn(200, 8, 3, 32, 32)
    for seen in (x, x.roll(1, 0)):
        found = fillings.border_share(seen, samples)
        assert found.shape == (8,) and found.mean().item() == pytest.approx(16 / 3072, rel=0.05)


def test_the_border_s_share_is_one_of_the_variance(x):
    border = rings(torch.randn(400, 8, 1, 16)) * border_pattern(x)
    noise = 0.05 * torch.randn(400, 8, 3, 32, 32)
    part = (border - border.mean(dim=0)).square().sum(dim=(0, 2, 3, 4))
    whole = part + (noise - noise.mean(dim=0)).square().sum(dim=(0, 2, 3, 4))
    expected = (part + (whole - part) * 16 / 3072) / whole
    torch.testing.assert_close(fillings.border_share(x, border + noise), expected, atol=0.01, rtol=0)
    assert expected.min() < 0.5 < expected.max() or expected.std() > 0.01, "the test cannot tell"
    alike = centre(x[:, :3]).expand(4, -1, -1, -1, -1)
    assert fillings.border_share(x, alike).max() < 1e-3, "samples that do not differ"


# All of it -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hierarchy() -> InpaintingVAE:
    """A small one as if trained: nothing is 0."""
    torch.manual_seed(0)
    unet = UNet(down=(4, 6, 8, 10, 12), up=(6, 5, 7, 9, 11))
    model = InpaintingVAE(unet, ((16, 2), (8, 2), (4, 3)), widths=(8, 9, 10), evidence=(6, 7, 5))
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.1 * torch.randn_like(value))
    return model


@pytest.fixture(scope="module")
def numbers(hierarchy, x) -> dict[str, tuple]:
    """metric: (estimate, unit), in the order in which they came."""
    rows = [*fillings.measured(hierarchy, x, n_full=4, chunk=3)]
    assert len({metric for _, metric, _ in rows}) == len(rows), "a metric twice"
    return {metric: (estimate, unit) for estimate, metric, unit in rows}


def assert_is(found: tuple, values: torch.Tensor, unit: str):
    assert found[1] == unit and found[0].n == len(values)
    assert found[0].value == pytest.approx(values.double().mean().item(), rel=1e-4, abs=1e-4)
    error = values.double().std().item() / math.sqrt(len(values))
    assert found[0].stderr == pytest.approx(error, rel=1e-3, abs=1e-5)


def test_the_bounds_of_all_holes_come_in_order_and_repeat_themselves(hierarchy, x):
    state, was_training = torch.get_rng_state(), hierarchy.training
    found = fillings.bounds_of(hierarchy, x, chunk=3)
    assert torch.equal(state, torch.get_rng_state()) and hierarchy.training == was_training
    assert found.log_px.shape == (8,) and found.kl.shape == (8, 3) and not found.kl.requires_grad
    torch.manual_seed(0)
    parts = [hole_bound(hierarchy, some) for some in (x[:3], x[3:6], x[6:])]
    assert torch.equal(found.log_px, torch.cat([part.log_px for part in parts]))
    assert torch.equal(found.kl, torch.cat([part.kl for part in parts]))
    assert not torch.equal(found.kl, fillings.bounds_of(hierarchy, x, chunk=3, seed=1).kl)


def test_samples_are_measured_one_by_one_their_mean_and_the_best_of_ten(hierarchy, x, truth, numbers):
    drawn = fillings.fillings_of(hierarchy, x, 32, chunk=3)
    psnr = -10 * torch.log10((drawn - truth).square().mean(dim=(2, 3, 4)))
    mean = -10 * torch.log10((drawn.mean(dim=0) - truth).square().mean(dim=(1, 2, 3)))
    smooth = -10 * torch.log10((centre(x[:, 3:6]) - truth).square().mean(dim=(1, 2, 3)))
    single, best = psnr.mean(dim=0), psnr[:10].max(dim=0).values
    assert (mean - single).min() > 0.01 and (psnr.max(dim=0).values - best).max() > 0, "the test cannot tell"
    for name, values in (("single", single), ("mean32", mean), ("best10", best)):
        assert_is(numbers[f"hole_psnr_{name}"], values, "dB")
    assert_is(numbers["gain_single"], single - smooth, "dB above harmonic")
    assert_is(numbers["gain_mean32"], mean - smooth, "dB above harmonic")
    assert_is(numbers["gain_best10"], best - single, "dB above one sample")
    for control, name in ((fillings.noise_control, "noise"), (fillings.borrowed_control, "borrowed")):
        psnr = fillings.hole_psnr(truth, control(drawn))
        gain = psnr[:10].max(dim=0).values - psnr.mean(dim=0)
        assert_is(numbers[f"gain_best10_{name}"], gain, "dB above one sample")
    assert_is(numbers["hole_ssim"], fillings.hole_ssim(truth, drawn[0]), "SSIM")
    assert_is(numbers["seam_ratio"], fillings.seam_ratio(x, drawn[0]), "ratio")
    assert_is(numbers["diversity"], fillings.diversity(drawn), "grey levels")
    full = fillings.full_draws_of(hierarchy, x, 4, chunk=3)
    for share in (0.5, 0.8, 0.95):
        assert_is(numbers[f"coverage_{100 * share:.0f}"], fillings.coverage(truth, full, share), "share")


def test_the_price_is_told_by_layers_from_the_pixels_up_and_comes_last(hierarchy, x, numbers):
    """tools/study.py takes a job for done when the ledger has its hole_bits_per_dim."""
    bound = fillings.bounds_of(hierarchy, x, chunk=3)
    assert sorted(name for name in numbers if name.startswith("kl_layer")) == [
        f"kl_layer_{i}" for i in (1, 2, 3)
    ]
    for layer in range(3):
        assert_is(numbers[f"kl_layer_{layer + 1}"], bound.kl[:, layer], "nats/image")
        most, unit = numbers[f"kl_max_layer_{layer + 1}"]
        assert (most.value, unit) == (pytest.approx(bound.kl[:, layer].max().item()), "nats/image")
    bits = (bound.kl.sum(dim=1) - bound.log_px) / (3072 * math.log(2))
    assert_is(numbers["hole_bits_per_dim"], bits, "bits/dim")
    assert [*numbers][-1] == "hole_bits_per_dim"


def test_a_single_guess_is_measured_by_the_same_names(x, truth):
    filling, log_scale = (0.9 * centre(x[:, 3:6]) + 0.05), torch.tensor(-3.0)
    found = {metric: (value, unit) for value, metric, unit in fillings.measured_guess(x, filling, log_scale)}
    psnr, smooth = (
        -10 * torch.log10((guess - truth).square().mean(dim=(1, 2, 3)))
        for guess in (filling, centre(x[:, 3:6]))
    )
    assert_is(found["hole_psnr_single"], psnr, "dB")
    assert_is(found["gain_single"], psnr - smooth, "dB above harmonic")
    assert_is(found["hole_ssim"], fillings.hole_ssim(truth, filling), "SSIM")
    assert_is(found["seam_ratio"], fillings.seam_ratio(x, filling), "ratio")
    assert_is(found["hole_bits_per_dim"], baselines.residual_bits(truth, filling, log_scale), "bits/dim")
    assert [*found][-1] == "hole_bits_per_dim" and len(found) == 5


# The baselines -----------------------------------------------------------------------------------


def test_ring_mean_is_the_mean_of_the_pixels_around(x):
    found = baselines.ring_mean(x)
    picture = x[:, :3]
    around = picture[:, :, 15:49, 15:49].sum(dim=(2, 3)) - centre(picture).sum(dim=(2, 3))
    corners = picture[:, :, [15, 15, 48, 48], [15, 48, 15, 48]].sum(dim=2)
    expected = ((around - corners) / 128)[..., None, None].expand(-1, -1, 32, 32)
    torch.testing.assert_close(found, expected)


def test_harmonic_is_the_smooth_fill(x):
    assert torch.equal(baselines.harmonic(x), centre(harmonic_fill(x[:, :3])))


def test_no_baseline_sees_the_hole(x, train):
    other = with_hole(pasted(x[:, :3], torch.rand(8, 3, 32, 32)))
    for fill in (baselines.ring_mean, baselines.harmonic, lambda x: baselines.nearest(x, train)):
        torch.testing.assert_close(fill(other), fill(x))


@pytest.mark.parametrize("chunk", [7, 256])
def test_nearest_finds_a_copy_among_others(scenes, train, monkeypatch, chunk):
    monkeypatch.setattr(baselines, "CHUNK", chunk)
    wanted = torch.tensor([49, 0, 20, 7])
    picture = as_grey(scenes.pixels[wanted])
    x = with_hole(pasted(picture, torch.zeros(4, 3, 32, 32)))  # the copy's hole is another
    assert torch.equal(baselines.nearest(x, train), centre(picture))


def test_nearest_is_that_of_all_distances(x, train):
    known = torch.ones(8, 1, 64, 64)
    known[:, :, :12] = 0  # beyond the picture's edge, as augmentation leaves it
    x = with_hole(x[:, :3], known)
    others = as_grey(train.pixels)
    difference = (x[:, None, :3] - others) * x[:, None, 6:]
    expected = difference.square().flatten(start_dim=2).sum(dim=2).argmin(dim=1)
    assert torch.equal(baselines.nearest(x, train), centre(others[expected]))
    everywhere = (x[:, None, :3] - others).square().flatten(start_dim=2).sum(dim=2).argmin(dim=1)
    assert not torch.equal(expected, everywhere), "the test cannot tell"


def test_the_price_of_all_levels_adds_up_to_one():
    truth = (torch.arange(256) / 255).reshape(256, 1, 1, 1)
    for log_scale in (-5.0, -3.0, 0.0):
        bits = baselines.residual_bits(truth, torch.full_like(truth, 0.3), torch.tensor(log_scale))
        assert (2**-bits).sum().item() == pytest.approx(1, abs=1e-4)


def test_the_price_is_that_of_the_likelihood(x, truth):
    filling = baselines.harmonic(x)
    px = torch.stack([filling - 0.5, torch.full_like(filling, -2.5 + 2)], dim=1)
    expected = -DiscretisedLogistic().log_prob(truth, px) / (3072 * math.log(2))
    torch.testing.assert_close(baselines.residual_bits(truth, filling, torch.tensor(-2.5)), expected)


def test_the_scale_that_made_the_errors_is_found(truth):
    for log_scale in (-4.0, -2.5):
        noisy = to_level(logistic_sample(torch.full_like(truth, 0.5), torch.full_like(truth, log_scale)))
        with torch.no_grad():
            found = baselines.fitted_log_scale(noisy, torch.full_like(truth, 0.5))
        assert found.item() == pytest.approx(log_scale, abs=0.02)


def test_the_fitted_scale_is_the_cheapest_of_errors_of_any_kind(x, truth):
    filling = baselines.harmonic(x).requires_grad_()
    best = baselines.fitted_log_scale(truth, filling)
    assert filling.grad is None and not best.requires_grad
    filling = filling.detach()
    here, below, above = (
        baselines.residual_bits(truth, filling, best + move).mean() for move in (0, -0.02, 0.02)
    )
    assert here < below and here < above
    assert torch.isfinite(baselines.fitted_log_scale(truth, truth))


def test_webp_spends_eight_bits_on_noise_and_none_on_nothing():
    noise = with_hole(to_level(torch.rand(4, 3, 64, 64)))
    assert baselines.webp_of_hole(noise).mean().item() == pytest.approx(8, abs=0.3)
    assert baselines.webp_of_hole_in_photograph(noise).mean().item() == pytest.approx(8, abs=0.3)
    flat = with_hole(torch.full((2, 3, 64, 64), 0.5))
    assert baselines.webp_of_hole(flat).max() < 0.1
    assert baselines.webp_of_hole_in_photograph(flat).abs().max() < 0.01


def test_webp_files_hold_the_picture(x):
    """Lossless: the length is that of a file from which the levels come back."""
    bits = baselines.webp_file_bits(x[:2, :3])
    for n_bits, picture in zip(bits, x[:2, :3], strict=True):
        levels = (255 * picture).round().byte().permute(1, 2, 0).numpy()
        file = io.BytesIO()
        Image.fromarray(levels).save(file, "WEBP", lossless=True, quality=100, method=4)
        assert n_bits == 8 * len(file.getvalue())
        assert (np.asarray(Image.open(file)) == levels).all()


def test_webp_knows_the_border_only_in_the_photograph():
    """A texture that the border shows in full costs less there than alone."""
    tile = to_level(torch.rand(1, 3, 8, 8))
    x = with_hole(tile.repeat(1, 1, 8, 8))
    assert baselines.webp_of_hole_in_photograph(x) < 0.5 * baselines.webp_of_hole(x)


def test_of_each_layer_it_is_told_how_much_and_what_it_moves(hierarchy, x):
    rows = [*fillings.measured_layers(hierarchy, x, n_draws=5, chunk=3)]
    assert len({metric for _, metric, _ in rows}) == len(rows) == 3 * 7
    found = {metric: (estimate, unit) for estimate, metric, unit in rows}
    for level in range(3):
        drawn = fillings.fillings_of(hierarchy, x, 5, vary={level}, chunk=3)
        light, colour = fillings.band_variance(drawn).unbind(dim=1)
        whole = (light + colour).sum(dim=1)
        name = f"layer_{level + 1}"
        assert_is(found[f"{name}_spread"], whole.sqrt(), "grey levels")
        assert_is(found[f"{name}_colour"], colour.sum(dim=1) / whole, "share")
        assert_is(found[f"{name}_border"], fillings.border_share(x, drawn), "share")
        assert_is(found[f"{name}_border_chance"], fillings.border_share(x.roll(1, 0), drawn), "share")
        parts = [found[f"{name}_{kind}"][0].value for kind in ("coarse", "middle", "fine")]
        assert sum(parts) == pytest.approx(1, abs=1e-4) and min(parts) > 0


@pytest.mark.parametrize(
    ("u", "kind"), [(0, "coarse"), (3, "coarse"), (4, "middle"), (8, "fine"), (20, "fine")]
)
def test_a_wave_is_coarse_middle_or_fine(u, kind, x):
    place = (torch.arange(32) + 0.5) * math.pi / 32
    wave = torch.cos(u * place).expand(8, 3, 32, 32)
    samples = 0.5 + torch.tensor([0.1, -0.1, 0.2]).reshape(3, 1, 1, 1, 1) * wave
    found = {metric: estimate.value for estimate, metric, _ in fillings.variation(x, samples, "it")}
    assert found[f"it_{kind}"] == pytest.approx(1, abs=1e-4) and found["it_colour"] == pytest.approx(
        0, abs=1e-4
    )


def test_around_a_guess_the_spread_is_its_error(truth):
    guess = truth + 0.1 * torch.randn_like(truth)
    two = fillings.around(guess, truth)
    torch.testing.assert_close(two.mean(dim=0), guess)
    error = (truth - guess).square().mean(dim=(1, 2, 3)).sqrt()
    torch.testing.assert_close(fillings.diversity(two), 255 * error)
