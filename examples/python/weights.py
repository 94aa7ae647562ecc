"""One copy of the weights per host: four workers compute with the weights that lie in a region.

Run: python examples/python/weights.py. docs/weights.md explains the calls. Needs the extra `torch`.
"""

from __future__ import annotations

from multiprocessing import get_context

import torch
from torch.utils.data import DataLoader

import mshare
import mshare.torch

WORKERS = 4
WORDS, WIDTH = 2000, 256


def build() -> torch.nn.Module:
    """Return a small model, which scores the words that may follow a word."""
    return torch.nn.Sequential(
        torch.nn.Embedding(WORDS, WIDTH),
        torch.nn.Linear(WIDTH, 4 * WIDTH),
        torch.nn.GELU(),
        torch.nn.Linear(4 * WIDTH, WORDS),
    )


def attach(name: str) -> None:
    """Give this worker the model. Its parameters are the region's bytes."""
    global model  # noqa: PLW0603
    torch.set_num_threads(1)
    with torch.device("meta"):  # no memory for parameters, and no time to fill them
        model = build()
    model.load_state_dict(mshare.torch.load_file(name), assign=True)
    model.eval()


def answer(word: int) -> int:
    """Return the best word after a word."""
    with torch.inference_mode():
        return int(model(torch.tensor(word)).argmax())


def main() -> None:
    """Run the example, and remove what it made."""
    original = build()
    words = torch.arange(0, WORDS, 100)
    with torch.inference_mode():
        expected = original(words).argmax(1)
    mshare.torch.save("example-weights", original.state_dict(), mode=0o400).close()
    mshare.torch.save("example-words", {"word": words, "next": expected}, mode=0o400).close()
    try:
        with get_context("spawn").Pool(WORKERS, attach, ("example-weights",)) as pool:
            answers = pool.map(answer, words.tolist(), chunksize=1)
        assert answers == expected.tolist()
        print(f"{WORKERS} workers gave {len(answers)} right answers from one copy of the weights")

        dataset = mshare.torch.Dataset("example-words", "word", "next")
        loader = DataLoader(dataset, batch_size=8, num_workers=2, multiprocessing_context="spawn")
        batches = [torch.stack(batch, 1) for batch in loader]
        assert torch.equal(torch.cat(batches), torch.stack((words, expected), 1))
        print(f"a DataLoader with 2 workers gave {len(batches)} batches from one copy of the data")
    finally:
        mshare.unlink("example-weights")
        mshare.unlink("example-words")


if __name__ == "__main__":
    main()
