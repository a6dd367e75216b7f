"""Lesson 06's networks and likelihood: blocks level by level, who sees the hole, what a layer can cost."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Normal, kl_divergence

from course_utils import data, recipes
from course_utils.distributions import (
    BlockLogistic,
    DiscretisedLogistic,
    normal_log_prob,
    per_image,
    to_level,
)
from course_utils.holes import HoleBatches, pasted, with_hole
from course_utils.models import inpainting_vae
from course_utils.models.common import Residual, centre, descent, head, rise, stage
from course_utils.models.inpainting_vae import SIDES, InpaintingVAE, bounded, moved
from course_utils.models.unet import UNet
from course_utils.objectives import (
    Elbo,
    decibels,
    hole_bound,
    importance_weighted_bound,
    sketched_bound,
    terms,
)

HOLE = slice(16, 48)
LAYERS = ((16, 2), (16, 3), (8, 4), (4, 5))  # no two have as many channels


def small_unet() -> UNet:
    return UNet(down=(4, 6, 8, 10, 12), up=(6, 5, 7, 9, 11))


def small(layers=LAYERS, **choices) -> InpaintingVAE:
    return InpaintingVAE(small_unet(), layers, widths=(8, 9, 10), evidence=(6, 7, 5), **choices)


def shaken(model: nn.Module, std: float = 0.1) -> nn.Module:
    """As if trained: nothing is 0 any more, so that whatever is read shows."""
    with torch.no_grad():
        for value in model.parameters():
            value.add_(std * torch.randn_like(value))
    return model


def seeded(function, *args, seed: int = 7, **choices):
    torch.manual_seed(seed)
    return function(*args, **choices)


def normal(mu: torch.Tensor, log_var: torch.Tensor) -> Normal:
    return Normal(mu, torch.exp(0.5 * log_var))


def picture(n: int) -> torch.Tensor:
    """Smooth colours on whole levels: (n, 3, 64, 64)."""
    return to_level(F.interpolate(torch.rand(n, 3, 8, 8), size=64, mode="bilinear"))


@pytest.fixture
def x() -> torch.Tensor:
    return with_hole(picture(3))


@pytest.fixture
def other(x) -> torch.Tensor:
    """The same photographs with another content of their holes."""
    return with_hole(pasted(x[:, :3], torch.rand(3, 3, 32, 32)))


@pytest.fixture
def model() -> InpaintingVAE:
    return shaken(small())


# Parts --------------------------------------------------------------------------------------------


def test_parts_keep_their_promise_of_a_size():
    h = torch.randn(2, 4, 8, 8)
    assert stage(4, 6, 2)(h).shape == (2, 6, 4, 4) and stage(4, 6, 1)(h).shape == (2, 6, 8, 8)
    assert rise(4, 6)(h).shape == (2, 6, 16, 16)
    assert descent((4,), 0)(h).shape == (2, 4, 8, 8) and descent((3, 5, 6), 1)(h).shape == (2, 6, 32, 32)
    for kernel in (1, 3):
        assert torch.equal(head(4, 6, kernel)(h), torch.zeros(2, 6, 8, 8))


def test_a_row_of_blocks_without_batch_norm_keeps_the_variance():
    """By the formula, f is small: sixteen blocks in a row add little to the variance of h."""
    block, h = Residual(32, batch_norm=False), torch.randn(8, 32, 8, 8)
    _, first, _, last = block.block
    torch.testing.assert_close(block(h), h + last(F.silu(first(F.silu(h)))))
    row = nn.Sequential(*(Residual(32, batch_norm=False) for _ in range(16)))
    assert row(h).var().item() == pytest.approx(h.var().item(), rel=0.1)
    assert not [layer for layer in block.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert last.bias.abs().max() == 0


def test_on_the_way_down_maps_pass_as_they_are_and_z_is_added():
    mix = descent((5,), 3)[0]
    h, z = torch.randn(2, 5, 4, 4), torch.randn(2, 3, 4, 4)
    alone = mix(torch.cat([h, torch.zeros_like(z)], dim=1)) - mix.bias[:, None, None]
    torch.testing.assert_close(alone, h)
    assert (mix(torch.cat([h, z], dim=1)) - mix(torch.cat([h, 0 * z], dim=1))).abs().mean() > 0.01


# The likelihood: numbers 0 to 11 of a block are three colours of 2x2 pixels ----------------------------


def at(i: int) -> tuple[int, int, int]:
    """Colour, row and column of number i."""
    return i // 4, i % 4 // 2, i % 2


def blocks(n: int, deviation: float = 0.3) -> tuple[torch.Tensor, torch.Tensor]:
    """x (n, 3, 2, 2) and px (n, 14, 3, 2, 2) of one block each, weights between all pairs."""
    x, px = to_level(torch.rand(n, 3, 2, 2)), deviation * torch.randn(n, 14, 3, 2, 2)
    px[:, 0] = x + 0.05 * torch.randn(n, 3, 2, 2)
    return x, px


def block_by_hand(x: torch.Tensor, px: torch.Tensor) -> float:
    """log p of one block (3, 2, 2), number by number, from the standard logistic in double precision."""
    total, errors = 0.0, []
    for i in range(12):
        mu, raw, *weights = px[(slice(None), *at(i))].double().tolist()
        value = x[at(i)].double().item()
        location = mu + sum(weights[j] * error for j, error in enumerate(errors))
        scale = math.exp(max(raw - 3, -7.0))
        edges = [(value + half_bin - location) / scale for half_bin in (-0.5 / 255, 0.5 / 255)]
        low, high = -math.inf if value == 0 else edges[0], math.inf if value == 1 else edges[1]
        if low > 0:  # the same mass by symmetry, where the digits are
            low, high = -high, -low
        total += (torch.tensor([low, high]).double().sigmoid().diff()).log().item()
        errors.append(value - mu)
    return total


def test_a_block_is_priced_number_by_number():
    x, px = blocks(20)
    x[0], x[1], px[2, 1] = 0, 1, -2.0
    expected = [block_by_hand(*pair) for pair in zip(x, px, strict=True)]
    found = BlockLogistic().log_prob(x, px).double()
    torch.testing.assert_close(found, torch.tensor(expected).double(), rtol=1e-5, atol=1e-4)


def test_a_picture_is_the_sum_of_its_blocks():
    x, px = to_level(torch.rand(2, 3, 4, 6)), 0.3 * torch.randn(2, 14, 3, 4, 6)
    corners = [(slice(r, r + 2), slice(c, c + 2)) for r in (0, 2) for c in (0, 2, 4)]
    each = [BlockLogistic().log_prob(x[..., r, c], px[..., r, c]) for r, c in corners]
    torch.testing.assert_close(BlockLogistic().log_prob(x, px), sum(each))


@pytest.mark.parametrize("i", range(12))
def test_the_levels_of_a_number_share_what_those_before_leave(i):
    """Summed over number i, of which no later one is told, p is that of the other eleven.

    They are priced alone by making number i sure to be black: far below 0, whatever is before it.
    """
    x, px = (t.expand(256, *t.shape[1:]).clone() for t in blocks(1))
    px[:, 2 + i] = 0
    x[(slice(None), *at(i))] = torch.arange(256) / 255
    log_p = BlockLogistic().log_prob(x, px).double()
    px[(slice(None), 0, *at(i))] = -30
    others = BlockLogistic().log_prob(x[:1], px[:1]).double()
    torch.testing.assert_close(log_p.logsumexp(dim=0, keepdim=True), others, atol=2e-4, rtol=0)
    assert log_p.std() > 1, "the levels are all alike"


def test_a_number_is_told_by_those_before_it_only():
    x, px = blocks(6)
    BlockLogistic().log_prob(x, px.requires_grad_()).sum().backward()
    for i in range(12):
        told = px.grad[(slice(None), slice(2, None), *at(i))].abs()  # (6, 12), of number j
        assert (told[:, :i] > 0).all() and (told[:, i:] == 0).all()


def test_without_weights_every_number_is_by_itself():
    x, px = to_level(torch.rand(5, 3, 8, 8)), torch.randn(5, 14, 3, 8, 8)
    x[0], x[1], px[2, 1] = 0, 1, -9.0  # black, white, and narrower than may be
    px[:, 2:] = 0
    alone = torch.stack([px[:, 0] - 0.5, px[:, 1] - 1], dim=1)
    torch.testing.assert_close(BlockLogistic().log_prob(x, px), DiscretisedLogistic().log_prob(x, alone))


def test_draws_of_a_block_have_its_mean_and_its_covariance():
    """e = W' e + noise, so e = (1 - W')^-1 noise: for each pair of the twelve, sign and size."""
    n, px = 40_000, torch.zeros(14, 3, 2, 2)
    px[0], px[1] = (
        torch.linspace(0.35, 0.65, 12).reshape(3, 2, 2),
        torch.linspace(-2.3, -1.7, 12).reshape(3, 2, 2),
    )
    px[2:] = 0.4 * torch.randn(12, 3, 2, 2)
    likelihood, px = BlockLogistic(), px.expand(n, -1, -1, -1, -1)
    drawn = likelihood.sample(px)
    error = 5 * drawn.flatten(1).std(dim=0) / math.sqrt(n)
    assert ((drawn - likelihood.mean(px)).mean(dim=0).flatten().abs() < error).all()
    weights = px[0, 2:].flatten(1).double().triu(1)  # of j for i
    variance = (2 * (px[0, 1].flatten().double() - 3)).exp() * math.pi**2 / 3
    noise = torch.linalg.inv(torch.eye(12, dtype=torch.float64) - weights)
    expected = noise.T @ variance.diag() @ noise
    found = torch.cov(drawn.flatten(1).double().T)
    scale = expected.diag().sqrt()
    torch.testing.assert_close(
        found / scale / scale[:, None], expected / scale / scale[:, None], atol=0.04, rtol=0
    )


@pytest.mark.parametrize("weight", [-0.8, 0.8])
def test_neighbours_go_together_where_the_weight_is_positive(weight):
    px = torch.zeros(5_000, 14, 3, 2, 2)
    px[:, 0], px[:, 1] = 0.5, -2.0
    px[:, 2 + 3, 1, 1, 0] = weight  # of red's last pixel for green's third
    drawn = BlockLogistic().sample(px)
    pairs = torch.corrcoef(drawn.flatten(1).T) - torch.eye(12)
    assert pairs[3, 6].item() == pytest.approx(weight / math.hypot(1, weight), abs=0.05)
    pairs[3, 6] = pairs[6, 3] = 0
    assert pairs.abs().max() < 0.08


def test_draws_are_images_that_can_be_priced():
    px = 2 * torch.randn(4, 14, 3, 8, 8)
    drawn = BlockLogistic().sample(px)
    assert drawn.shape == (4, 3, 8, 8) and torch.equal(drawn, to_level(drawn))
    assert drawn.min() == 0 and drawn.max() == 1
    assert BlockLogistic().log_prob(drawn, px).isfinite().all()
    assert torch.equal(BlockLogistic().mean(px), px[:, 0].clamp(0, 1))
    assert torch.equal(BlockLogistic().from_mean(drawn), drawn) and px.shape[1] == BlockLogistic.n_params


@pytest.mark.parametrize(
    ("numbers", "value"),
    [(0, 1e4), (0, -1e4), (1, 30.0), (1, -1e4), (slice(2, 14), 1e4), (slice(2, 14), -1e4)],
)
def test_extreme_numbers_cost_much_but_stay_finite(numbers, value):
    """mu, log_scale and weights in turn; a scale beyond e^80 would have no digits left for a level's mass."""
    x, px = blocks(50)
    x[0], x[1] = 0, 1
    px[:, numbers] = value
    log_p = BlockLogistic().log_prob(x, px.requires_grad_())
    log_p.sum().backward()
    assert log_p.isfinite().all() and log_p.min() < -50 and px.grad.isfinite().all()


# The U-Net ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [UNet, small_unet])
def test_the_u_net_starts_at_the_smooth_fill(build, x):
    guess, features = build()(x)
    assert torch.equal(guess, centre(x[:, 3:6]))
    assert [h.std() > 0 for h in features] == [True] * 5


def test_features_of_the_hole_from_fine_to_coarse(x):
    model = small_unet()
    shapes = [tuple(h.shape) for h in model(x)[1]]
    assert shapes == [(3, 6, 16, 16), (3, 5, 8, 8), (3, 7, 4, 4), (3, 9, 2, 2), (3, 11, 1, 1)]
    assert model.widths == (6, 5, 7, 9, 11) and tuple(h[-1] for h in shapes)[:3] == SIDES


def test_the_u_net_does_not_see_the_photograph_nor_what_the_hole_held(x, other):
    model = shaken(small_unet())
    blind = torch.cat([torch.rand(3, 3, 64, 64), x[:, 3:]], dim=1)
    for changed in (blind, other):
        (guess, features), (same, alike) = model(x), model(changed)
        assert torch.equal(guess, same) and all(map(torch.equal, features, alike))


def test_the_u_net_sees_all_that_is_around_the_hole_and_the_mask(x):
    model, x = shaken(small_unet()), x.requires_grad_()
    (model(x)[0] - centre(x[:, 3:6])).square().sum().backward()
    assert (x.grad[:, :3] == 0).all() and (x.grad[:, 3:] != 0).float().mean() > 0.999


def test_every_parameter_of_the_u_net_is_trained(x):
    model = shaken(small_unet())
    decibels(model, x).loss().backward()
    assert [name for name, value in model.named_parameters() if not value.grad.any()] == []


def test_a_guess_is_a_picture_and_the_same_alone_and_in_a_batch(x):
    model = shaken(small_unet())
    with torch.no_grad():
        model.pixels[1].bias.copy_(torch.linspace(-6, 6, 12))
    raw, guess = model(x)[0], model.complete(x)
    assert raw.min() < 0 and raw.max() > 1 and torch.equal(guess, raw.clamp(0, 1))
    torch.testing.assert_close(model(x[:1])[0], raw[:1])


@pytest.mark.parametrize("shape", [(7, 64, 64), (2, 3, 64, 64), (2, 7, 32, 32)])
def test_a_batch_of_the_wrong_shape_is_refused(shape):
    for use in (small_unet(), small_unet().complete, small(), small().complete):
        with pytest.raises(ValueError, match=r"batches of images \(B, 7, 64, 64\).*given.*x\[None\]"):
            use(torch.zeros(shape))


# The hierarchy: shapes, and where it starts ---------------------------------------------------------


@pytest.mark.parametrize(
    "layers", [LAYERS, ((16, 5),), ((8, 3), (4, 2)), ((4, 3),), ((16, 2), (8, 2), (8, 3))]
)
@pytest.mark.parametrize("likelihood", [BlockLogistic, DiscretisedLogistic])
def test_it_runs_with_any_layers_and_trains_every_parameter(layers, likelihood, x):
    model = shaken(small(layers, likelihood=likelihood()))
    out = model(x, n_draws=2)
    assert out.px.shape == (6, likelihood.n_params, 3, 32, 32)
    for values in (out.z, *zip(*out.q, strict=True), *zip(*out.p, strict=True)):
        assert [tuple(value.shape) for value in values] == [(6, n, side, side) for side, n in layers]
    bound = sketched_bound(model, x)
    sketches = model.sketched(x, n_draws=2)[1]
    assert [tuple(sketch.shape) for sketch in sketches] == [(6, 3, side, side) for side, _ in layers[:-1]]
    assert bound.kl.shape == (3, len(layers)) and bound.value().isfinite().all()
    bound.loss().backward()
    assert [
        name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()
    ] == []
    drawn = model.complete(x, 2)
    assert drawn.shape == (6, 3, 32, 32) and drawn.min() >= 0 and drawn.max() <= 1 and not drawn.requires_grad


def test_a_side_that_the_u_net_does_not_have_is_refused():
    with pytest.raises(ValueError, match="not in tuple"):
        small(((32, 4),))


@pytest.mark.parametrize("build", [small, recipes.build_hier, recipes.build_cvae_1])
def test_it_starts_at_the_u_net_s_guess_at_no_price(build, x):
    model = build()
    shaken(model.unet, 0.02)
    out = model(x)
    assert terms(model.likelihood, centre(x[:, :3]), out).kl.abs().max() == 0
    for (mu, log_var), (mu_p, log_var_p) in zip(out.q, out.p, strict=True):
        assert (
            torch.equal(mu, mu_p) and torch.equal(log_var, log_var_p) and not mu.any() and not log_var.any()
        )
    assert torch.equal(model.complete(x), model.unet.complete(x))
    assert not torch.equal(model.unet.complete(x), centre(x[:, 3:6])), "the test cannot tell"


def test_what_the_latents_say_is_added_to_the_guess(model, x):
    """Another guess with the same features moves the location and nothing else."""
    guess, told = model.context(x)
    px = seeded(model.descend, guess, told, lambda level, prior, h: prior[0])[2]
    moved_px = seeded(model.descend, guess + 0.1, told, lambda level, prior, h: prior[0])[2]
    torch.testing.assert_close(moved_px[:, 0], px[:, 0] + 0.1)
    assert torch.equal(moved_px[:, 1:], px[:, 1:])


# The price of a layer -----------------------------------------------------------------------------


def test_the_price_of_each_layer_is_the_divergence_of_torch(model, x):
    out = model(x)
    kl = terms(model.likelihood, centre(x[:, :3]), out).kl
    for layer, (q, p) in enumerate(zip(out.q, out.p, strict=True)):
        divergence = kl_divergence(normal(*q), normal(*p)).flatten(1).sum(dim=1)
        torch.testing.assert_close(kl[:, layer], divergence, rtol=1e-3, atol=1e-3)
    assert kl.min() > 0.01, "the test cannot tell"


def test_the_price_of_a_residual_posterior_does_not_depend_on_its_prior():
    """KL = (a^2 + e^b - 1 - b) / 2, b bounded: Vahdat & Kautz 2020, eq. 2."""
    a, b, mu, log_var = (2 * torch.randn(4, 500)).double()
    q = moved((mu, log_var), a, b)
    b = 6 * torch.tanh(b / 6)
    divergence = kl_divergence(normal(*q), normal(mu, log_var))
    torch.testing.assert_close(divergence, 0.5 * (a**2 + b.exp() - 1 - b))


def test_bounded_is_the_value_near_0_and_never_beyond_the_limit():
    small_values, all_values = torch.linspace(-0.1, 0.1, 9), torch.linspace(-1e4, 1e4, 99)
    torch.testing.assert_close(bounded(small_values, 4.0), small_values, rtol=1e-3, atol=0)
    found = bounded(all_values, 4.0)
    assert found.max() == 4 and found.min() == -4 and (found.diff() >= 0).all()


@pytest.mark.parametrize("b", [1e4, -1e4])
@pytest.mark.parametrize("raw", [1e4, -1e4])
def test_heads_that_say_ten_thousand(raw, b, x):
    """log var of p stays within 4 of 0, that of q within 6 of p's: at most (e^6 - 7) / 2 = 198 nats a latent.

    Nothing bounds a, how far the mean of q is from that of p: it costs a^2 / 2, whatever it is.
    """
    model = shaken(small())
    with torch.no_grad():
        for prior, posterior in zip(model.prior, model.posterior, strict=True):
            prior[-1].bias.chunk(2)[1].fill_(raw)
            posterior[-1][-1].weight.zero_()
            posterior[-1][-1].bias.zero_().chunk(2)[1].fill_(b)
    out, sign = model(x), math.copysign(1, b)
    kl = terms(model.likelihood, centre(x[:, :3]), out).kl
    for layer, ((_, log_var), (_, log_var_p)) in enumerate(zip(out.q, out.p, strict=True)):
        torch.testing.assert_close(log_var_p, torch.full_like(log_var_p, math.copysign(4, raw)))
        torch.testing.assert_close(log_var - log_var_p, torch.full_like(log_var, 6 * sign))
        price = 0.5 * (math.exp(6 * sign) - 1 - 6 * sign)
        torch.testing.assert_close(
            kl[:, layer], torch.full((3,), price * log_var[0].numel()), rtol=1e-3, atol=0
        )
        assert price < 198.3
    with torch.no_grad():
        model.posterior[0][-1][-1].bias[: LAYERS[0][1]] = 1e4
    kl = terms(model.likelihood, centre(x[:, :3]), model(x)).kl
    assert kl.isfinite().all() and kl[:, 0].min() > 0.99 * 0.5e8 * out.z[0][0].numel()


# Who sees what ------------------------------------------------------------------------------------


def test_prior_and_fillings_do_not_see_what_is_in_the_hole_the_posterior_does(model, x, other):
    assert torch.equal(seeded(model.complete, x, 2), seeded(model.complete, other, 2))
    one, two = seeded(model, x), seeded(model, other)
    assert torch.equal(one.p[-1][0], two.p[-1][0])
    guess, told = model.context(x)
    assert torch.equal(guess, model.context(other)[0]) and all(
        map(torch.equal, told, model.context(other)[1])
    )
    for (mu, log_var), (mu_2, log_var_2) in zip(one.q, two.q, strict=True):
        assert not torch.equal(mu, mu_2) and not torch.equal(log_var, log_var_2)


@pytest.mark.parametrize("layer", range(4))
def test_each_posterior_sees_every_number_of_the_hole_and_of_the_rest_what_all_may_see(layer, model, x):
    x.requires_grad_()
    guess, _ = model.context(x)
    model.evidence(x, guess.detach())[layer].square().sum().backward()
    seen = x.grad[:, :3] != 0
    assert centre(seen).float().mean() > 0.999 and seen.sum() == centre(seen).sum()
    assert not x.grad[:, 3:].any()


def test_the_evidence_is_the_content_itself_and_how_it_differs_from_the_guess(model, x):
    guess, _ = model.context(x)
    brighter = torch.cat([x[:, :3] + 0.1, x[:, 3:]], dim=1)
    before = model.evidence(x, guess)
    for after in (model.evidence(x, guess + 0.1), model.evidence(brighter, guess + 0.1)):
        assert all((a - b).abs().max() > 1e-3 for a, b in zip(before, after, strict=True))


def test_each_prior_hears_the_context_and_all_layers_above(model, x):
    """Which of px, p[0], p[1], ... changes with z[l]? All below it, and none with a layer below."""
    guess, told = model.context(x)
    z = [torch.randn_like(mu) for mu, _ in model(x).p]

    def walk(z):
        _, p, px = model.descend(guess, told, lambda level, prior, h: z[level])
        return [px, *(torch.cat(pair, dim=1) for pair in p)]

    before = walk(z)
    for level in range(4):
        after = walk([value + 1 if k == level else value for k, value in enumerate(z)])
        assert [k for k in range(5) if not torch.equal(before[k], after[k])] == list(range(level + 1))
    for level in range(4):
        louder = [t + 1 if k == level else t for k, t in enumerate(told)]
        p = model.descend(guess, louder, lambda level, prior, h: z[level])[1]
        assert not torch.equal(torch.cat(p[level], dim=1), before[level + 1])


def test_each_latent_is_a_draw_of_its_posterior_the_top_one_first(model, x):
    out = seeded(model, x, n_draws=2)
    torch.manual_seed(7)
    for z, (mu, log_var) in reversed([*zip(out.z, out.q, strict=True)]):
        torch.testing.assert_close(z, mu + torch.exp(0.5 * log_var) * torch.randn(mu.shape))


def test_the_posterior_hears_the_layers_above_and_not_by_its_prior_alone(model, x):
    """Two draws of the layers above change how far q is from p, in every layer but the top one."""
    out, changes = model(x, n_draws=2), []
    for (mu, log_var), (mu_p, log_var_p) in zip(out.q, out.p, strict=True):
        a, b = (mu - mu_p) * torch.exp(-0.5 * log_var_p), log_var - log_var_p
        changes.append([(one.chunk(2)[0] - one.chunk(2)[1]).abs().max().item() for one in (a, b)])
    assert torch.tensor(changes[:3]).min() > 1e-3 > 1e-5 > max(changes[3])


def test_draws_are_ordered_draw_by_draw(model, x, monkeypatch):
    out = model(x, n_draws=2)
    assert all((a - b).abs().max() > 0.1 for a, b in (z.chunk(2) for z in out.z)), "draws are copies"
    monkeypatch.setattr(inpainting_vae, "normal_sample", lambda mu, log_var: mu)
    out, once = model(x, n_draws=3), model(x)
    pairs = [(out.px, once.px), *zip(out.z, once.z, strict=True)]
    pairs += [(a[i], b[i]) for a, b in zip(out.q + out.p, once.q + once.p, strict=True) for i in (0, 1)]
    pairs += [(model.complete(x, 3), model.complete(x))]
    for several, one in pairs:
        torch.testing.assert_close(
            several, one.repeat(3, 1, 1, 1, 1) if one.ndim == 5 else one.repeat(3, 1, 1, 1)
        )
    assert (once.px[0] - once.px[1]).abs().max() > 0.01, "the photographs are alike"


# Fillings: which layers vary ----------------------------------------------------------------------


def completed(model: InpaintingVAE, x: torch.Tensor, monkeypatch, **choices) -> tuple:
    """The filling, and the z and p that led to it."""
    kept, descend = [], model.descend

    def watched(*args):
        kept.append(descend(*args))
        return kept[-1]

    monkeypatch.setattr(model, "descend", watched)
    filling = seeded(model.complete, x, **choices)
    monkeypatch.undo()
    return filling, kept[0][0], kept[0][1]


def test_with_no_layer_that_varies_a_filling_is_its_walk_of_means(model, x, monkeypatch):
    filling, z, p = completed(model, x, monkeypatch, vary=())
    assert torch.equal(filling, seeded(model.complete, x, vary=(), seed=8)), "something is drawn"
    assert all(torch.equal(value, mu) for value, (mu, _) in zip(z, p, strict=True))
    assert not torch.equal(filling, model.complete(x))
    assert torch.equal(seeded(model.complete, x), seeded(model.complete, x, vary=range(4)))


@pytest.mark.parametrize("layer", range(4))
def test_one_layer_that_varies_leaves_those_above_and_moves_those_below(layer, model, x, monkeypatch):
    still, z_0, p_0 = completed(model, x, monkeypatch, vary=())
    filling, z, p = completed(model, x, monkeypatch, vary={layer})
    for level in range(4):
        assert torch.equal(z[level], p[level][0]) == (level != layer), "it is drawn, or it is not"
        assert torch.equal(p[level][0], p_0[level][0]) == (level >= layer)
        assert torch.equal(z[level], z_0[level]) == (level > layer)
    assert not torch.equal(filling, still)
    torch.manual_seed(7)
    mu, log_var = p[layer]
    torch.testing.assert_close(z[layer], mu + torch.exp(0.5 * log_var) * torch.randn(mu.shape))


# The bound ----------------------------------------------------------------------------------------


def test_the_bound_of_a_hole_by_hand(model, x):
    found = seeded(hole_bound, model, x)
    out, hole = seeded(model, x), x[:, :3, HOLE, HOLE]
    torch.testing.assert_close(found.log_px, model.likelihood.log_prob(hole, out.px))
    kl = [kl_divergence(normal(*q), normal(*p)).sum(dim=(1, 2, 3)) for q, p in zip(out.q, out.p, strict=True)]
    torch.testing.assert_close(found.value(), found.log_px - sum(kl), rtol=1e-4, atol=1e-2)
    blocks = [block_by_hand(hole[0, :, r : r + 2, c : c + 2], out.px[0, ..., r : r + 2, c : c + 2])
              for r in range(0, 32, 2) for c in range(0, 32, 2)]  # fmt: skip
    assert found.log_px[0].item() == pytest.approx(sum(blocks), rel=1e-4)


def test_of_the_photograph_only_the_hole_is_priced(model, x):
    """What is around it counts in channels 3 to 5, where it may be looked at, and not again in 0 to 2."""
    before = seeded(hole_bound, model, x)
    moved_x = x.clone()
    moved_x[:, :3] = pasted(torch.rand(3, 3, 64, 64), centre(x[:, :3]))
    for one, two in zip(before, seeded(hole_bound, model, moved_x), strict=True):
        assert torch.equal(one, two)
    moved_x = x.clone()
    moved_x[:, 3:6, :8] = torch.rand(3, 3, 8, 64)
    assert not torch.equal(before.log_px, seeded(hole_bound, model, moved_x).log_px)


def log_weights_of(model: InpaintingVAE, x: torch.Tensor, n_draws: int) -> torch.Tensor:
    """log p(x_hole|z) + log p(z) - log q(z|x), (n_draws, B)."""
    out = model(x, n_draws=n_draws)
    log_w = model.likelihood.log_prob(centre(x[:, :3]).repeat(n_draws, 1, 1, 1), out.px)
    for z, q, p in zip(out.z, out.q, out.p, strict=True):
        log_w = log_w + per_image(normal_log_prob(z, *p) - normal_log_prob(z, *q))
    return log_w.unflatten(0, (n_draws, len(x)))


def test_the_bound_is_below_sharper_ones(x):
    """Its mean is that of the log weights, E[log w]; the mean of several weights is nearer log p(x)."""
    model, x, n = shaken(small(((8, 1), (4, 1)))), x[:2], 400
    with torch.no_grad():
        model.decoder[-3].weight.mul_(0.01)  # a bound of few nats' looseness: of hundreds, no draw would help
        for posterior in model.posterior:
            posterior[-1][-1].weight.mul_(4)
        bound = hole_bound(model, x.repeat(n, 1, 1, 1)).value().unflatten(0, (n, 2))
        log_w, others = log_weights_of(model, x, n), log_weights_of(model, x, n)
    error = ((bound.var(dim=0) + log_w.var(dim=0)) / n).sqrt()
    assert ((bound.mean(dim=0) - log_w.mean(dim=0)).abs() < 4 * error).all()
    assert hole_bound(model, x).kl.sum(dim=1).min() > 10 * error.max(), "the test cannot tell"
    two = importance_weighted_bound(log_w.reshape(2, n // 2, 2)).mean(dim=0)
    many = importance_weighted_bound(others.reshape(20, n // 20, 2)).mean(dim=0)
    assert (bound.mean(dim=0) + 2 * error < two).all() and (two + error < many).all()


def test_a_layer_below_its_own_allowance_feels_no_pull():
    kl = torch.tensor([[1.0, 4.0, 3.0], [1.0, 8.0, 3.0]], requires_grad=True)
    log_px = torch.tensor([-10.0, -20.0], requires_grad=True)
    beta = torch.tensor([1.0, 0.5, 1.0])
    loss = Elbo(log_px, kl).loss(beta, torch.tensor([2.0, 2.0, 3.5]))
    assert loss.item() == pytest.approx(15 + 2 + 0.5 * 6 + 3.5)
    loss.backward()
    assert kl.grad.tolist() == [[0, 0.25, 0], [0, 0.25, 0]] and log_px.grad.tolist() == [-0.5, -0.5]


class Saying(nn.Module):
    """A U-Net whose guess is this."""

    def __init__(self, guess: torch.Tensor):
        super().__init__()
        self.guess = nn.Parameter(guess)

    def forward(self, x):
        return self.guess, []


def test_decibels_are_those_of_each_hole(x):
    """-D/2 log(mse + 0.001): no worse by a striking photograph, and nothing to win at the truth."""
    truth = centre(x[:, :3])
    error = torch.tensor([0.0, 0.1, 0.5]).reshape(3, 1, 1, 1)
    model = Saying(truth + error)
    found = decibels(model, x)
    expected = -0.5 * 3072 * torch.log(error.flatten() ** 2 + 1e-3)
    torch.testing.assert_close(found.log_px, expected, rtol=1e-4, atol=0.1)
    assert found.kl.shape == (3, 1) and not found.kl.any()
    found.value().sum().backward()
    assert model.guess.grad[0].abs().max() == 0 and (model.guess.grad[1:] < 0).all(), "not towards the truth"
    psnr = -10 * torch.log10(error[1:].flatten() ** 2)
    gap = (found.log_px[1] - found.log_px[2]).item()
    assert gap == pytest.approx((psnr[0] - psnr[1]).item() * 3072 * math.log(10) / 20, rel=0.05)


def test_a_sketch_starts_as_the_guess_on_a_coarser_grid(x):
    model = small()
    shaken(model.unet, 0.02)
    guess = model.unet(x)[0]
    for sketch, pixels in zip(model.sketched(x)[1], (2, 2, 4), strict=True):
        torch.testing.assert_close(sketch, F.avg_pool2d(guess, pixels))


@pytest.mark.parametrize("layer", range(len(LAYERS)))
def test_a_sketch_hears_the_layers_above_only(layer, model, x):
    """Another posterior of a layer changes the sketches below it, not its own and not those above."""
    before = seeded(model.sketched, x)[1]
    shaken(model.posterior[layer], 0.3)
    after = seeded(model.sketched, x)[1]
    changed = [not torch.equal(*pair) for pair in zip(before, after, strict=True)]
    assert changed == [below < layer for below in range(len(LAYERS) - 1)]


def test_a_sketched_bound_is_the_bound_and_the_errors_of_the_sketches(model, x):
    bound, plain = seeded(sketched_bound, model, x), seeded(hole_bound, model, x)
    assert torch.equal(bound.log_px, plain.log_px) and torch.equal(bound.kl, plain.kl)
    assert torch.equal(bound.value(), plain.value())
    expected = 0
    for sketch in seeded(model.sketched, x)[1]:
        side = sketch.shape[-1]
        means = centre(x[:, :3]).unflatten(3, (side, -1)).unflatten(2, (side, -1)).mean(dim=(3, 5))
        error = (sketch - means).square().mean(dim=(1, 2, 3))
        expected = expected + 4 * 3 * side**2 / 2 * torch.log(error + 1e-5)
    torch.testing.assert_close(bound.sketch_error, expected, rtol=1e-4, atol=1e-2)
    beta = torch.tensor([0.2, 0.4, 0.6, 0.8])
    torch.testing.assert_close(bound.loss(beta), plain.loss(beta) + bound.sketch_error.mean())
    bound.loss().backward()
    assert model.sketch[0][1].weight.grad.any()


# Recipes ------------------------------------------------------------------------------------------

STEPS = 12  # saved after 10


@pytest.fixture
def brief(monkeypatch):
    """Recipes of lesson 06 with twelve steps in the smoke budget, of batches of three."""
    with_holes = recipes.with_holes
    monkeypatch.setenv("COURSE_DEVICE", "cpu")
    monkeypatch.setenv("TQDM_DISABLE", "1")
    monkeypatch.setattr(recipes, "pick", lambda budget, **steps: STEPS if steps[budget] else 0)
    monkeypatch.setattr(
        recipes, "with_holes", lambda train, n, *rest, **vary: with_holes(train, 3, *rest, **vary)
    )


@pytest.fixture(scope="module")
def train() -> data.Images:
    return data.scenes(40, 1, 1).train


def stopped_once(monkeypatch, step: int) -> None:
    """The first time that this step is asked for, Ctrl-C."""
    get, done = HoleBatches.__getitem__, []

    def stop(self, asked):
        if asked == step and not done:
            done.append(asked)
            raise KeyboardInterrupt
        return get(self, asked)

    monkeypatch.setattr(HoleBatches, "__getitem__", stop)


@pytest.mark.parametrize("name", recipes.OF_PHOTOGRAPHS)
def test_a_recipe_finishes_and_goes_on_where_it_stopped(name, brief, train, tmp_path, monkeypatch, capsys):
    build, recipe = recipes.RECIPES[name]
    given = {} if name not in ("hier", "cvae_1") else {"unet": shaken(UNet(), 0.02)}
    model, training = recipe(train, "smoke", **given)
    assert training.finished and training.n_steps == STEPS and training.n_skipped == 0
    first = build().state_dict()
    assert all(value.shape == first[key].shape for key, value in model.state_dict().items())
    assert all(value.isfinite().all() for value in model.state_dict().values())
    stopped_once(monkeypatch, STEPS - 1)
    state = tmp_path / "state.safetensors"
    half, training = recipe(train, "smoke", 0, state, **given)
    assert not training.finished and "stopped after 11 of 12" in capsys.readouterr().out
    whole, training = recipe(train, "smoke", 0, state, **given)
    assert training.finished and [row["step"] for row in training.rows] == list(range(1, STEPS + 1))
    for key, value in model.state_dict().items():
        assert torch.equal(value, whole.state_dict()[key]), key
    assert any(not torch.equal(a, b) for a, b in zip(model.parameters(), half.parameters(), strict=True))


@pytest.mark.parametrize("recipe", [recipes.hier, recipes.cvae_1])
def test_the_u_net_below_stays_as_it_is(recipe, brief, train):
    unet = shaken(UNet(), 0.02)
    before = {key: value.clone() for key, value in unet.state_dict().items()}
    model, _ = recipe(train, "smoke", unet=unet)
    assert model.unet is not unet and model.stages == ([0, 1, 2] if recipe is recipes.hier else [0])
    for key, value in before.items():
        assert torch.equal(value, unet.state_dict()[key]) and torch.equal(value, model.unet.state_dict()[key])
    assert all(value.grad is None and not value.requires_grad for value in model.unet.parameters())
    assert all(value.grad is not None for name, value in model.named_parameters() if "unet" not in name)


def test_without_a_u_net_one_is_trained_first_and_kept(brief, train, tmp_path):
    unet, _ = recipes.unet_l2(train, "smoke")
    model, training = recipes.cvae_1(train, "smoke", 0, tmp_path / "one.safetensors")
    assert training.finished and sorted(file.stem for file in tmp_path.iterdir()) == ["one", "one_unet"]
    assert all(torch.equal(a, b) for a, b in zip(unet.parameters(), model.unet.parameters(), strict=True))


def test_the_study_may_change_what_is_maximised_and_how_its_price_rises(brief, train, monkeypatch):
    asked, fit = [], recipes.fit

    def watched(*args, objective, warm_up_from_below, warm_up_steps, **rest):
        asked.append((objective, warm_up_from_below, warm_up_steps))
        given = {"warm_up_from_below": warm_up_from_below, "warm_up_steps": warm_up_steps} | rest
        return fit(*args, objective=objective, **given)

    monkeypatch.setattr(recipes, "fit", watched)
    monkeypatch.setattr(recipes, "pick", lambda budget, **steps: 2)
    unet = UNet()
    recipes.hier(train, "smoke", unet=unet)
    recipes.cvae_1(train, "smoke", unet=unet, objective=hole_bound, from_below=True, warm_up=0.0)
    assert asked == [(sketched_bound, False, 2), (hole_bound, True, 0)]


def test_the_cost_of_2017_holds_every_parameter_down(x):
    model = recipes.InpaintingVAE2017()
    bound, cost = (seeded(objective, model, x) for objective in (hole_bound, recipes.cost_2017))
    squares = sum(value.detach().double().square().sum().item() for value in model.parameters())
    torch.testing.assert_close(cost.log_px, bound.log_px - 1e-3 * squares)
    assert torch.equal(cost.kl, bound.kl) and squares > 1e3, "the test cannot tell"
