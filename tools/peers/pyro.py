"""The same VAE in Pyro, trained by SVI as in its own example, from digits that are in memory as floats.

python -m peers.pyro FOLDER
"""

import sys

import pyro
import pyro.distributions as dist
import torch
from peers.turns import BATCH_SIZE, read_digits, set_threads, take_turns
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam
from torch import Tensor, nn


class VAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(784, 400), nn.ReLU(), nn.Linear(400, 40))
        self.decoder = nn.Sequential(nn.Linear(20, 400), nn.ReLU(), nn.Linear(400, 784))

    def model(self, x: Tensor) -> None:
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample(
                "latent", dist.Normal(x.new_zeros(len(x), 20), x.new_ones(len(x), 20)).to_event(1)
            )
            likelihood = dist.Bernoulli(logits=self.decoder(z), validate_args=False)  # the digits are grey
            pyro.sample("obs", likelihood.to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", len(x)):
            mu, log_var = self.encoder(x).chunk(2, dim=1)
            pyro.sample("latent", dist.Normal(mu, torch.exp(0.5 * log_var)).to_event(1))


def main(folder: str) -> None:
    set_threads()
    x = read_digits(folder).flatten(start_dim=1).float() / 255
    vae = VAE()
    svi = SVI(vae.model, vae.guide, Adam({"lr": 1e-3}), loss=Trace_ELBO())

    def epoch() -> None:
        epoch_loss = 0.0
        for index in torch.randperm(len(x)).split(BATCH_SIZE):
            epoch_loss += svi.step(x[index])

    svi.step(x[:BATCH_SIZE])
    take_turns(epoch)


if __name__ == "__main__":
    main(sys.argv[1])
