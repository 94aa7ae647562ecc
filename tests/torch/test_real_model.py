"""A real model, silero-vad, which finds speech in audio: its weights lie in a region, and its results are the same."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors import torch as oracle
from torch.nn import functional

from mshare.torch import WriteGuard, load_file, save

CHUNKS, CHUNK, CONTEXT = 40, 512, 64
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(scope="module")
def files() -> Path:
    """The package's files. The package itself is not imported, which would need more packages."""
    found = find_spec("silero_vad")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "data"


class Detector(torch.nn.Module):
    """The model for 16 kHz, as the package's `tinygrad_model.py` describes it."""

    def __init__(self) -> None:
        super().__init__()
        self.stft_conv = torch.nn.Conv1d(1, 258, 256, stride=128, bias=False)
        self.conv1 = torch.nn.Conv1d(129, 128, 3, padding=1)
        self.conv2 = torch.nn.Conv1d(128, 64, 3, stride=2, padding=1)
        self.conv3 = torch.nn.Conv1d(64, 64, 3, stride=2, padding=1)
        self.conv4 = torch.nn.Conv1d(64, 128, 3, padding=1)
        self.lstm_cell = torch.nn.LSTMCell(128, 128)
        self.final_conv = torch.nn.Conv1d(128, 1, 1)

    def forward(self, audio: torch.Tensor) -> torch.Tensor:
        """Return the probability of speech in each chunk of 512 samples."""
        state, found = None, []
        padded = functional.pad(audio, (CONTEXT, 0))
        for start in range(0, audio.shape[1], CHUNK):
            x = functional.pad(padded[:, start : start + CONTEXT + CHUNK], (0, CONTEXT), "reflect")
            x = self.stft_conv(x.unsqueeze(1))
            x = (x[:, :129] ** 2 + x[:, 129:] ** 2).sqrt()
            for layer in (self.conv1, self.conv2, self.conv3, self.conv4):
                x = layer(x).relu()
            state = self.lstm_cell(x.squeeze(-1), state)
            found.append(self.final_conv(state[0].unsqueeze(-1).relu()).sigmoid().reshape(-1))
        return torch.stack(found, 1)


def audio() -> torch.Tensor:
    """Some seconds of tones, clicks and noise, which the model finds more and less like speech."""
    time = torch.arange(CHUNKS * CHUNK) / 16_000
    pitch = 120 + 30 * torch.sin(6 * time)
    voiced = sum(torch.sin(2 * torch.pi * torch.cumsum(pitch * k / 16_000, 0)) / k for k in range(1, 30))
    noise = torch.randn(len(time), generator=torch.Generator().manual_seed(7))
    return ((0.3 * voiced * (torch.sin(5 * time) > 0) + 0.01 * noise) * 0.3).unsqueeze(0)


def detect(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    """Compute with the tensors themselves as the parameters of the model."""
    with torch.device("meta"):
        model = Detector()
    model.load_state_dict(tensors, assign=True)
    places = {each.data_ptr() for each in tensors.values()}
    assert {each.data_ptr() for each in model.parameters()} == places
    with torch.inference_mode(), WriteGuard(tensors):
        found: torch.Tensor = model(audio())
    return found


def test_a_model_computes_on_the_memory_of_a_file_s_region(world: Path, files: Path) -> None:
    path = files / "silero_vad_16k.safetensors"
    with save("vad", path, mode=0o444) as region:
        tensors, expected = load_file("vad"), oracle.load_file(path)
        assert tensors.keys() == expected.keys()
        assert all(torch.equal(tensors[name], expected[name]) for name in expected)
        assert all(region.addr < each.data_ptr() < region.addr + region.size for each in tensors.values())
        torch.testing.assert_close(detect(tensors), detect(expected), **CLOSE)  # alignment of memory changes last bits
        del tensors


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.jit
def test_a_state_dict_in_a_region_computes_what_the_original_does(world: Path, files: Path) -> None:
    original, copied = (torch.jit.load(files / "silero_vad.jit") for _ in range(2))
    with torch.inference_mode():
        expected = original.audio_forward(audio(), 16_000)
    assert expected.shape == (1, CHUNKS)
    assert expected.max() - expected.min() > 0.1
    save("vad", original.state_dict()).close()
    tensors = load_file("vad")
    own = [tensors[name] for name in original.state_dict() if name.startswith("_model.")]
    found = detect(dict(zip(Detector().state_dict(), own, strict=True)))
    torch.testing.assert_close(found, expected, **CLOSE)
    for parameter in copied.state_dict().values():
        parameter.zero_()
    copied.load_state_dict(tensors)
    with torch.inference_mode():
        torch.testing.assert_close(copied.audio_forward(audio(), 16_000), expected, **CLOSE)
