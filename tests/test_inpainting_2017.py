"""The conditional hierarchical VAE of 2017 and its likelihood: what seeds and code say of it, one by one."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Categorical

from course_utils.distributions import TruncatedGaussian
from course_utils.models.inpainting_2017 import InpaintingVAE2017, Normed, doubled, gaussian
from course_utils.objectives import terms

HOLE = slice(16, 48)
SHAPES = [(4, 32, 32), (8, 16, 16), (16, 8, 8), (32, 4, 4), (64, 2, 2), (128, 2, 2), (256, 1, 1)]
ALL_LEVELS = (torch.arange(256) / 255).reshape(256, 1, 1, 1)  # one image of one pixel for each level


def photographs(n: int) -> torch.Tensor:
    """Smooth colours, a grey fill, and the top four rows outside the photograph: (n, 7, 64, 64)."""
    picture = F.interpolate(torch.rand(n, 3, 8, 8), size=64, mode="bilinear")
    fill, known = picture.clone(), torch.ones(n, 1, 64, 64)
    fill[..., HOLE, HOLE], known[..., HOLE, HOLE], known[..., :4, :] = 0.5, 0, 0
    return torch.cat([picture, fill, known], dim=1)


def in_the_hole(x: torch.Tensor) -> torch.Tensor:
    return (x[:, :3, HOLE, HOLE] * 255).round() / 255


def pictures_of(x: torch.Tensor) -> list[torch.Tensor]:
    """What the encoder reads, in this order: the masked picture and the whole one, each (B, 4, 64, 64)."""
    picture, known = x[:, :3], x[:, 6:7]
    masked, whole = [picture * known, 1 - known], [picture, torch.zeros_like(known)]
    return [torch.cat(masked, dim=1), torch.cat(whole, dim=1)]


@pytest.fixture
def x():
    return photographs(5)


@pytest.fixture
def model():
    """As if trained: nothing is 0, so that whatever is read shows."""
    model = InpaintingVAE2017()
    for name, value in model.named_parameters():
        if not name.endswith("layer.weight"):
            nn.init.normal_(value, mean=float(name.endswith("gain")), std=0.2 if value.ndim == 1 else 0.05)
    return model


def seeded(function, *args):
    torch.manual_seed(7)
    return function(*args)


# The whole ----------------------------------------------------------------------------------------


def test_shapes_of_the_seven_layers_and_of_the_hole(model, x):
    out = model(x, n_draws=2)
    assert out.px.shape == (10, 2, 3, 32, 32)
    for values in (out.z, *zip(*out.q, strict=True), *zip(*out.p, strict=True)):
        assert [tuple(value.shape) for value in values] == [(10, *shape) for shape in SHAPES]
    assert sum(z[0].numel() for z in out.z) == 8_704


def test_it_has_the_parameters_of_2017_but_for_those_that_nothing_read():
    n = sum(value.numel() for value in InpaintingVAE2017().parameters())
    border_of_the_scale_without_border, gains_of_the_last_layer = 64 * 64 * 9 + 2 * 64, 6
    assert n == 1_579_294
    assert border_of_the_scale_without_border + gains_of_the_last_layer == 36_998
    assert round((n + 36_998) / 1e6, 2) == 1.62


def test_the_first_kl_is_exactly_zero_and_the_first_pixels_are_grey(x):
    model = InpaintingVAE2017()
    out = model(x)
    assert terms(model.likelihood, in_the_hole(x), out).kl.abs().max() == 0
    for mu, log_var in out.q + out.p:
        assert mu.abs().max() == 0
        torch.testing.assert_close(log_var, torch.zeros_like(log_var), atol=1e-6, rtol=0)
    assert out.px.abs().max() == 0 and (model.complete(x) == 0.5).all()


def test_every_parameter_gets_a_gradient(model, x):
    terms(model.likelihood, in_the_hole(x), model(x)).loss().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or p.grad.abs().sum() == 0]
    assert without == []


def test_it_learns(x):
    model, losses = InpaintingVAE2017(), []
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(15):
        loss = terms(model.likelihood, in_the_hole(x), model(x)).loss()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 50


@pytest.mark.parametrize("shape", [(7, 64, 64), (2, 3, 64, 64), (2, 7, 32, 32)])
def test_a_batch_of_the_wrong_shape_is_refused(model, shape):
    for use in (model, model.complete):
        with pytest.raises(ValueError, match=r"batches of images \(B, 7, 64, 64\).*given"):
            use(torch.zeros(shape))


# Who sees what ------------------------------------------------------------------------------------


def test_the_posterior_is_mean_field(model, x):
    """What is drawn in one layer moves the priors below it, and no posterior."""
    out = model(x, n_draws=2)
    for q, p, z in zip(out.q, out.p, out.z, strict=True):
        (z_1, z_2), (p_1, p_2) = z.chunk(2), p[0].chunk(2)
        assert not torch.equal(z_1, z_2) and torch.equal(p_1, p_2) == (z.shape[1] == 256)
        for value, alone in zip(q, model.evidence(x)[SHAPES.index(tuple(z.shape[1:]))], strict=True):
            assert torch.equal(value, alone.repeat(2, 1, 1, 1)) and value.std() > 0


def test_each_latent_is_a_draw_of_its_posterior_the_top_one_first(model, x):
    out = seeded(model, x)
    torch.manual_seed(7)
    for z, (mu, log_var) in reversed([*zip(out.z, out.q, strict=True)]):
        torch.testing.assert_close(z, mu + torch.exp(0.5 * log_var) * torch.randn(mu.shape))


@pytest.mark.parametrize(("channels", "seen_by_q"), [(slice(0, 3), True), (slice(3, 6), False)])
def test_prior_and_completions_do_not_see_what_is_in_the_hole(model, x, channels, seen_by_q):
    other = x.clone()
    other[:, channels, HOLE, HOLE] = torch.rand(5, 3, 32, 32)
    other[:, 3:6, :4] = torch.rand(5, 3, 4, 64)  # outside of the photograph
    assert torch.equal(seeded(model.complete, x, 2), seeded(model.complete, other, 2))
    assert torch.equal(model(x).p[-1][0], model(other).p[-1][0])
    same = [torch.equal(a[0], b[0]) for a, b in zip(model.evidence(x), model.evidence(other), strict=True)]
    assert same == [not seen_by_q] * 7


def test_completions_see_each_side_of_the_hole_and_what_is_known(model, x):
    before = seeded(model.complete, x)
    for row, column in ((8, 30), (55, 30), (30, 8), (30, 55)):
        other = x.clone()
        other[0, 3:6, row, column] += 0.5
        assert not torch.equal(seeded(model.complete, other), before)
    other = x.clone()
    other[0, 6, :4] = 1
    assert not torch.equal(seeded(model.complete, other), before)


def test_one_encoder_reads_both_pictures(model, x):
    """Each layer of it twice in `forward`, once for q and once for p, and once in `complete`."""
    seen = []
    for layer in (model.first, *(step[0] for step in model.down), model.features):
        layer.register_forward_pre_hook(lambda layer, inputs: seen.append((layer, inputs[0])))
    model(x)
    layers = [layer for layer, _ in seen]
    assert len(layers) == 14 and all(layers.count(layer) == 2 for layer in set(layers))
    masked, whole = [h for layer, h in seen if layer is model.first]
    assert torch.equal(masked, pictures_of(x)[0]) and torch.equal(whole, pictures_of(x)[1])
    assert masked[:, :3, HOLE, HOLE].max() == 0 and masked[:, 3, HOLE, HOLE].min() == 1
    seen.clear()
    model.complete(x, n_draws=4)
    assert len(seen) == 7 and {len(h) for _, h in seen} == {5}  # once for all draws


def test_each_picture_has_its_own_batch_statistics(model, x):
    other = x.clone()
    other[:, 3:6] = torch.rand(5, 3, 64, 64)
    for a, b in zip(model.evidence(x), model.evidence(other), strict=True):
        assert torch.equal(a[0], b[0])
    outputs = []
    hook = model.first.register_forward_hook(lambda layer, inputs, h: outputs.append(h))
    model(x)
    hook.remove()
    for picture, h in zip(pictures_of(x), outputs, strict=True):
        assert torch.equal(model.first(picture), h)


def test_on_the_way_down_each_scale_is_framed_by_the_map_of_the_masked_picture(model, x):
    ups, framed = {}, {}
    for level in range(4):
        model.up[level].register_forward_hook(lambda layer, _, h, level=level: ups.update({level: h}))
        model.border[level].register_forward_pre_hook(
            lambda layer, inputs, level=level: framed.update({level: inputs[0]})
        )
    model(x)
    maps = model.maps(pictures_of(x)[0][:, :3], pictures_of(x)[0][:, 3:])
    for level, size in enumerate((32, 16, 8, 4)):
        expected = maps[level][..., size // 2 - 1 : -size // 2 + 1, size // 2 - 1 : -size // 2 + 1].clone()
        assert not torch.equal(framed[level], expected)
        expected[..., 1:-1, 1:-1] = ups[level]
        assert torch.equal(framed[level], expected) and framed[level].shape[-1] == size + 2


def test_each_layer_reads_the_hole_s_place_in_the_maps_and_the_top_two_all_of_them(model, x):
    read = {}
    for level in range(7):
        model.posterior[level].register_forward_pre_hook(
            lambda head, inputs, level=level: read.update({level: inputs[0]})
        )
    model.prior[4].register_forward_pre_hook(lambda head, inputs: read.update({"prior": inputs[0]}))
    model.up[4].register_forward_hook(lambda layer, _, h: read.update({"up": h}))
    model(x)
    for level, h in enumerate(model.maps(x[:, :3], torch.zeros_like(x[:, 6:7]))):
        quarter = h.shape[-1] // 4
        expected = h[..., quarter : 3 * quarter, quarter : 3 * quarter] if level < 5 else h
        assert torch.equal(read[level], expected)
    assert torch.equal(read["prior"], read["up"][..., 1:3, 1:3]) and read["up"].shape[-1] == 4


# Drawing some of the layers -----------------------------------------------------------------------


def priors_and_latents(model, x, vary) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(prior mean, z) of each layer during `complete` with two draws, z as the next step down gets it."""
    mu, above = {}, {}
    heads = [*zip(range(7), model.prior, strict=True)]
    hooks = [
        head.register_forward_hook(lambda _, i, h, n=n: mu.update({n: h.chunk(2, 1)[0]})) for n, head in heads
    ]
    readers = [model.output[0], *model.up, model.unfold]  # the reader of z[l]
    for n, reader in enumerate(readers):
        hooks.append(reader.register_forward_pre_hook(lambda _, inputs, n=n: above.update({n: inputs[0]})))
    seeded(model.complete, x, 2, vary)
    for hook in hooks:
        hook.remove()
    z = {n: h[:, -SHAPES[n][0] :] for n, h in above.items()}
    at_even_places = {n: h if n in (0, 6) else h[..., ::2, ::2] for n, h in z.items()}  # they got it doubled
    return [(mu[n], at_even_places[n].reshape(mu[n].shape)) for n in range(7)]


@pytest.mark.parametrize("drawn", range(7))
def test_to_vary_one_layer_leaves_those_above_as_they_are_and_moves_the_means_below(model, x, drawn):
    still = priors_and_latents(model, x, ())
    for level, (mu, z) in enumerate(priors_and_latents(model, x, {drawn})):
        assert torch.equal(mu, z) == (level != drawn)
        one, other = mu.chunk(2)
        spread = (one - other).abs().max()
        if level >= drawn:
            torch.testing.assert_close(mu, still[level][0], atol=1e-5, rtol=1e-5)
            assert spread < 1e-5
        else:
            assert spread > 1e-3


def test_to_vary_none_is_one_picture_and_to_vary_all_is_the_default(model, x):
    pictures = model.complete(x, 3, ())
    assert pictures.shape == (15, 3, 32, 32) and pictures.min() >= 0 and pictures.max() <= 1
    torch.testing.assert_close(pictures[:5], pictures[10:], atol=1e-5, rtol=0)
    assert torch.equal(seeded(model.complete, x), seeded(model.complete, x, 1, range(7)))
    assert not torch.equal(seeded(model.complete, x), seeded(model.complete, x, 1, range(6)))


@pytest.mark.parametrize("training", [True, False])
def test_complete_leaves_the_model_as_it_was(model, x, training):
    model.train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pictures = model.complete(x[:1], 4)  # of one photograph too
    assert model.training == training and not pictures.requires_grad and pictures.isfinite().all()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


# Its parts ----------------------------------------------------------------------------------------


def test_evaluation_uses_the_statistics_of_the_batch(model, x):
    """So the same photograph is completed differently in other company, and training changes nothing."""
    assert not list(model.buffers())
    together = model.complete(x, 1, ())
    for _ in range(3):
        model(torch.rand_like(x))
    model.eval()
    assert torch.equal(model.complete(x, 1, ()), together)
    assert (model.complete(x[:3], 1, ()) - together[:3]).abs().max() > 1e-3


@pytest.mark.parametrize("shape", [(20, 4), (6, 4, 5, 5)])
def test_batch_norm_is_its_formula_in_both_modes_and_dense_layers_add_the_bias_twice(shape):
    layer = nn.Linear(4, 3, bias=False) if len(shape) == 2 else nn.Conv2d(4, 3, 3, bias=False)
    normed, h = Normed(layer), torch.randn(shape)
    with torch.no_grad():
        layer.weight[2] *= 1e-3  # a std where an eps of 1e-5 would show
        normed.gain.uniform_(-2, 2)
        normed.bias.uniform_(0, 1)
        linear = layer(h)
    times = 2 if len(shape) == 2 else 1
    for i in range(3):
        values = linear.select(1, i)
        std = ((values - values.mean()) ** 2).mean().sqrt()
        expected = (values - values.mean()) / std * normed.gain[i] + times * normed.bias[i]
        for mode in (True, False):
            torch.testing.assert_close(
                normed.train(mode)(h).select(1, i), F.relu(expected), atol=1e-4, rtol=1e-4
            )


def test_where_a_batch_does_not_vary_the_bias_comes_out_and_the_gradient_is_finite():
    normed = Normed(nn.Conv2d(4, 3, 3, bias=False))
    nn.init.constant_(normed.bias, 0.7)
    for h in (torch.zeros(2, 4, 5, 5), torch.full((2, 4, 5, 5), 0.37)):
        out = normed(h.requires_grad_())
        torch.testing.assert_close(out, torch.full_like(out, 0.7), atol=0.02, rtol=0)
        out.sum().backward()
        assert h.grad.isfinite().all()
    dense = Normed(nn.Linear(4, 3, bias=False))
    nn.init.constant_(dense.bias, 0.7)
    torch.testing.assert_close(dense(torch.randn(1, 4)), torch.full((1, 3), 1.4), atol=0.02, rtol=0)


def test_weights_start_as_he_et_al_have_it_and_heads_at_zero():
    model = InpaintingVAE2017()
    layers = [layer.layer for layer in model.modules() if isinstance(layer, Normed)]
    assert len(layers) == 6 + 1 + 1 + 5 + 4 + 1
    for layer in layers:
        w = layer.weight
        expected = (2 / w[0].numel()) ** 0.5
        assert w.std().item() == pytest.approx(expected, rel=4 / math.sqrt(2 * w.numel()))
    heads = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d) and layer.bias is not None]
    assert len(heads) == 15 and all(value.abs().max() == 0 for head in heads for value in head.parameters())


def test_up_sampling_is_that_of_theano():
    """A transposed convolution with the kernel (1/2, 1, 1/2), ends repeated; values stay at even places."""
    h = torch.randn(2, 3, 5, 4)
    line = torch.tensor([0.5, 1, 0.5])
    kernel = (line[:, None] * line).expand(3, 1, 3, 3)
    padded = F.pad(h, (1, 1, 1, 1), mode="replicate")
    expected = F.conv_transpose2d(padded, kernel, stride=2, padding=3, output_padding=1, groups=3)
    torch.testing.assert_close(doubled(h), expected)
    torch.testing.assert_close(doubled(h)[..., ::2, ::2], h)


def test_the_deviation_of_every_gaussian_is_a_shifted_softplus():
    raw = torch.randn(3, 8, 2, 2)
    mu, log_var = gaussian(raw)
    assert torch.equal(mu, raw[:, :4])
    torch.testing.assert_close(torch.exp(0.5 * log_var), torch.log1p((math.e - 1) * raw[:, 4:].exp()))


# The likelihood -----------------------------------------------------------------------------------

VALUES = [(0.0, 0.0), (-0.9, -3.0), (0.5, -6.0), (1.7, 0.5), (-3.0, -2.0)]  # m, and s before the softplus


def one_pixel(m: float, raw: float, n: int) -> torch.Tensor:
    return torch.tensor([m, raw]).reshape(1, 2, 1, 1, 1).expand(n, 2, 1, 1, 1)


def by_the_formula(m: float, raw: float) -> Categorical:
    """In numbers of seeds.md: c_k = (k - 127.5) / 127.5, logits -(m - c_k)^2 / s, s = softplus."""
    colours = (torch.arange(256, dtype=torch.float64) - 127.5) / 127.5
    return Categorical(logits=-((m - colours) ** 2) / math.log1p(math.exp(raw)))


@pytest.mark.parametrize("values", VALUES)
def test_the_truncated_gaussian_is_a_categorical_whose_levels_sum_to_one(values):
    ours = TruncatedGaussian().log_prob(ALL_LEVELS, one_pixel(*values, 256)).double()
    expected = by_the_formula(*values).log_prob(torch.arange(256))
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-3)
    assert ours.exp().sum().item() == pytest.approx(1, abs=1e-4)
    inexact = TruncatedGaussian().log_prob(ALL_LEVELS - 1e-4, one_pixel(*values, 256)).double()
    assert torch.equal(inexact, ours)


def test_the_truncated_gaussian_sums_over_the_pixels_and_colours_of_each_image():
    x, px = torch.randint(0, 256, (4, 3, 2, 5)) / 255, torch.randn(4, 2, 3, 2, 5)
    expected = torch.zeros(4)
    for i, c, row, column in torch.cartesian_prod(*map(torch.arange, x.shape)).tolist():
        m, raw = px[i, :, c, row, column].tolist()
        expected[i] += by_the_formula(m, raw).log_prob((x[i, c, row, column] * 255).round())
    torch.testing.assert_close(TruncatedGaussian().log_prob(x, px), expected, rtol=1e-4, atol=1e-3)


def test_s_is_twice_a_variance():
    """A narrow bell in the middle loses nothing at the ends and spans many levels."""
    s = 0.05
    px = one_pixel(0.1, math.log(math.expm1(s)), 256)
    p, colours = TruncatedGaussian().log_prob(ALL_LEVELS, px).exp(), 2 * ALL_LEVELS.flatten() - 1
    assert (p * colours).sum().item() == pytest.approx(0.1, abs=1e-4)
    assert (p * (colours - 0.1) ** 2).sum().item() == pytest.approx(s / 2, rel=1e-3)


@pytest.mark.parametrize("level", [0, 128, 255])
@pytest.mark.parametrize("m", [-30.0, 0.0, 30.0])
def test_the_truncated_gaussian_stays_finite_with_its_gradient_in_the_far_tail(level, m):
    px = one_pixel(m, -20.0, 1).clone().requires_grad_()
    log_p = TruncatedGaussian().log_prob(torch.full((1, 1, 1, 1), level / 255), px)
    log_p.sum().backward()
    assert log_p.isfinite().all() and px.grad.isfinite().all()


def test_the_picture_of_the_truncated_gaussian_is_m_cut_off_and_its_samples_have_its_frequencies():
    likelihood, n = TruncatedGaussian(), 100_000
    shown = likelihood.mean(
        torch.tensor([-3.0, -1, 0, 0.5, 1, 2]).reshape(6, 1, 1, 1, 1).expand(6, 2, 1, 1, 1)
    )
    assert shown.flatten().tolist() == [0, 0, 0.5, 0.75, 1, 1]
    mean = torch.rand(3, 4, 4)
    px = torch.stack([likelihood.from_mean(mean), torch.zeros(3, 4, 4)]).unsqueeze(0)
    torch.testing.assert_close(likelihood.mean(px)[0], mean)
    assert likelihood.sample(one_pixel(0.6, -1.0, 3)).shape == (3, 1, 1, 1)
    sample = likelihood.sample(one_pixel(0.6, -1.0, 1).expand(10, 2, 1, 1, n // 10))
    frequencies = torch.bincount((sample * 255).round().long().flatten(), minlength=256) / n
    expected = by_the_formula(0.6, -1.0).probs
    assert (frequencies - expected).abs().max() < 5 * math.sqrt(expected.max().item() / n)
