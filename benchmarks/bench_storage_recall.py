"""Recall beyond every other memory: trained on few pairs, asked for many, with and without a store.

Two layers of width 64: a window of 8, a state of 16, 16 places for 8 pairs in training (a pair takes two).
Then the weights stay as they are, and the pairs become more than window, state and places hold.
"""

from __future__ import annotations

import argparse
import tempfile

import torch
from _results import Row, write_results

from bmojo import BMojoConfig, BMojoLM
from bmojo.storage import FlatStore, attach, detach
from bmojo.tasks import GapRecall
from bmojo.training import Stage, recall_accuracy, train_recall

VOCABULARY, READ = 256, 4
SHORT = GapRecall(pairs=4, gap=12, queries=8, vocabulary=VOCABULARY)
TRAINED = GapRecall(pairs=8, gap=24, queries=16, vocabulary=VOCABULARY)


def trained(seed: int) -> BMojoLM:
    """A model that recalls 8 pairs over a gap of 24."""
    torch.manual_seed(seed)
    config = BMojoConfig(
        d_model=64,
        heads=2,
        window=8,
        mixer="mamba2",
        state_size=16,
        eidetic=16,
        eidetic_position="edge",
    )
    model = BMojoLM(VOCABULARY, [config] * 2)
    train_recall(model, [Stage(SHORT, 200), Stage(TRAINED, 400)], seed=seed)
    return model.eval()


def main() -> None:
    """Train, and ask."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    torch.set_num_threads(1)
    rows = []
    for seed in range(parser.parse_args().seeds):
        model = trained(seed)
        for pairs, gap in ((8, 24), (32, 24), (120, 24), (120, 2000)):
            task = GapRecall(pairs=pairs, gap=gap, queries=64, vocabulary=VOCABULARY)
            without = recall_accuracy(model, task, seed=1, sequences=16)
            with tempfile.TemporaryDirectory() as folder, FlatStore(f"{folder}/memory") as store:
                attach(model, store, read=READ)
                found = recall_accuracy(model, task, seed=1, sequences=16)
                detach(model)
            case = f"recall of {pairs} pairs, gap {gap}, {READ} rows read, seed {seed}"
            rows.append(Row(case, found, "accuracy", "the same model without storage", without))
    write_results("storage_recall", rows)


if __name__ == "__main__":
    main()
