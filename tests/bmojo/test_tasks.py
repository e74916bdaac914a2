"""What every task promises: shapes, targets, the seed, chance, refusals."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from bmojo.tasks import TASKS, Drawn, MadTask, Task, mad_sweep, make_task
from bmojo.tasks.protocol import without_replacement

# Options at which a task is small.
SMALL = {
    "gap_recall": {"pairs": 3, "gap": 5, "vocabulary": 16},
    "mqar": {"pairs": 2, "length": 16, "vocabulary": 32},
    "in_context_recall": {"length": 20, "examples": 30},
    "fuzzy_recall": {"length": 40, "examples": 30},
    "noisy_recall": {"length": 20, "examples": 30},
    "selective_copying": {"length": 20, "tokens": 4, "examples": 30},
    "compression": {"length": 12, "examples": 30},
    "memorization": {"vocabulary": 32, "length": 8, "examples": 30},
    "needle": {"length": 40, "digits": 2},
    "linear_shocks": {"length": 30, "vocabulary": 32},
    "source_text": {"length": 64, "window": 16},
}
KINDS = list(TASKS)


def small(kind):
    return make_task(kind, **SMALL[kind])


def sample(task, batch=4, seed=0):
    return task.sample(batch, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("kind", KINDS)
class TestEveryTask:
    def task(self, kind, held):
        return small(kind).held_out if held else small(kind)

    def test_shapes_and_kinds(self, kind, held):
        task = self.task(kind, held)
        assert isinstance(task, Task)
        batch = sample(task, 5)
        assert isinstance(batch, Drawn)
        assert batch.tokens.shape == batch.targets.shape == batch.mask.shape
        assert batch.tokens.shape[0] == 5
        assert batch.tokens.dtype == batch.targets.dtype == torch.int64
        assert batch.mask.dtype == torch.bool
        assert batch.tokens.shape[1] == task.length - (kind in ("in_context_recall", "noisy_recall"))
        for part in batch.parts.values():
            assert part.shape == batch.mask.shape
            assert not bool((part & ~batch.mask).any())

    def test_tokens_and_what_counts_are_in_the_vocabulary(self, kind, held):
        task = self.task(kind, held)
        batch = sample(task, 20)
        assert int(batch.tokens.min()) >= 0
        assert int(batch.tokens.max()) < task.vocabulary
        assert int(batch.targets[batch.mask].min()) >= 0
        assert int(batch.targets[batch.mask].max()) < task.vocabulary
        assert bool(batch.mask.any(dim=1).all()), "something counts in every sequence"

    def test_the_generator_decides(self, kind, held):
        task = self.task(kind, held)
        one, again, other = sample(task, seed=3), sample(task, seed=3), sample(task, seed=4)
        assert all(torch.equal(a, b) for a, b in zip(one[:3], again[:3], strict=True))
        assert not torch.equal(one.tokens, other.tokens)

    def test_a_stored_state_goes_on_with_the_same(self, kind, held):
        """The generator's state is all that there is: a checkpoint needs no more."""
        task, generator = self.task(kind, held), torch.Generator().manual_seed(5)
        task.sample(3, generator)
        state = generator.get_state()
        expected = [task.sample(3, generator).tokens for _ in range(3)]
        fresh = torch.Generator()
        fresh.set_state(state)
        found = [self.task(kind, held).sample(3, fresh).tokens for _ in range(3)]
        assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))

    def test_nothing_global_is_drawn(self, kind, held):
        task = self.task(kind, held)
        before = torch.get_rng_state()
        sample(task)
        assert torch.equal(torch.get_rng_state(), before)

    def test_one_line_says_what_it_is(self, kind, held):
        text = self.task(kind, held).description
        assert text.count("\n") == 0
        assert "length" in text or "gap" in text
        assert 10 < len(text) < 200


@pytest.mark.parametrize("kind", KINDS)
def test_chance_is_what_a_blind_answer_gets(kind):
    """The commonest answer, of those drawn: no more than a little above the chance that the task tells."""
    task = small(kind).held_out
    batch = sample(task, 3000, seed=1)
    answers = batch.targets[batch.mask]
    found = float(torch.bincount(answers).max()) / len(answers)
    assert found == pytest.approx(task.chance, rel=0.15)


@pytest.mark.parametrize("kind", ["gap_recall", "needle", "memorization", "selective_copying"])
def test_answers_are_not_told_by_their_place(kind):
    """At each place where an answer is due, every answer is as likely."""
    import scipy.stats

    task = small(kind).held_out
    batch = sample(task, 4000, seed=2)
    places = batch.mask.all(dim=0).nonzero()[:, 0]
    assert len(places)
    for place in places[:4]:
        counts = torch.bincount(batch.targets[:, place])
        counts = counts[counts > 0].numpy()
        assert len(counts) == round(1 / task.chance)
        assert scipy.stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("mqar", {"pairs": 0}, "at least 1"),
        ("mqar", {"length": 30}, "length=30 came; it must be even and hold pairs and queries, at least 32"),
        ("mqar", {"length": 63}, "length=63"),
        ("mqar", {"vocabulary": 64}, "vocabulary=64 came with length=64"),
        ("mqar", {"power": 0.0}, "power"),
        ("mqar", {"filler": "noise"}, "'random' or 'zero'"),
        ("in_context_recall", {"length": 21}, "even"),
        ("in_context_recall", {"examples": -1}, "examples=-1"),
        ("noisy_recall", {"vocabulary": 17}, "vocabulary=17"),
        ("noisy_recall", {"noise": 1.0}, "noise=1.0"),
        ("fuzzy_recall", {"length": 18}, "length=18"),
        ("fuzzy_recall", {"vocabulary": 6}, "halves"),
        ("selective_copying", {"length": 33}, "length=33 came with tokens=16"),
        ("memorization", {"length": 31}, "even"),
        ("needle", {"length": 10}, "length=10"),
        ("needle", {"depth": 2.0}, "depth=2.0"),
        ("needle", {"depth": 0.5, "needles": 2}, "for one needle"),
        ("needle", {"keys": 60}, "tokens of filler"),
        ("linear_shocks", {"rate": 1.0}, "rate=1.0"),
        ("source_text", {"part": "test"}, "'train' or 'held'"),
        ("gap_recall", {"fillers": 30}, "fillers=30"),
        ("recall", {}, "task 'recall' came; the tasks are gap_recall, mqar"),
    ],
)
def test_what_cannot_be_drawn(kind, options, message):
    with pytest.raises(ValueError, match=message):
        make_task(kind, **options)


def test_draws_without_replacement_are_permutations():
    drawn = without_replacement(50, 7, 7, torch.Generator().manual_seed(0))
    assert torch.equal(drawn.sort(dim=1).values, torch.arange(7).expand(50, 7))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if isinstance(TASKS[kind](), MadTask)])
def test_a_sweep_changes_one_option_at_a_time(kind):
    base, *harder = mad_sweep(TASKS[kind]())
    assert base == TASKS[kind]()
    assert len(harder) == sum(len(values) for values in base.changes.values())
    for task in harder:
        old, new = dataclasses.asdict(base), dataclasses.asdict(task)
        assert sum(old[name] != new[name] for name in old) == 1
        assert task.chance <= base.chance or task.vocabulary == base.vocabulary
        drawn = sample(dataclasses.replace(task, examples=4), 2)
        assert drawn.tokens.shape[1] in (task.length, task.length - 1)
        assert int(drawn.tokens.max()) < task.vocabulary
