"""The usual tutorial loop, after the VAE of pytorch/examples: torchvision's MNIST, ToTensor, DataLoader.

python -m peers.tutorial FOLDER
"""

import sys

import torch
import torch.nn.functional as F
from peers.turns import BATCH_SIZE, set_threads, take_turns
from torch import Tensor, nn
from torchvision import datasets, transforms


class VAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(784, 400)
        self.fc21 = nn.Linear(400, 20)
        self.fc22 = nn.Linear(400, 20)
        self.fc3 = nn.Linear(20, 400)
        self.fc4 = nn.Linear(400, 784)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = F.relu(self.fc1(x.view(-1, 784)))
        mu, log_var = self.fc21(h), self.fc22(h)
        z = mu + torch.exp(0.5 * log_var) * torch.randn_like(mu)
        return torch.sigmoid(self.fc4(F.relu(self.fc3(z)))), mu, log_var


def main(folder: str) -> None:
    set_threads()
    digits = datasets.MNIST(folder, train=True, transform=transforms.ToTensor())
    loader = torch.utils.data.DataLoader(digits, batch_size=BATCH_SIZE, shuffle=True)
    model = VAE()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def epoch() -> None:
        train_loss = 0.0
        for x, _ in loader:
            optimizer.zero_grad()
            mean, mu, log_var = model(x)
            error = F.binary_cross_entropy(mean, x.view(-1, 784), reduction="sum")
            loss = error - 0.5 * torch.sum(1 + log_var - mu.pow(2) - log_var.exp())
            loss.backward()
            train_loss += loss.item()
            optimizer.step()

    take_turns(epoch)


if __name__ == "__main__":
    main(sys.argv[1])
