"""Shocked systems against an exact filter of their own, and source text against its files."""

from __future__ import annotations

import hashlib
import re

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

from bmojo.tasks import LinearShocks, SourceText, recalled_names, standard_library
from bmojo.tasks.corpus import SHORTEST_LINE, SourceFile, parted, without_copies
from tests.bmojo_tasks import LEVEL, sample
from tests.tolerances import assert_close


def draw(task, batch=4, seed=0):
    return task.signals(batch, torch.Generator().manual_seed(seed))


class TestLinearShocks:
    @pytest.mark.parametrize("states", [1, 2, 3, 6])
    @pytest.mark.parametrize("system", [0, 1])
    def test_the_signal_is_the_recurrence(self, states, system):
        task = LinearShocks(length=60, states=states, system=system)
        drawn, model = draw(task), task.model
        x = np.zeros((4, states))
        for t in range(61):
            assert_close(x @ model.C[0] + drawn.e[:, t].numpy(), drawn.y[:, t], "recurrence")
            x = x @ model.A.T + drawn.e[:, t].numpy()[:, None] * model.K[:, 0]
        assert np.abs(np.linalg.eigvals(model.A)).max() < 1
        assert np.abs(np.linalg.eigvals(model.A - model.K @ model.C)).max() < 1

    def test_the_exact_filter_gives_the_innovations_back(self):
        task = LinearShocks(length=300, states=5)
        drawn = draw(task)
        assert_close(task.innovations(drawn.y), drawn.e, "recurrence")

    def test_what_is_kept_is_the_largest_innovations(self):
        task = LinearShocks(length=200)
        drawn = draw(task)
        kept = task.kept(drawn.y, 7)
        for e, of in zip(drawn.e, kept, strict=True):
            assert set(e.square().topk(7).indices.tolist()) == set(of.nonzero()[:, 0].tolist())

    def test_sets_along_the_sequence_are_the_largest_that_have_left_the_window(self):
        task = LinearShocks(length=59)
        drawn = draw(task)
        found = task.sets(drawn.y, 5, window=8, chunk=4)
        assert found.shape == (4, 15, 5)
        for c in range(15):
            eligible = max(0, 4 * c - (8 - 4 + 1) + 1)
            for e, of in zip(drawn.e, found[:, c], strict=True):
                largest = e[:eligible].square().topk(min(5, eligible)).indices
                assert set(of[of >= 0].tolist()) == set(largest.tolist())

    def test_shocks_and_innovations_have_their_laws(self):
        task = LinearShocks(length=2000, rate=0.05, shock=6.0)
        drawn = draw(task, 20)
        count = drawn.shocks.numel()
        assert scipy.stats.binomtest(int(drawn.shocks.sum()), count, 0.05).pvalue > LEVEL
        struck = drawn.e[drawn.shocks]
        assert_close(struck.abs(), torch.full_like(struck, 6.0))
        assert scipy.stats.binomtest(int((struck > 0).sum()), len(struck), 0.5).pvalue > LEVEL
        assert scipy.stats.kstest(drawn.e[~drawn.shocks].numpy(), "norm").pvalue > LEVEL

    def test_the_deviation_is_the_stationary_one(self):
        """Against the Lyapunov equation of the system."""
        import scipy.linalg

        task = LinearShocks(rate=0.1, shock=5.0)
        model, variance = task.model, 1 + 0.1 * 24
        P = scipy.linalg.solve_discrete_lyapunov(model.A, variance * model.K @ model.K.T)
        assert task.deviation**2 == pytest.approx(float((model.C @ P @ model.C.T)[0, 0] + variance), rel=1e-9)

    def test_tokens_are_the_steps_of_the_output(self):
        task = LinearShocks(length=100, vocabulary=16)
        drawn, batch = draw(task), sample(task, 4)
        edges = task.deviation * np.linspace(-4, 4, 17)
        steps = np.digitize(drawn.y.numpy(), edges[1:-1])
        assert batch.tokens.tolist() == steps[:, :-1].tolist()
        assert batch.targets.tolist() == steps[:, 1:].tolist()
        assert torch.equal(batch.parts["shock"], drawn.shocks[:, 1:])
        assert torch.equal(batch.parts["after a shock"], drawn.shocks[:, :-1])

    def test_the_system_is_of_its_seed(self):
        assert_close(LinearShocks(system=3).model.A, LinearShocks(system=3, length=9).model.A, "bitwise")
        assert not np.array_equal(LinearShocks(system=3).model.A, LinearShocks(system=4).model.A)


class TestCorpus:
    def test_it_names_its_version_and_is_always_the_same(self):
        import platform

        corpus = standard_library()
        assert platform.python_version() in corpus.title
        assert corpus.title in SourceText().description
        assert corpus.digest in SourceText().description
        standard_library.cache_clear()
        assert standard_library().digest == corpus.digest

    def test_no_file_is_in_both_parts_or_twice(self):
        corpus = standard_library()
        files = [*corpus.train, *corpus.held]
        assert len({file.name for file in files}) == len(files)
        assert len({hashlib.sha256(file.content.strip()).digest() for file in files}) == len(files)
        assert not {file.name for file in files} & set(corpus.dropped)
        assert not any("test" in file.name.split("/") for file in files)

    def test_no_held_file_is_for_the_most_part_lines_of_one_that_was_seen(self):
        corpus = standard_library()

        def lines(file):
            return {s for line in file.content.splitlines() if len(s := line.strip()) >= SHORTEST_LINE}

        train = [lines(file) for file in corpus.train]
        for file in corpus.held:
            own = lines(file)
            assert all(2 * len(own & other) < max(1, len(own)) for other in train), file.name

    def test_the_parts_are_of_a_size(self):
        corpus = standard_library()
        held, train = len(corpus.text("held")), len(corpus.text("train"))
        assert train > 3_000_000
        assert 0.03 < held / (held + train) < 0.2

    def test_a_file_stays_in_its_part_whatever_else_there_is(self):
        files = [SourceFile(f"{i}.py", b"x") for i in range(200)]
        held = parted(files)[1]
        assert 8 <= len(held) <= 35
        assert {f.name for f in parted(files[::3])[1]} == {f.name for f in held} & {
            f.name for f in files[::3]
        }

    def test_copies_and_what_is_no_text_are_left_out(self):
        long = [f"this is line number {i} of a file".encode() for i in range(10)]
        files = {
            "a.py": b"\n".join(long),
            "b.py": b"\n".join([*long[:5], *(line + b" changed" for line in long[5:])]),
            "c.py": b"\n".join([*long[:4], *(line + b" other" for line in long[4:])]),
            "d.py": b"  \n",
            "e.py": b"short",
            "f.py": b"short\n",
            "g.py": b"\xff\xfe",
            "h.py": b"zero \x00 byte",
        }
        kept, dropped = without_copies([SourceFile(*item) for item in reversed(files.items())])
        assert [file.name for file in kept] == ["a.py", "c.py", "e.py"]
        assert dropped == ("b.py", "d.py", "f.py", "g.py", "h.py")


def test_a_python_without_its_sources_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"stdlib": str(tmp_path)})
    standard_library.cache_clear()
    try:
        with pytest.raises(FileNotFoundError, match=r"holds no source of the standard library; install"):
            standard_library()
    finally:
        standard_library.cache_clear()


class TestSourceText:
    @pytest.mark.parametrize("part", ["train", "held"])
    def test_sequences_are_pieces_of_the_files_of_their_part(self, part):
        task = SourceText(length=200, part=part)
        text = standard_library().text(part)
        batch = sample(task, 20)
        for row, targets in zip(batch.tokens.tolist(), batch.targets.tolist(), strict=True):
            assert bytes([*row, targets[-1]]) in text
            assert row[1:] == targets[:-1]

    def test_every_place_is_as_likely_to_begin(self):
        text = standard_library().text("held")
        rows = sample(SourceText(length=100, part="held"), 3000).tokens.tolist()
        places = [text.find(bytes(row)) for row in rows]
        counts = np.bincount(np.array(places) * 20 // len(text), minlength=20)
        assert scipy.stats.chisquare(counts).pvalue > LEVEL

    def test_parts_share_the_held_text_between_them(self):
        batch = sample(SourceText(length=500, window=64).held_out, 8)
        assert bool((batch.parts["recalled"] ^ batch.parts["the rest"]).all())
        assert 0.02 < float(batch.parts["recalled"].double().mean()) < 0.3
        assert not sample(SourceText(length=500)).parts

    @given(
        words=st.lists(
            st.sampled_from(["alpha", "beta", "gamma2", "_x_y", "if", "self", "abc", "print", "12"])
        ),
        window=st.integers(1, 30),
        gaps=st.lists(st.integers(1, 9), min_size=1),
    )
    def test_recalled_names_by_definition(self, words, window, gaps):
        text = b""
        for i, word in enumerate(words):
            text += b" " * gaps[i % len(gaps)] + word.encode()
        found = recalled_names(text, window).tolist()
        expected = [False] * len(text)
        tokens = [(m.group(), m.start(), m.end()) for m in re.finditer(rb"[^ ]+", text)]
        for i, (name, start, end) in enumerate(tokens):
            before = [e for n, _, e in tokens[:i] if n == name]
            whole = end < len(text)
            named = name in (b"alpha", b"beta", b"gamma2", b"_x_y")
            if before and whole and named and start - (before[-1] - 1) > window:
                expected[start:end] = [True] * (end - start)
        assert found == expected

    def test_what_a_window_still_sees_is_not_recalled(self):
        text = b" name = 1; name "
        assert not recalled_names(text, 10).any()
        assert recalled_names(text, 6).sum() == 4
