"""The hierarchical VAE: merging against quadrature, who hears whom, and a hierarchy whose p(x) is known."""

import math

import pytest
import torch
from test_models import losses_by_heart
from torch import nn
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from course_utils import recipes
from course_utils.distributions import (
    Bernoulli,
    DiscretisedLogistic,
    GaussianPerPixel,
    normal_log_prob,
    per_image,
)
from course_utils.models.hierarchical_vae import HierarchicalVAE, merge
from course_utils.models.layers import Layer, Networks, conv_layers, mlp_layers
from course_utils.objectives import elbo, importance_weighted_bound, log_weights, terms


def small_mlp(n_layers: int, skip: bool, n_params: int = 1) -> Networks:
    """Layers of 5, 4, ... latents: no two have as many."""
    latent_dims = (5, 4, 3, 2, 1)[:n_layers]
    return mlp_layers(latent_dims, [8 + dim for dim in latent_dims], skip, n_params=n_params)


def small_conv(n_layers: int, skip: bool, n_params: int = 1) -> Networks:
    sides = {1: (7,), 2: (14, 7), 3: (14, 7, 7), 4: (14, 14, 7, 7), 5: (14, 14, 14, 7, 7)}[n_layers]
    return conv_layers(sides, (1, 2, 3, 1, 2)[:n_layers], width=6, skip=skip, n_params=n_params)


NETWORKS = {"mlp": small_mlp, "conv": small_conv}
SHAPES = {"mlp": [(5,), (4,), (3,)], "conv": [(1, 14, 14), (2, 7, 7), (3, 7, 7)]}


def build(kind: str, n_layers: int = 3, *, skip: bool = False, likelihood=None, **choices) -> HierarchicalVAE:
    """A small model of either kind, in evaluation mode: in training, batch norm mixes the images."""
    likelihood = likelihood or Bernoulli()
    networks = NETWORKS[kind](n_layers, skip, likelihood.n_params)
    return HierarchicalVAE(*networks, skip=skip, likelihood=likelihood, **choices).eval()


@pytest.fixture
def x():
    return torch.bernoulli(torch.full((4, 1, 28, 28), 0.3))


def normal(mu: torch.Tensor, log_var: torch.Tensor) -> Normal:
    return Normal(mu, torch.exp(0.5 * log_var))


# Prior times evidence -----------------------------------------------------------------------------


def four_gaussians() -> tuple[torch.Tensor, ...]:
    """mu_p, log_var_p, mu_e, log_var_e for five latents, from alike to far apart."""
    values = [[0.0, 0.7, -1.0, 2.0, -3.0], [0.0, -1.0, 0.5, 1.5, -2.0]]
    values += [[0.0, -0.2, 1.5, 2.0, 3.0], [0.0, 1.0, -0.7, -3.0, -1.5]]
    return torch.tensor(values, dtype=torch.float64).unbind()


def test_merge_is_the_product_of_two_densities_by_quadrature():
    mu_p, log_var_p, mu_e, log_var_e = four_gaussians()
    z = torch.linspace(-15, 15, 60_001, dtype=torch.float64)[:, None]
    density = torch.exp(normal(mu_p, log_var_p).log_prob(z) + normal(mu_e, log_var_e).log_prob(z))
    density = density / torch.trapezoid(density, z, dim=0)
    mean = torch.trapezoid(z * density, z, dim=0)
    variance = torch.trapezoid((z - mean) ** 2 * density, z, dim=0)
    mu, log_var = merge((mu_p, log_var_p), (mu_e, log_var_e))
    torch.testing.assert_close(mu, mean, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(log_var.exp(), variance, rtol=1e-6, atol=1e-9)


def test_prior_times_evidence_is_the_merged_density_times_how_well_they_agree():
    """N(z; p) N(z; e) = N(mu_p; mu_e, var_p + var_e) N(z; merged), for every z."""
    mu_p, log_var_p, mu_e, log_var_e = four_gaussians()
    z = torch.linspace(-4, 4, 9, dtype=torch.float64)[:, None]
    merged = normal(*merge((mu_p, log_var_p), (mu_e, log_var_e)))
    agreement = normal(mu_e, torch.logaddexp(log_var_p, log_var_e)).log_prob(mu_p)
    product = normal(mu_p, log_var_p).log_prob(z) + normal(mu_e, log_var_e).log_prob(z)
    torch.testing.assert_close(product, agreement + merged.log_prob(z))


def test_merge_does_not_mind_the_order_and_is_never_wider_than_either():
    mu_p, log_var_p, mu_e, log_var_e = torch.randn(4, 200, dtype=torch.float64) * 3
    one = merge((mu_p, log_var_p), (mu_e, log_var_e))
    other = merge((mu_e, log_var_e), (mu_p, log_var_p))
    torch.testing.assert_close(one, other)
    assert (one[1] < torch.minimum(log_var_p, log_var_e)).all()
    assert ((one[0] - mu_p) * (one[0] - mu_e) <= 0).all(), "the mean lies between the two"


@pytest.mark.parametrize("log_var_p", [-1e4, -200.0, 0.0, 200.0, 1e4])
@pytest.mark.parametrize("log_var_e", [-1e4, -200.0, 0.0, 200.0, 1e4])
def test_merge_and_its_gradients_stay_finite_at_extreme_variances(log_var_p, log_var_e):
    inputs = [torch.tensor(v, requires_grad=True) for v in (3.0, log_var_p, -1.0, log_var_e)]
    mu, log_var = merge(inputs[:2], inputs[2:])
    (mu + log_var).backward()
    assert all(value.isfinite() for value in (mu, log_var, *(value.grad for value in inputs)))
    assert log_var.item() == pytest.approx(min(log_var_p, log_var_e), abs=0.7)
    if log_var_p != log_var_e:  # the surer one decides
        assert mu.item() == (3.0 if log_var_p < log_var_e else -1.0)


# Shapes, layer by layer ---------------------------------------------------------------------------


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("top_down", [False, True])
@pytest.mark.parametrize("n_layers", [1, 2, 5])
@pytest.mark.parametrize("kind", NETWORKS)
def test_it_runs_with_any_number_of_layers(kind, n_layers, top_down, skip, x):
    model = build(kind, n_layers, top_down=top_down, skip=skip)
    out = model(x, n_draws=2)
    assert len(out.z) == len(out.q) == len(out.p) == n_layers
    for z, q, p in zip(out.z, out.q, out.p, strict=True):
        assert z.shape == q[0].shape == q[1].shape == p[0].shape == p[1].shape and len(z) == 8
    assert out.px.shape == (8, 1, 1, 28, 28)
    bound = elbo(model.train(), x)
    assert bound.kl.shape == (4, n_layers) and bound.value().isfinite().all()
    bound.loss().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == ["top"], "every parameter but the fixed prior of the top is trained"


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_bottom_layer_comes_first(kind, x):
    model = build(kind)
    out = model(x)
    assert [tuple(z.shape[1:]) for z in out.z] == SHAPES[kind]
    assert [tuple(mu.shape[1:]) for mu, _ in model.encode(x)] == SHAPES[kind]
    assert [tuple(mu.shape[1:]) for mu, _ in model.evidence(x)] == SHAPES[kind]


def test_maps_of_14_and_of_7_pixels_one_above_the_other(x):
    model = build("conv", 4)
    sides = [tuple(z.shape[2:]) for z in model(x).z]
    assert sides == [(14, 14), (14, 14), (7, 7), (7, 7)]
    x = x.requires_grad_()
    per_image(model.evidence(x)[3][0]).sum().backward()
    assert (x.grad != 0).any(dim=0).all(), "the top layer sees every pixel"


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_price_of_each_layer_is_the_divergence_of_torch(kind, x):
    model = build(kind)
    out = model(x)
    kl = terms(model.likelihood, x, out).kl
    assert kl.shape == (4, 3)
    for layer, (q, p) in enumerate(zip(out.q, out.p, strict=True)):
        divergence = kl_divergence(normal(*q), normal(*p)).flatten(1).sum(dim=1)
        torch.testing.assert_close(kl[:, layer], divergence, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 28, 28), (2, 1, 28, 27), (2, 3, 28, 28), (2, 784)])
@pytest.mark.parametrize("call", ["forward", "encode", "evidence"])
def test_an_image_of_the_wrong_shape_is_refused(call, shape):
    with pytest.raises(ValueError, match=r"batches of images \(B, 1, 28, 28\).*given"):
        getattr(build("mlp"), call)(torch.zeros(shape))


@pytest.mark.parametrize("kind", NETWORKS)
def test_one_image_alone_equals_the_same_image_in_a_batch(kind, x):
    model = build(kind)
    for one, all_of_them in zip(model.encode(x[:1]), model.encode(x), strict=True):
        torch.testing.assert_close((one[0][0], one[1][0]), (all_of_them[0][0], all_of_them[1][0]))


@pytest.mark.parametrize("likelihood", [Bernoulli, DiscretisedLogistic, GaussianPerPixel])
@pytest.mark.parametrize("kind", NETWORKS)
def test_generate_gives_images(kind, likelihood):
    images = build(kind, likelihood=likelihood()).generate(5)
    assert images.shape == (5, 1, 28, 28) and not images.requires_grad
    assert images.min() >= 0 and images.max() <= 1
    assert not torch.equal(images[0], images[1])


@pytest.mark.parametrize("top_down", [False, True])
@pytest.mark.parametrize("kind", NETWORKS)
def test_in_bfloat16_the_distributions_stay_in_float32(kind, top_down, x):
    model = build(kind, top_down=top_down, skip=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(x)
        bound = terms(model.likelihood, x, out)
    pairs = [value for pair in (*out.q, *out.p) for value in pair]
    assert all(value.dtype == torch.float32 for value in (out.px, *out.z, *pairs, *bound))
    torch.manual_seed(1)
    exact = model(x).px
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.manual_seed(1)
        coarse = model(x).px
    assert not torch.equal(coarse, exact), "bf16 changed nothing, so it was not used"
    torch.testing.assert_close(coarse, exact, atol=0.1, rtol=0.1)


@pytest.mark.parametrize(
    ("networks", "n"),
    [
        (mlp_layers, 2_135_984),
        (lambda: mlp_layers(skip=True), 2_529_200),
        (lambda: mlp_layers(recipes.LATENTS, recipes.WIDTHS), 1_898_728),  # as shipped
        (conv_layers, 183_980),
        (lambda: conv_layers(skip=True), 211_628),
    ],
)
def test_the_sizes_of_the_course_have_their_number_of_parameters(networks, n):
    model = HierarchicalVAE(*networks())
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == n


# Who depends on whom ------------------------------------------------------------------------------


def walk(model: HierarchicalVAE, z: list[torch.Tensor]) -> list[torch.Tensor]:
    """[px, p[0], p[1], ...] as flat tensors, when the latents are these whatever their prior says."""
    given, p, px = model.descend(lambda level, prior: z[level], len(z[0]))
    assert all(a is b for a, b in zip(given, z, strict=True))
    return [px.flatten(1), *(torch.cat(pair, dim=1).flatten(1) for pair in p)]


@pytest.mark.parametrize("n_layers", [1, 2, 5])
@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("kind", NETWORKS)
def test_a_layer_hears_its_neighbour_above_and_with_skip_paths_all_above(kind, skip, n_layers, x):
    """Which of px, p[0], p[1], ... changes with z[l]? Only the one below it; with skip paths all below it."""
    model = build(kind, n_layers, skip=skip)
    z = [torch.randn_like(mu) for mu, _ in model.encode(x)]
    before = walk(model, z)
    for level in range(n_layers):
        moved = [z[k] + 1.0 if k == level else z[k] for k in range(n_layers)]
        after = walk(model, moved)
        changed = [k for k in range(n_layers + 1) if not torch.equal(before[k], after[k])]
        assert changed == (list(range(level + 1)) if skip else [level])


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("kind", NETWORKS)
def test_in_mean_field_a_posterior_does_not_hear_the_layers_above_top_down_it_does(kind, skip, x):
    for top_down in (False, True):
        model = build(kind, top_down=top_down, skip=skip)
        q = [mu.unflatten(0, (2, 4)) for mu, _ in model(x, n_draws=2).q]  # two walks with other z above
        assert [torch.allclose(mu[0], mu[1], atol=1e-6) for mu in q] == [not top_down, not top_down, True]
        if not top_down:
            for pair, evidence in zip(model(x).q, model.evidence(x), strict=True):
                torch.testing.assert_close(tuple(pair), evidence)


@pytest.mark.parametrize("kind", NETWORKS)
def test_top_down_the_posterior_is_prior_times_evidence(kind, x):
    model = build(kind)
    out = model(x)
    for q, p, evidence in zip(out.q, out.p, model.evidence(x), strict=True):
        precision = (-p[1]).exp() + (-evidence[1]).exp()
        mean = (p[0] / p[1].exp() + evidence[0] / evidence[1].exp()) / precision
        torch.testing.assert_close(q, (mean, -precision.log()))


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("top_down", [False, True])
def test_encode_is_the_posterior_with_every_layer_above_at_its_mean(top_down, skip, x):
    model = build("mlp", top_down=top_down, skip=skip)
    evidence, q, above = model.evidence(x), {}, None
    for level in (2, 1, 0):
        h = None if above is None else model.layers[level].down(above)
        zeros = torch.zeros(4, 3)
        prior = (zeros, zeros) if h is None else model.layers[level].prior(h).chunk(2, dim=1)
        q[level] = merge(prior, evidence[level]) if top_down else evidence[level]
        above = q[level][0] if h is None or not skip else torch.cat([h, q[level][0]], dim=1)
    found = model.encode(x)
    assert all(torch.equal(a, b) for level in range(3) for a, b in zip(found[level], q[level], strict=True))
    again = model.encode(x)
    assert torch.equal(found[0][0], again[0][0]), "nothing is drawn"


@pytest.mark.parametrize("top_down", [False, True])
def test_draws_are_ordered_draw_by_draw(top_down, x):
    model = build("mlp", top_down=top_down)
    with torch.no_grad():
        for layer in model.layers:  # q nearly without variance, so that all draws of an image agree
            layer.evidence.weight.mul_(50)  # and no two images do
            n = len(layer.evidence.bias) // 2
            layer.evidence.weight[n:] = 0
            layer.evidence.bias[n:] = -30
    out, once = model(x, n_draws=3), model(x)
    for parts in zip((out.px, *out.z), (once.px, *once.z), strict=True):
        many, one = parts[0].unflatten(0, (3, 4)), parts[1]
        assert all((many[draw] - one).abs().max() < 1e-3 for draw in range(3))
        assert all((one[i] - one[j]).abs().max() > 1e-2 for i in range(4) for j in range(i))


# Layers drawn from their prior --------------------------------------------------------------------


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("top_down", [False, True])
@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("n_from_prior", [0, 1, 2, 3])
def test_layers_drawn_from_the_prior_cost_exactly_nothing(kind, n_from_prior, top_down, skip, x):
    model = build(kind, top_down=top_down, skip=skip)
    out = model(x, n_from_prior=n_from_prior)
    kl = terms(model.likelihood, x, out).kl
    assert (kl[:, :n_from_prior] == 0).all() and (kl[:, n_from_prior:] > 0).all()
    for level in range(3):
        same = all(torch.equal(a, b) for a, b in zip(out.q[level], out.p[level], strict=True))
        assert same == (level < n_from_prior)


def test_the_layers_above_are_drawn_from_q_as_ever(x):
    model = build("mlp")
    walks = []
    for n_from_prior in (0, 2):
        torch.manual_seed(3)
        walks.append(model(x, n_from_prior=n_from_prior))
    assert torch.equal(walks[0].z[2], walks[1].z[2]) and torch.equal(walks[0].p[1][0], walks[1].p[1][0])
    assert not torch.equal(walks[0].z[1], walks[1].z[1])


def test_with_all_layers_from_the_prior_the_image_is_not_seen(x):
    model = build("mlp", skip=True)
    painted = []
    for images in (x, 1 - x):
        torch.manual_seed(3)
        painted.append(model(images, n_from_prior=3).px)
    assert torch.equal(*painted)
    torch.manual_seed(3)
    assert torch.equal(model.generate(4), torch.sigmoid(painted[0][:, 0]))


# Where training starts ----------------------------------------------------------------------------


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("kind", NETWORKS)
def test_with_zero_heads_every_prior_is_standard_and_mean_field_costs_nothing(kind, skip, x):
    model = build(kind, top_down=False, skip=skip, zero_heads=True).train()
    out = model(x)
    assert not any(value.any() for pair in (*out.q, *out.p) for value in pair)
    assert (elbo(model, x).kl == 0).all()
    other = build(kind, top_down=False, skip=skip)
    assert (elbo(other, x).kl > 0).all()


def test_with_zero_heads_top_down_two_equal_opinions_halve_the_variance(x):
    """q = N(0, 1/2): each latent costs (log 2 - 1/2) / 2 nats before anything is learned."""
    kl = elbo(build("mlp", zero_heads=True).train(), x).kl
    torch.testing.assert_close(kl, (math.log(2) - 0.5) / 2 * torch.tensor([5.0, 4.0, 3.0]).expand(4, 3))


@pytest.mark.parametrize("kind", NETWORKS)
def test_zero_heads_can_be_learned(kind, x):
    model = build(kind, zero_heads=True).train()
    elbo(model, x).loss().backward()
    assert all(layer.evidence.weight.grad.any() for layer in model.layers)


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("kind", NETWORKS)
def test_the_prior_of_the_top_learns_if_it_may(kind, learned, x):
    model = build(kind, learned_top=learned)
    elbo(model, x).loss().backward()
    assert model.top.requires_grad == learned and (model.top.grad is not None) == learned
    if learned:
        assert model.top.grad[0].any() and model.top.grad[1].any()
    assert not model.top.any(), "it starts at N(0, I)"
    with torch.no_grad():
        model.top += torch.randn_like(model.top)
    prior = model(x, n_draws=2).p[-1]
    assert torch.equal(torch.stack(prior), model.top.unsqueeze(1).expand(-1, 8, *model.top.shape[1:]))


@pytest.mark.parametrize("likelihood", [Bernoulli, DiscretisedLogistic, GaussianPerPixel])
@pytest.mark.parametrize(("kind", "n_biases"), [("mlp", 784), ("conv", 4)])
def test_starting_at_the_mean_it_answers_with_it(kind, n_biases, likelihood, x):
    model = build(kind, likelihood=likelihood())
    mean = torch.linspace(0.05, 0.95, 784).reshape(1, 28, 28)
    last = model.decoder[{"mlp": -2, "conv": -3}[kind]]
    others = last.bias[n_biases:].clone()
    assert len(last.bias) == n_biases * model.likelihood.n_params
    at_zero = model.evidence(torch.zeros(2, 1, 28, 28))
    model.start_at_mean(mean)
    assert torch.equal(last.bias[n_biases:], others), "the other parameter is left alone"
    for before, after in zip(at_zero, model.evidence(mean.expand(2, 1, 28, 28)), strict=True):
        torch.testing.assert_close(after, before, msg="the mean image is the new zero")
    with torch.no_grad():
        last.weight.zero_()
    expected = (mean if kind == "mlp" else mean.mean()).expand(2, 1, 28, 28)
    torch.testing.assert_close(model.generate(2), expected, atol=1e-5, rtol=1e-5)


def test_the_encoder_sees_twice_the_distance_from_the_mean(x):
    model = build("mlp")
    seen = []
    model.layers[0].up.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    mean = torch.rand(1, 28, 28)
    model.start_at_mean(mean)
    model.evidence(x)
    torch.testing.assert_close(seen[0], 2 * (x - mean))


@pytest.mark.parametrize("top_down", [False, True])
@pytest.mark.parametrize("kind", NETWORKS)
def test_it_can_learn_four_images_by_heart(kind, top_down, x):
    model = build(kind, 2, top_down=top_down).train()
    losses = losses_by_heart(model, x, 60)
    assert sum(losses[-5:]) / 5 < losses[0] - 30


# A hierarchy whose p(x) is known -------------------------------------------------------------------
#
#     z_2 ~ N(0, I),  z_1 | z_2 ~ N(A z_2 + a, S),  x | z_1 ~ N(W z_1 + b, s I)
#
# With orthogonal columns in W, and in A once S and the evidence are counted in, both exact posteriors are
# diagonal and of the form prior times evidence. A skip path adds V z_2 to the mean of x, of which q
# knows nothing.

VARIANCE = 0.3
A = torch.tensor([[0.8, -0.4], [0.5, 0.9], [-0.6, 0.5]], dtype=torch.float64)
SHIFT = torch.tensor([0.2, -0.5, 0.1], dtype=torch.float64)
S = torch.tensor([0.7, 0.4, 1.1], dtype=torch.float64)
W = torch.tensor([[1, 1, 1], [1, -1, 1], [1, 1, -1], [1, -1, -1]], dtype=torch.float64)
W = W * torch.tensor([0.6, 0.4, 0.8], dtype=torch.float64)
V = torch.tensor([[0.2, -0.1], [0.1, 0.1], [-0.2, 0.1], [0.1, 0.2]], dtype=torch.float64)
B = torch.tensor([0.1, -0.2, 0.3, 0.4], dtype=torch.float64)
VAR_E = VARIANCE / (W**2).sum(dim=0)  # of the evidence on z_1: least squares
R = 1 / (S + VAR_E)  # how precisely that evidence tells A z_2
A[:, 1] -= A[:, 0] * ((A[:, 0] * R) @ A[:, 1] / ((A[:, 0] * R) @ A[:, 0]))


class Density(nn.Module):
    """x itself, not a bin of it: N(x; px, 0.3)."""

    n_params = 1

    def log_prob(self, x, px):
        return per_image(normal_log_prob(x, px[:, 0], torch.tensor(math.log(VARIANCE))))


def linear(weight: torch.Tensor, bias: torch.Tensor, log_var: torch.Tensor) -> nn.Linear:
    """x -> (weight x + bias, log_var)."""
    layer = nn.Linear(weight.shape[1], 2 * len(weight))
    with torch.no_grad():
        layer.weight.copy_(torch.cat([weight, torch.zeros_like(weight)]))
        layer.bias.copy_(torch.cat([bias, log_var]))
    return layer


def linear_hierarchy(*, top_down: bool = True, skip: bool = False, error: float = 0.0) -> HierarchicalVAE:
    """Exact for skip=False, top_down=True; `error` moves all evidence and widens it."""
    inverse_w = W.T / (W**2).sum(dim=0)[:, None]  # of x: (3, 4)
    precision = ((A**2) * R[:, None]).sum(dim=0)  # of the evidence on z_2
    inverse_a = (A * R[:, None]).T / precision[:, None]
    below = linear(inverse_w / 2, error - inverse_w @ B, VAR_E.log() + error)
    bias = error - inverse_a @ (inverse_w @ B + SHIFT)
    above = linear(inverse_a @ inverse_w / 2, bias, error - precision.log())
    decoder = nn.Linear(3 + 2 * skip, 4)
    with torch.no_grad():
        decoder.weight.copy_(torch.cat([V, W], dim=1) if skip else W)
        decoder.bias.copy_(B)
    layers = [Layer(nn.Flatten(), below, nn.Identity(), linear(A, SHIFT, S.log()))]
    layers.append(Layer(nn.Identity(), above, None, None))
    networks = Networks(layers, nn.Sequential(decoder, nn.Unflatten(1, (1, 1, 2, 2))), (2,))
    return HierarchicalVAE(
        *networks, image_shape=(1, 2, 2), likelihood=Density(), top_down=top_down, skip=skip
    )


def log_likelihood(x: torch.Tensor, skip: bool = False) -> torch.Tensor:
    """log p(x), in closed form."""
    reach = W @ A + V * skip
    covariance = reach @ reach.T + W @ S.diag() @ W.T + VARIANCE * torch.eye(4)
    return MultivariateNormal(W @ SHIFT + B, covariance).log_prob(x.double().flatten(1)).float()


@pytest.fixture
def points():
    return torch.randn(6, 1, 2, 2)


def test_with_the_exact_posterior_every_weight_is_the_likelihood(points):
    log_w = log_weights(linear_hierarchy(), points, 50)
    torch.testing.assert_close(log_w, log_likelihood(points).expand(50, -1), rtol=1e-4, atol=1e-4)
    for wrong in (linear_hierarchy(top_down=False), linear_hierarchy(error=0.1)):
        assert log_weights(wrong, points, 50).std(dim=0).min() > 0.01


def test_with_the_exact_posterior_the_bound_is_the_likelihood_on_average(points):
    bounds = elbo(linear_hierarchy(), points.repeat(20_000, 1, 1, 1)).value().unflatten(0, (20_000, 6))
    error = bounds.std(dim=0) / math.sqrt(20_000)
    assert ((bounds.mean(dim=0) - log_likelihood(points)).abs() < 4 * error).all()


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("top_down", [False, True])
def test_with_another_posterior_the_bound_rises_with_k_to_the_likelihood(top_down, skip, points):
    model = linear_hierarchy(top_down=top_down, skip=skip, error=0.4)
    with torch.no_grad():
        log_w = log_weights(model, points, 128_000)
    gaps = []
    for k in (1, 8, 64, 128_000):
        bounds = importance_weighted_bound(log_w.reshape(k, -1, 6).flatten(1)).reshape(-1, 6).mean(dim=0)
        gaps.append((log_likelihood(points, skip) - bounds).mean().item())
    assert gaps[0] > gaps[1] > gaps[2] > abs(gaps[3])
    assert abs(gaps[3]) < 0.03 < gaps[0]


@pytest.mark.parametrize("skip", [False, True])
def test_drawn_from_the_prior_alone_the_mean_likelihood_is_the_marginal(skip, points):
    model = linear_hierarchy(skip=skip)
    with torch.no_grad():
        out = model(points, n_draws=200_000, n_from_prior=2)
        log_px = model.likelihood.log_prob(points.repeat(200_000, 1, 1, 1), out.px).unflatten(0, (-1, 6))
    torch.testing.assert_close(
        importance_weighted_bound(log_px), log_likelihood(points, skip), atol=0.05, rtol=0
    )
