"""Packed and padded sequences over several processes are what they are on one."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bmojo import BMojoConfig, BMojoLM
from bmojo.storage import FlatStore, attach
from bmojo.training.parallel import ContextParallel, message_bytes
from bmojo.training.parallel.stretches import masked, packed
from tests.bmojo.parallel.test_context import CASES, LENGTH, QUICK, layer_of, passed
from tests.layers import MIXERS, tokens
from tests.tolerances import assert_close


def mask_of(*stretches, length=LENGTH):
    mask = torch.zeros(len(stretches), length, dtype=torch.bool)
    for row, (low, high) in enumerate(stretches):
        mask[row, low:high] = True
    return mask


def holed(mask, *holes):
    for row, at in holes:
        mask[row, at] = False
    return mask


SEQUENCES = {
    "several in each part, one of them empty": {"cu_seqlens": torch.tensor([0, 5, 6, 20, 20, 33])},
    "one over all parts": {"cu_seqlens": torch.tensor([0, 2, 33])},
    "cut where parts are": {"cu_seqlens": torch.tensor([0, 8, 16, 24, 33])},
    "padding behind, in front and between": {"mask": holed(mask_of((0, 33), (0, 21), (7, 33)), (2, 20))},
    "none over all parts": {"mask": mask_of((0, 17), (16, 33), (3, 4))},
}


QUICK_ONES = ["several in each part, one of them empty", "padding behind, in front and between"]


def data(given):
    batch = len(given["mask"]) if "mask" in given else 1
    return tokens(batch, LENGTH), tokens(batch, LENGTH, seed=9)


def of_cases(cases, sequences):
    """In each process: the parts of all cases, as arrays, and what was sent."""
    found = []
    for case, name in itertools.product(cases, sequences):
        context, given = ContextParallel(), SEQUENCES[name]
        output, input_gradient, gradients = passed(context, layer_of(*case), *data(given), **given)
        arrays = {name: g.numpy() for name, g in gradients.items()}
        found.append((output.numpy(), input_gradient.numpy(), arrays, dict(context.sent)))
    return found


class Noting(ContextParallel):
    """Notes the order in which it sends and receives."""

    def __init__(self):
        super().__init__()
        self.order = []

    def post(self, tensors, to, way):
        self.order.append(f"sent {way}")
        super().post(tensors, to, way)

    def fetch(self, like, source):
        self.order.append(f"received {'forward' if source < self.rank else 'backward'}")
        return super().fetch(like, source)


def in_order(name):
    context, given = Noting(), SEQUENCES[name]
    passed(context, layer_of(*QUICK[0]), *data(given), **given)
    return context.order


def alone(layer, given):
    """By the layer itself, which takes the sequences whole."""
    u, weights = data(given)
    u.requires_grad_()
    output = layer(u, **given)
    (output * weights).sum().backward()
    zero = torch.zeros(())
    gradients = {n: zero.expand_as(p) if p.grad is None else p.grad for n, p in layer.named_parameters()}
    return output.detach(), u.grad, gradients


def compare(cases, sequences, answers):
    for number, (case, name) in enumerate(itertools.product(cases, sequences)):
        layer, given = layer_of(*case), SEQUENCES[name]
        output, input_gradient, gradients = alone(layer, given)
        parts, what = [answer[number] for answer in answers], f"{' '.join(case)}: {name}"
        # The first read-outs of a regression are those of one key: rounding counts there.
        kind = "recurrence" if case[0] == "gated_kalmanet" else "exact"
        assert_close(torch.cat([torch.tensor(p[0]) for p in parts], 1), output, kind, what=what)
        found = torch.cat([torch.tensor(p[1]) for p in parts], 1)
        assert_close(found, input_gradient, "recurrence", what=what)
        scale = float(input_gradient.abs().max())
        for one, wanted in gradients.items():
            largest = max(scale, float(wanted.abs().max()))
            assert_close(parts[0][2][one], wanted, "recurrence", scale=largest, what=f"{what} {one}")
        own = message_bytes(layer.init_state(len(output)))
        for rank, (*_, sent) in enumerate(parts):
            laid = laid_of(given, rank, len(parts))
            assert sent.get("forward bytes", 0) == laid.goes * own["forward"], what
            assert sent.get("backward bytes", 0) == laid.comes * own["backward"], what


def parts_of(size, length=LENGTH):
    return [slice(r * length // size, (r + 1) * length // size) for r in range(size)]


def laid_of(given, rank, size, length=LENGTH):
    parts = parts_of(size, length)
    if "mask" in given:
        return masked(given["mask"], parts, rank)
    return packed(given["cu_seqlens"], parts[rank])


class TestLayer:
    def test_two_processes_give_what_one_gives(self, two):
        for case, name in zip(QUICK, itertools.cycle(QUICK_ONES), strict=False):
            compare([case], [name], two.run(of_cases, [case], [name]))

    @pytest.mark.slow
    @pytest.mark.parametrize("mixer", MIXERS)
    def test_every_mixer_predictor_and_rule(self, two, four, mixer):
        cases = [case for case in CASES if case[0] == mixer]
        for pool in (two, four):
            compare(cases, list(SEQUENCES), pool.run(of_cases, cases, list(SEQUENCES)))

    @pytest.mark.slow
    def test_what_goes_on_is_sent_before_what_came_is_waited_for(self, four):
        """Backwards too; only where one sequence fills a part, its process waits first."""
        _, filled, cut, _ = four.run(in_order, "several in each part, one of them empty")
        assert cut == ["sent forward", "received forward", "sent backward", "received backward"]
        assert filled == ["received forward", "sent forward", "received backward", "sent backward"]

    def test_alone_the_part_is_the_whole(self):
        for name in QUICK_ONES:
            layer, sequences = layer_of(*QUICK[0]), SEQUENCES[name]
            output, *_ = passed(ContextParallel(), layer, *data(sequences), **sequences)
            assert_close(output, alone(layer, sequences)[0])


lengths = st.lists(st.integers(0, 9), min_size=1, max_size=8)


class TestWhatIsPassed:
    """Every token is in one stretch, with as many before it as there are; neighbours agree."""

    def check(self, given, sequence, position, size, length):
        """`sequence` and `position` (B, T): which sequence a token is of, -1 for none, and where in it."""
        laid = [laid_of(given, rank, size, length) for rank in range(size)]
        assert not laid[0].comes
        assert not laid[-1].goes
        for one, other in itertools.pairwise(laid):
            assert one.goes == other.comes
        for part, own in zip(parts_of(size, length), laid, strict=True):
            of, at = sequence[:, part].flatten(), position[:, part].flatten()
            rows = torch.cat([stretch.rows.flatten() for stretch in own.stretches])
            assert rows.sort().values.tolist() == (of >= 0).nonzero().flatten().tolist()
            assert own.tokens == len(rows)
            for stretch in own.stretches:
                if stretch.edges is not None:
                    begins = [
                        0 if a == b else int(at[stretch.rows[0, a]])
                        for a, b in itertools.pairwise(stretch.edges.tolist())
                    ]
                    assert not any(begins)
                    continue
                for line, row in zip(stretch.lines.tolist(), stretch.rows, strict=True):
                    assert len(set(of[row].tolist())) == 1
                    assert at[row].tolist() == list(range(stretch.start, stretch.start + len(row)))
                    assert len(sequence) == 1 or line == int(of[row[0]])

    @settings(max_examples=40, deadline=None)
    @given(lengths=lengths, size=st.integers(1, 5))
    def test_packed(self, lengths, size):
        length = sum(lengths)
        assume(length >= 2 * size)
        sequence = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
        position = torch.cat([torch.arange(n) for n in lengths])
        edges = torch.tensor([0, *lengths]).cumsum(0)
        self.check({"cu_seqlens": edges}, sequence[None], position[None], size, length)

    @settings(max_examples=40, deadline=None)
    @given(data=st.data(), batch=st.integers(1, 4), size=st.integers(1, 4), length=st.integers(8, 12))
    def test_masked(self, data, batch, size, length):
        rows = st.lists(st.booleans(), min_size=length, max_size=length)
        mask = torch.tensor(data.draw(st.lists(rows, min_size=batch, max_size=batch)))
        assume(all(bool(mask[:, part].any()) for part in parts_of(size, length)))
        sequence = torch.where(mask, torch.arange(batch).unsqueeze(1), -1)
        self.check({"mask": mask}, sequence, mask.long().cumsum(1) - 1, size, length)


def model_of():
    torch.manual_seed(0)
    options = {"d_model": 8, "heads": 2, "window": 5, "chunk": 3, "eidetic": 4, "state_size": 3}
    layers = [BMojoConfig(**options), BMojoConfig(**options, mixer="gated_deltanet", predictor="residual")]
    return BMojoLM(11, layers).double().train()


def of_model(name, checkpointing):
    """The hidden states and the gradients of a model, which computes its activations anew or keeps them."""
    given = SEQUENCES.get(name, {"length": LENGTH})
    context, model = ContextParallel(), model_of()
    model.gradient_checkpointing = checkpointing
    drawn = torch.randint(
        11, (3 if "mask" in given else 1, LENGTH), generator=torch.Generator().manual_seed(1)
    )
    with context.along(model, **given) as part:
        hidden = model.hidden(drawn[:, part])
        weights = tokens(*drawn.shape, seed=5)[:, part]
        if "mask" in given:
            weights = weights * given["mask"][:, part].unsqueeze(-1)
        (hidden * weights).sum().backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    if context.size > 1:
        for gradient in gradients.values():
            torch.distributed.all_reduce(gradient)
    return {n: g.numpy() for n, g in gradients.items()}, dict(context.sent)


class TestActivationsComputedAnew:
    @pytest.mark.parametrize("name", ["whole", QUICK_ONES[0]])
    def test_the_gradient_is_that_of_one_process_that_keeps_them(self, two, name):
        wanted, _ = of_model(name, checkpointing=False)
        kept, anew = two.run(of_model, name, False), two.run(of_model, name, True)
        assert [sent for _, sent in anew] == [sent for _, sent in kept]  # no message is sent once more
        for gradients, _ in (*kept, *anew):
            assert gradients.keys() == wanted.keys()
            for one, expected in wanted.items():
                assert_close(gradients[one], expected, "recurrence", what=one)

    @pytest.mark.slow
    def test_on_four_processes(self, four):
        for name in ("whole", *SEQUENCES):
            wanted, _ = of_model(name, checkpointing=False)
            for gradients, _ in four.run(of_model, name, True):
                for one, expected in wanted.items():
                    assert_close(gradients[one], expected, "recurrence", what=f"{name} {one}")


def refusals():
    """What each process says of what cannot be shared out."""
    context, layer, told = ContextParallel(), layer_of(*QUICK[0]), []

    def note(call):
        with pytest.raises(ValueError) as error:
            call()
        told.append(str(error.value))

    def within(*given, along=None, **options):
        with context.along(layer, **(along or {"length": 8})) as part:
            layer(tokens(1, 8)[:, part], *given, **options)

    note(lambda: within(mask=torch.ones(1, 4, dtype=torch.bool)))
    note(lambda: within(cu_seqlens=torch.tensor([0, 4])))
    note(lambda: within(layer.init_state(1), along={"cu_seqlens": torch.tensor([0, 3, 8])}))
    note(lambda: within(along={"mask": mask_of((0, 4), length=8)}))
    note(lambda: within(along={"cu_seqlens": torch.tensor([0, 5, 3, 8])}))
    note(lambda: within(along={"length": 8, "cu_seqlens": torch.tensor([0, 8])}))
    return told


def with_storage(folder):
    layer = layer_of(*QUICK[0])
    with FlatStore(f"{folder}/{torch.distributed.get_rank()}", durable=False) as store:
        attach(layer, store)
        along = ContextParallel().along(layer, length=8)
        with pytest.raises(ValueError, match=r"with storage came; .*bmojo.storage.detach") as error, along:
            pass
        layer.storage.close()
    return str(error.value)


class TestWhatIsRefused:
    def test_by_name_and_with_what_to_do(self, two, tmp_path):
        needles = ["`cu_seqlens` or `mask` of the whole sequences to `ContextParallel.along`"] * 2
        needles += ["begin anew; leave them out", "leaves process 1, with tokens 4 to 7, padding alone; pack"]
        needles += ["edges begin at 0 and never fall", "one of length, cu_seqlens and mask"]
        for told in two.run(refusals):
            for needle, message in zip(needles, told, strict=True):
                assert needle in message
        assert len(set(two.run(with_storage, str(tmp_path)))) == 1
