"""Recipes from the command line to a checkpoint that loads, and every wrong turn on the way."""

import pytest
import torch

from course_utils import data, evaluate, recipes
from course_utils.models.unet import UNet
from course_utils.train import TrainingError


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project folder of its own, so that nothing is written into the real one."""
    monkeypatch.setattr(recipes, "project_root", lambda: tmp_path)
    monkeypatch.setenv("COURSE_THREADS", "1")
    return tmp_path


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_the_command_line_trains_and_writes_a_checkpoint_that_loads(name, project, capsys):
    assert recipes.main([name, "--profile", "smoke", "--data", "embedded"]) == 0
    assert "-ELBO" in capsys.readouterr().out
    model, facts = recipes.load_shipped(name, "embedded")
    assert not model.training
    assert facts["recipe"] == name and facts["profile"] == "smoke" and facts["neg_elbo_validation"]
    if name in recipes.OF_PHOTOGRAPHS:
        assert model.complete(torch.rand(2, 7, 64, 64)).shape == (2, 3, 32, 32)
    else:
        unit = "KL per image" if "2015" in name else "nats/image"
        assert unit in facts["neg_elbo_validation"] and "nan" not in facts["neg_elbo_validation"]
        assert model.generate(2).shape == (2, 1, 28, 28)


def test_an_interrupted_command_goes_on_when_it_is_run_again(project, monkeypatch, capsys):
    real = data.Batches.__getitem__

    def stop_at_20(self, step):
        if step == 20:
            raise KeyboardInterrupt
        return real(self, step)

    monkeypatch.setattr(data.Batches, "__getitem__", stop_at_20)
    command = ["mlp", "--profile", "smoke", "--data", "embedded", "--out", str(project / "out.safetensors")]
    assert recipes.main(command) == 130
    assert "again to go on" in capsys.readouterr().err
    assert not (project / "out.safetensors").exists()
    monkeypatch.setattr(data.Batches, "__getitem__", real)
    assert recipes.main(command) == 0
    assert (project / "out.safetensors").exists()


@pytest.mark.parametrize(
    ("recipe", "images"), [(recipes.hier, data.scenes), (recipes.m1_m2, data.digits)], ids=["hier", "m1_m2"]
)
def test_stopped_below_nothing_is_trained_above_it(recipe, images, tmp_path, monkeypatch, capsys):
    """A hierarchy on half a U-Net, or M2 on half an M1, would look like a finished model."""
    train, state, real = images(300, 10, 10).train, tmp_path / "state.safetensors", data.Batches.__getitem__

    def stop_at_2(self, step):
        if step == 2:
            raise KeyboardInterrupt
        return real(self, step)

    monkeypatch.setattr(data.Batches, "__getitem__", stop_at_2)
    _, training = recipe(train, "smoke", 0, state)
    assert not training.finished
    (stopped,) = capsys.readouterr().out.splitlines()  # one training only has begun
    assert "stopped after 2 of" in stopped
    monkeypatch.setattr(data.Batches, "__getitem__", real)
    assert recipe(train, "smoke", 0, state)[1].finished


def test_missing_weights_say_how_to_train_them(project):
    with pytest.raises(TrainingError, match=r"python -m course_utils.recipes mlp --data real"):
        recipes.load_shipped("mlp", "real")


def test_unknown_names_profiles_and_data_are_refused(capsys):
    for wrong in (["vae"], ["mlp", "--profile", "slow"], ["mlp", "--data", "imagined"]):
        with pytest.raises(SystemExit):
            recipes.main(wrong)
        assert "invalid choice" in capsys.readouterr().err


def test_the_same_seed_gives_the_same_weights():
    train = data.digits(2_000, 100, 100).train
    (a, _), (b, _), (c, _) = (recipes.mlp(train, "smoke", seed) for seed in (0, 0, 1))
    same = [torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True)]
    other = [torch.equal(x, y) for x, y in zip(a.parameters(), c.parameters(), strict=True)]
    assert all(same) and not any(other)


def test_the_reader_s_own_likelihood_is_trained():
    from course_utils.distributions import GaussianShared

    train = data.digits(2_000, 100, 100).train
    likelihood = GaussianShared()
    before = likelihood.log_var.item()
    model, _ = recipes.mlp_grey(train, "smoke", likelihood=likelihood)
    assert model.likelihood is likelihood and likelihood.log_var.item() != before


def test_of_the_networks_of_2015_batches_are_measured_and_no_nats():
    some = data.digits(100, 2_000, 100).valid
    model = recipes.build_vae_2015()
    measured, unit = recipes.measure(model, some)
    assert measured.n == 2_000 and unit == "squared error + KL per image"
    first, second = -evaluate.bound(model, some, chunk=1_000).value().double().view(2, 1_000).mean(dim=1)
    assert measured.value == pytest.approx((first + second).item() / 2)
    assert measured.stderr == pytest.approx((first - second).abs().item() / 2, rel=1e-3)


def test_a_u_net_is_measured_on_its_device(monkeypatch):
    unet, seen = UNet().to("meta"), []
    unet.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].device.type))
    # A tensor of this device has a shape and no numbers: what comes back to the CPU is zeros here.
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: torch.zeros(tensor.shape))
    measured, unit = recipes.measure(unet, data.scenes(10, 70, 10).valid)
    assert seen == ["meta", "meta"]
    assert measured == (0.0, 0.0, 70) and unit == "D/2 log of the squared error of a hole"
