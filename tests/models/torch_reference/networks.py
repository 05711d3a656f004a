"""The 21 networks in torch.nn, in evaluation, from patterns [batch, 3501] to logits.

Names of parameters are those `parity.parameter` draws by. Each network computes all of what was published: the Transformer
runs over all points although the last alone is read, the bidirectional networks over all points both ways.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def resized(x: Tensor, length: int) -> Tensor:
    """[batch, 3501] -> [batch, 1, length]"""
    return F.interpolate(x[:, None], size=length, mode="linear", align_corners=False)


class CNN1(nn.Module):
    def __init__(self, classes: int):
        super().__init__()
        a, b = (700, 70) if classes <= 7 else (2300, 1150)
        self.conv1 = nn.Conv1d(1, 80, 100, 5, 48)
        self.conv2 = nn.Conv1d(80, 80, 50, 5, 24)
        self.conv3 = nn.Conv1d(80, 80, 25, 2, 11)
        self.fc1, self.fc2, self.fc = nn.Linear(7680, a), nn.Linear(a, b), nn.Linear(b, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.avg_pool1d(F.relu(self.conv1(resized(x, 10001))), 3, 2)
        x = F.avg_pool1d(F.relu(self.conv2(x)), 3, 1)
        x = F.avg_pool1d(F.relu(self.conv3(x)), 3, 1)
        return self.fc(F.relu(self.fc2(F.relu(self.fc1(x.flatten(1))))))


class CNN2(nn.Module):
    def __init__(self, classes: int):
        super().__init__()
        self.conv1 = nn.Conv1d(1, 64, 50, 2, 25)
        self.conv2 = nn.Conv1d(64, 64, 25, 3, 12)
        self.fc1, self.fc2, self.fc = nn.Linear(8064, 2000), nn.Linear(2000, 500), nn.Linear(500, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool1d(F.leaky_relu(self.conv1(resized(x, 4501))), 3, 2, 1)
        x = F.max_pool1d(F.leaky_relu(self.conv2(x)), 2, 3, 1).flatten(1)
        for layer in (self.fc1, self.fc2, self.fc):
            x = layer(F.leaky_relu(x))
        return x


class CNN3(nn.Module):
    def __init__(self, classes: int):
        super().__init__()
        self.conv1 = nn.Conv1d(1, 64, 20, 1, 9)
        self.conv2 = nn.Conv1d(64, 64, 15, 1, 7)
        self.conv3 = nn.Conv1d(64, 64, 10, 2, 5)
        self.fc1, self.fc2, self.fc = nn.Linear(8064, 2500), nn.Linear(2500, 1000), nn.Linear(1000, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool1d(F.leaky_relu(self.conv1(resized(x, 4501))), 3, 3, 1)
        x = F.max_pool1d(F.leaky_relu(self.conv2(x)), 2, 3, 1)
        x = F.max_pool1d(F.leaky_relu(self.conv3(x)), 2, 2, 1).flatten(1)
        for layer in (self.fc1, self.fc2, self.fc):
            x = layer(F.leaky_relu(x))
        return x


class CNN4(nn.Module):
    def __init__(self, classes: int):
        super().__init__()
        widths = (1, 6, 16, 16, 32, 32, 64, 64)
        for i in range(7):
            self.add_module(f"conv{i + 1}", nn.Conv1d(widths[i], widths[i + 1], 5))
        self.fc1, self.fc2, self.fc = nn.Linear(8512, 120), nn.Linear(120, 84), nn.Linear(84, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = resized(x, 2251)
        for block in ((1,), (2, 3), (4, 5), (6, 7)):
            for i in block:
                x = F.relu(self.get_submodule(f"conv{i}")(x))
            x = F.max_pool1d(x, 2, 2)
        return self.fc(F.relu(self.fc2(F.relu(self.fc1(x.flatten(1))))))


class CNN5(nn.Module):
    def __init__(self, classes: int):
        super().__init__()
        self.conv1, self.conv2, self.conv3 = nn.Conv1d(1, 8, 5, 2), nn.Conv1d(8, 8, 5, 2), nn.Conv1d(8, 4, 5, 2)
        self.fc = nn.Linear(1740, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, None]
        for layer in (self.conv1, self.conv2, self.conv3):
            x = F.avg_pool1d(F.leaky_relu(layer(x), 0.2), 1)
        return self.fc(x.flatten(1))


class CNN6(nn.Module):
    def __init__(self, classes: int):
        super().__init__()
        self.conv1 = nn.Conv1d(1, 128, 35, padding=17)
        self.conv2 = nn.Conv1d(128, 128, 35, padding=17)
        self.conv3 = nn.Conv1d(128, 128, 35, padding=17)
        self.conv4 = nn.Conv1d(128, 64, 30)
        self.conv5, self.conv6, self.conv7 = nn.Conv1d(64, 64, 25), nn.Conv1d(64, 64, 25), nn.Conv1d(64, 64, 25)
        self.fc1, self.fc2, self.fc = nn.Linear(5504, 500), nn.Linear(500, 250), nn.Linear(250, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.conv1(x[:, None]))
        x = F.leaky_relu(self.conv2(x))
        x = F.max_pool1d(F.leaky_relu(self.conv3(x)), 2)
        x = F.max_pool1d(F.leaky_relu(self.conv4(x)), 2)
        x = F.max_pool1d(F.leaky_relu(self.conv5(x)), 2)
        x = F.max_pool1d(F.leaky_relu(self.conv6(x)), 2)
        x = F.max_pool1d(F.leaky_relu(self.conv7(x)), 2).flatten(1)
        for layer in (self.fc1, self.fc2, self.fc):
            x = layer(F.leaky_relu(x))
        return x


class CNN7(nn.Module):
    def __init__(self, classes: int):
        super().__init__()
        self.conv1 = nn.Conv1d(1, 64, 35, padding=17)
        self.conv2 = nn.Conv1d(64, 64, 30, padding=15)
        self.conv3 = nn.Conv1d(64, 64, 25, padding=12)
        self.conv4 = nn.Conv1d(64, 64, 20, padding=10)
        self.conv5 = nn.Conv1d(64, 64, 15, padding=7)
        self.conv6 = nn.Conv1d(64, 64, 10, padding=5)
        self.fc1, self.norm, self.fc = nn.Linear(4544, 1200), nn.BatchNorm1d(1200), nn.Linear(1200, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = resized(x, 4501)
        pools = ((3, 2, 1), (3, 2, 1), (2, 2, 0), (1, 2, 0), (1, 2, 0), (1, 2, 0))
        for i, (width, stride, padding) in enumerate(pools):
            x = F.max_pool1d(F.relu(self.get_submodule(f"conv{i + 1}")(x)), width, stride, padding)
        return self.fc(self.norm(F.relu(self.fc1(x.flatten(1)))))


class CNN8(nn.Module):
    def __init__(self, classes: int):
        super().__init__()
        last = 64 if classes <= 7 else 256
        widths = (1, 16, 16, 32, 32, 64, 64, 128, 128, 256, 256, 512, 512, last)
        self.convs = nn.ModuleList(nn.Conv1d(widths[i], widths[i + 1], 3, padding=1) for i in range(13))
        self.fc = nn.Conv1d(last, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = resized(x, 8192)
        for layer in self.convs[:12]:
            x = F.max_pool1d(F.leaky_relu(layer(x)), 2)
        x = F.max_pool1d(self.convs[12](x), 2)
        return self.fc(x).squeeze(-1)


class PooledCNN(nn.Module):
    """CNN9 and CNN10."""

    def __init__(self, classes: int, *, count: int, channels: int, width: int, features: int):
        super().__init__()
        self.count = count
        for i in range(count):
            self.add_module(f"conv{i + 1}", nn.Conv1d(channels if i else 1, channels, width))
        self.fc1, self.fc = nn.Linear(features, 2000), nn.Linear(2000, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, None]
        for i in range(self.count):
            x = F.max_pool1d(F.relu(self.get_submodule(f"conv{i + 1}")(x)), 2, 2)
        return self.fc(F.relu(self.fc1(x.flatten(1))))


class CNN11(nn.Module):
    def __init__(self, classes: int):
        super().__init__()
        self.conv1, self.conv2, self.conv3 = nn.Conv1d(1, 80, 100, 5), nn.Conv1d(80, 80, 50, 5), nn.Conv1d(80, 80, 25, 2)
        self.fc1, self.fc2, self.fc = nn.Linear(12160, 2300), nn.Linear(2300, 1150), nn.Linear(1150, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv3(F.relu(self.conv2(F.relu(self.conv1(resized(x, 8500)))))))
        return self.fc(F.relu(self.fc2(F.relu(self.fc1(x.flatten(1))))))


class MLP(nn.Module):
    def __init__(self, classes: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(3501, 7000), nn.Linear(7000, 7000)
        self.fc3, self.fc = nn.Linear(7000, 3500), nn.Linear(3500, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))))


class Recurrent(nn.Module):
    def __init__(self, classes: int, *, cell: str, bidirectional: bool):
        super().__init__()
        kind = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}[cell]
        self.rnn = kind(1, 64, num_layers=4, batch_first=True, bidirectional=bidirectional)
        self.fc = nn.Linear(64 * (1 + bidirectional), classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.rnn(x[..., None])[0][:, -1])


class Transformer(nn.Module):
    def __init__(self, classes: int):
        super().__init__()
        self.embedding = nn.Linear(1, 32)
        # The encoder's first axis is the sequence, and what comes first in the data is the batch.
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 1, 2048, 0.1), 2, enable_nested_tensor=False)
        self.fc = nn.Linear(32, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.encoder(self.embedding(x[..., None]))[:, -1])


class EncoderLayer(nn.Module):
    """The layer of iTransformer and PatchTST: normalised after each half, the second half made of 1x1 convolutions."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(128, 2, 0.1, batch_first=True)
        self.norm1, self.norm2 = nn.LayerNorm(128), nn.LayerNorm(128)
        self.fc1, self.fc2 = nn.Conv1d(128, 64, 1), nn.Conv1d(64, 128, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x + self.attention(x, x, x, need_weights=False)[0])
        return self.norm2(x + self.fc2(F.gelu(self.fc1(x.transpose(1, 2)))).transpose(1, 2))


class ITransformer(nn.Module):
    def __init__(self, classes: int):
        super().__init__()
        self.embedding = nn.Linear(8192, 128)
        self.encoder = nn.Module()
        self.encoder.layers = nn.ModuleList([EncoderLayer(), EncoderLayer()])
        self.norm, self.fc = nn.LayerNorm(128), nn.Linear(128, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embedding(resized(x, 8192))
        for layer in self.encoder.layers:
            x = layer(x)
        return self.fc(F.gelu(self.norm(x)).flatten(1))


class PatchTST(nn.Module):
    def __init__(self, classes: int):
        super().__init__()
        self.embedding = nn.Linear(64, 128, bias=False)
        self.encoder = nn.Module()
        self.encoder.layers = nn.ModuleList([EncoderLayer(), EncoderLayer()])
        self.norm, self.fc = nn.LayerNorm(128), nn.Linear(128 * 129, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = resized(x, 8192)
        x = (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, correction=0, keepdim=True) + 1e-5)
        patches = F.pad(x, (0, 64), mode="replicate")[:, 0].unfold(-1, 64, 64)
        position = torch.arange(patches.shape[1], dtype=x.dtype)[:, None]
        angle = position / torch.pow(torch.tensor(10000.0, dtype=x.dtype), torch.arange(0, 128, 2) / 128)
        x = self.embedding(patches) + torch.stack([torch.sin(angle), torch.cos(angle)], dim=-1).flatten(1)
        for layer in self.encoder.layers:
            x = layer(x)
        return self.fc(self.norm(x).transpose(1, 2).flatten(1))


def network(name: str, classes: int) -> nn.Module:
    """A published network by our name of it."""
    plain = (CNN1, CNN2, CNN3, CNN4, CNN5, CNN6, CNN7, CNN8, CNN11, MLP, Transformer, ITransformer, PatchTST)
    found = {kind.__name__.lower(): kind for kind in plain}
    if name in found:
        return found[name](classes)
    if name == "cnn9":
        return PooledCNN(classes, count=3, channels=27, width=11, features=11556)
    if name == "cnn10":
        return PooledCNN(classes, count=4, channels=24, width=12, features=4992)
    return Recurrent(classes, cell=name.removeprefix("bi"), bidirectional=name.startswith("bi"))
