"""Evidence on length, MAD, language and storage: every job can be done, what is measured is what it says."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from bmojo import BMojoConfig, BMojoLM
from bmojo.tasks import GapRecall, SourceText
from bmojo.tasks.text import BY_HEART
from bmojo.training import evaluate, read_configuration
from bmojo.training.models import layer_configs
from tests.source import ROOT
from tests.tolerances import assert_close


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    """The modules import each other by their names."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def jobs_of(name, size):
    import evidence_language
    import evidence_length
    import evidence_mad
    import evidence_storage

    made = {
        "recall": (evidence_length.recall_jobs, evidence_length),
        "text": (evidence_length.text_jobs, evidence_length),
        "mad": (evidence_mad.jobs_of, evidence_mad),
        "language": (evidence_language.jobs_of, evidence_language),
        "storage": (evidence_storage.jobs_of, evidence_storage),
    }
    make, module = made[name]
    return make(module.SIZES[size])


@pytest.mark.parametrize("size", ["quick", "full"])
@pytest.mark.parametrize("name", ["recall", "text", "mad", "language", "storage"])
def test_every_job_can_be_done_and_models_are_tried_alike(name, size):
    jobs = jobs_of(name, size)
    tried = {}
    for job in jobs:
        config = read_configuration(job.config)
        assert layer_configs(config.made_task(), config.model)
        assert sum(stage.steps for stage in config.stages()) == config.train.steps
        tried.setdefault(job.model, set()).add((job.rate, job.seed))
    assert len(set(map(frozenset, tried.values()))) == 1
    assert len(jobs) == sum(map(len, tried.values())), "no job twice: each has a folder of its own"


@pytest.mark.parametrize("size", ["quick", "full"])
def test_languages_models_have_equal_parameters(size):
    import evidence_language as language

    chosen = language.SIZES[size]
    task = SourceText(length=chosen.length, window=chosen.window)
    counts = [language.parameters(task, options) for options in language.models(chosen).values()]
    assert max(counts) < 1.005 * min(counts)


def test_equal_time_gives_the_faster_more_steps():
    import evidence_language as language

    size = language.SIZES["quick"]
    assert language.steps_in(size, {"Transformer": 0.5, "B'MOJO": 1.0}) == {"Transformer": 2 * size.steps}
    jobs = language.jobs_of(size, {"Transformer": 7})
    assert [job.config["train"]["steps"] for job in jobs] == [7] * len(size.seeds)


@pytest.mark.parametrize("layer", [
    {"window": 4, "eidetic": 3, "eidetic_position": "edge", "state_size": 4},
    {"window": 64, "mixer": "none", "eidetic": 0},
])  # fmt: skip
def test_losses_in_pieces_are_those_of_one_pass(layer):
    from _streamed import losses_of

    torch.manual_seed(0)
    task = GapRecall(pairs=3, gap=30, queries=5, vocabulary=16)
    model = BMojoLM(16, [BMojoConfig(d_model=16, heads=2, **layer)] * 2).eval()
    with (
        torch.no_grad()
    ):  # a predictor of zeros finds all normed tokens alike, to rounding: sets would differ
        for name, weight in model.named_parameters():
            if name.endswith("predictor.weight"):
                weight.normal_(std=0.3)
    drawn = task.sample(4, torch.Generator().manual_seed(3))
    losses, right = losses_of(model, drawn, 7)
    found = evaluate(model, task, sequences=4, seed=3)
    assert_close(losses[drawn.mask].mean(), found.loss, "recurrence", dtype="float32")
    assert float(right[drawn.mask].double().mean()) == found.accuracy
    assert bool((losses.isnan() != drawn.mask).all())


def test_full_attention_reaches_over_the_longer_sequence():
    import evidence_length as length

    torch.manual_seed(0)
    wide = [{"d_model": 16, "heads": 2, "window": 8, "mixer": "none", "eidetic": 0}]
    model = BMojoLM(16, wide).eval()
    tokens = torch.randint(16, (1, 20))
    found = length.reaching(model, 20, 8)
    assert_close(found(tokens)[:, :8], model(tokens)[:, :8], "recurrence", dtype="float32")
    other = tokens.clone()
    other[0, 0] = (other[0, 0] + 1) % 16
    assert not torch.equal(found(tokens)[:, -1], found(other)[:, -1])
    assert torch.equal(model(tokens)[:, -1], model(other)[:, -1])
    assert length.reaching(model, 20, 9) is model, "a window shorter than training's sequences stays one"


def test_bits_by_octave_are_those_of_the_positions():
    import evidence_length as length

    size = replace(length.SIZES["quick"], length=32, factors=(1, 4), texts=3, piece=16, text_window=8)
    torch.manual_seed(0)
    model = BMojoLM(256, [BMojoConfig(d_model=16, heads=2, window=8, eidetic=4, state_size=4)]).eval()
    table = length.measure_text(model, size)["octaves"]
    assert [(row["from"], row["to"]) for row in table] == [(0, 16), (16, 32), (32, 64), (64, 128)]
    drawn = SourceText(length=128, window=8, part="held").sample(3, torch.Generator().manual_seed(0))
    logits = model(drawn.tokens).detach()
    bits = torch.nn.functional.cross_entropy(logits.mT, drawn.targets, reduction="none") / math.log(2)
    for row in table:
        assert_close(bits[:, row["from"] : row["to"]].mean(), row["bits"], "recurrence", dtype="float32")
    assert_close(table[1]["difference"] + 1, 1.0, "recurrence", dtype="float32")
    short = model(drawn.tokens[:, 80:112]).detach()[:, 16:]  # positions 96 to 112 after 16 to 32 bytes
    due = drawn.targets[:, 96:112]
    near = torch.nn.functional.cross_entropy(short.mT, due, reduction="none") / math.log(2)
    every = [near]
    for start in (48, 64, 96):
        piece = model(drawn.tokens[:, start : start + 32]).detach()[:, 16:]
        target = drawn.targets[:, start + 16 : start + 32]
        every.append(torch.nn.functional.cross_entropy(piece.mT, target, reduction="none") / math.log(2))
    assert_close(torch.cat(every).mean(), table[-1]["short"], "recurrence", dtype="float32")


def naive(text, reach):
    """Bytes of names that stood before and do not stand within `reach` bytes, one by one."""
    name = re.compile(rb"[A-Za-z_][A-Za-z0-9_]*")
    places = [(m.start(), m.end(), m.group()) for m in name.finditer(text)]
    found = np.zeros(len(text), dtype=bool)
    for start, end, word in places:
        whole = start > 0 and end < len(text)
        if not whole or len(word) < 4 or word in BY_HEART:
            continue
        before = [b for a, b, other in places if a > 0 and b <= start and other == word]
        within = [b for b in before if b - 1 >= start - reach]
        found[start:end] = bool(before) and not within
    return found


def test_recalled_names_beyond_a_reach_against_one_by_one():
    import evidence_language as language

    drawn = SourceText(length=512, window=32, part="held").sample(6, torch.Generator().manual_seed(1))
    for reach in (16, 64, 200):
        found = language.recalled_beyond(drawn, reach)
        whole = torch.cat([drawn.tokens, drawn.targets[:, -1:]], dim=1)
        expected = np.stack([naive(bytes(text.tolist()), reach)[1:] for text in whole])
        assert found.any()
        assert np.array_equal(found.numpy(), expected)


def test_what_language_measures_adds_up():
    import evidence_language as language

    size = replace(language.SIZES["quick"], length=128, window=16, sequences=20)
    torch.manual_seed(0)
    model = BMojoLM(256, [BMojoConfig(d_model=16, heads=2, window=16, eidetic=4, state_size=4)]).eval()
    found = language.measure(model, size)
    parts = found["parts"]
    both = [parts["recalled"], parts["the rest"]]
    assert sum(part["count"] for part in both) == 20 * 128
    assert_close(
        sum(p["bits"] * p["count"] for p in both) / (20 * 128), found["bits"], "recurrence", dtype="float32"
    )
    assert_close(np.mean(found["by_position"]), found["bits"], "recurrence", dtype="float16")
    bands = [part for name, part in parts.items() if name.startswith("from ")]
    assert sum(part["count"] for part in bands) == parts["recalled"]["count"]


def test_pairs_are_stored_and_the_store_is_taken_away_again():
    import evidence_storage as storage

    size = replace(storage.SIZES["quick"], vocabulary=64, pairs=2, stored=(3, 20), gap=8, blocks=2, timed=2)
    size = replace(size, piece=16)
    torch.manual_seed(0)
    model = BMojoLM(64, [BMojoConfig(d_model=16, heads=2, window=8, eidetic=4, state_size=4)] * 2).eval()
    table = storage.measure(model, size)["stored"]
    assert [row["pairs"] for row in table] == [3, 20]
    for row in table:
        most = 2 * row["pairs"] + 8 + 2  # one row a token that has left the window and the set
        assert row["rows"] <= 2 * most
        assert min(row[which][what] for which in ("with", "without") for what in ("read_ms", "step_ms")) > 0
    assert table[1]["rows"] >= 2 * (2 * 20 + 8 + 2 - 2 * 8 - 4)
    assert all(block.layer.storage is None for block in model.blocks)


def test_new_names_are_like_the_keys_and_the_rest_stays():
    import evidence_storage as storage

    torch.manual_seed(0)
    model = BMojoLM(40, [BMojoConfig(d_model=8, heads=2, window=8, eidetic=4, state_size=4)]).eval()
    found = storage.with_names(model, 40_000, 0)
    assert torch.equal(found.embedding.weight[:40], model.embedding.weight)
    keys, new = model.embedding.weight[1:20].detach(), found.embedding.weight[40:].detach()
    error = 5 * keys.std(0).max() / math.sqrt(len(new))
    assert float((new.mean(0) - keys.mean(0)).abs().max()) < error
    spread = float(keys.T.cov().diagonal().max())
    assert float((new.T.cov() - keys.T.cov()).abs().max()) < 5 * spread * math.sqrt(2 / len(new))
    tokens = torch.randint(40, (2, 30))
    assert torch.equal(found.hidden(tokens), model.hidden(tokens))


def test_mads_row_names_the_best_of_the_others():
    import _evidence
    import evidence_mad as mad

    size = mad.SIZES["quick"]
    records = [
        _evidence.Record(
            job.model, job.rate, job.seed, 0.9 if "B'MOJO" in job.model else 0.5, 1.0, {}, 1, 1.0, []
        )
        for job in mad.jobs_of(size)
    ]
    rows = {row.case: row for row in mad.rows(size, records)}
    own = rows["B'MOJO: mean of the recall tasks"]
    assert (own.value, own.peer) == (pytest.approx(90), "best of the others: B'MOJO-F")
    assert rows["Transformer: mean of all six"].value == pytest.approx(50)
