"""The same VAE in pythae, trained by its BaseTrainer from digits that are in memory as floats.

python -m peers.pythae FOLDER
"""

import sys
import tempfile

import torch
from peers.turns import BATCH_SIZE, read_digits, set_threads, take_turns
from pythae.data.datasets import BaseDataset
from pythae.models import VAE, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from torch import Tensor, nn


class Encoder(BaseEncoder):
    def __init__(self):
        super().__init__()
        self.hidden = nn.Sequential(nn.Flatten(), nn.Linear(784, 400), nn.ReLU())
        self.mu, self.log_var = nn.Linear(400, 20), nn.Linear(400, 20)

    def forward(self, x: Tensor) -> ModelOutput:
        h = self.hidden(x)
        return ModelOutput(embedding=self.mu(h), log_covariance=self.log_var(h))


class Decoder(BaseDecoder):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(20, 400), nn.ReLU(), nn.Linear(400, 784), nn.Sigmoid())

    def forward(self, z: Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=self.layers(z).view(-1, 1, 28, 28))


def main(folder: str, runs: str) -> None:
    set_threads()
    x = read_digits(folder).float() / 255
    model = VAE(
        VAEConfig(input_dim=(1, 28, 28), latent_dim=20, reconstruction_loss="bce"), Encoder(), Decoder()
    )
    settings = BaseTrainerConfig(
        output_dir=runs,
        num_epochs=1,
        learning_rate=1e-3,
        per_device_train_batch_size=BATCH_SIZE,
        optimizer_cls="Adam",
        no_cuda=True,
    )
    trainer = BaseTrainer(model, BaseDataset(x, torch.zeros(len(x))), training_config=settings)
    take_turns(trainer.train)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as runs:  # it saves what it has trained
        main(sys.argv[1], runs)
