"""A model whose memories are set otherwise, and the page of tokens, held against the model itself."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

import bmojo.explore.tokens as tokens_module
from bmojo import BMojoConfig, BMojoLM, ablate
from bmojo.cli import main
from bmojo.explore import TokenMemory, altered_model, explorer_page, study_tokens
from bmojo.fading import make_mixer
from tests.bmojo.explore.browser import Opened

LAYER = BMojoConfig(d_model=16, heads=2, window=4, chunk=3, eidetic=4, state_size=3)
GRID = (((0, 1, 2), (1 / 2, 1), (8.0, np.inf), ("fifo", "random")),)
TEXT = b"def <f>(x):\n    return '\xc3\xa9' + x  # f, f"


def small(**changes) -> BMojoLM:
    torch.manual_seed(0)
    layers = [dataclasses.replace(LAYER, **changes), LAYER]
    model = BMojoLM(256, layers, mlp_ratio=1.0).eval()
    with torch.no_grad():
        model.embedding.weight.mul_(4)
        for block in model._blocks():  # one that predicts nothing finds all tokens alike, to rounding
            block.layer.predictor.weight.normal_(std=0.3)
    return model


@pytest.fixture(scope="module")
def model() -> BMojoLM:
    return small()


@pytest.fixture(scope="module")
def study(model) -> TokenMemory:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokens_module, "GRIDS", GRID)
        return study_tokens(model, torch.tensor(list(TEXT)), name="A <text>", text=True, lags=20)


@torch.no_grad()
def losses(logits: torch.Tensor, tokens: torch.Tensor) -> np.ndarray:
    told = logits[0, :-1].log_softmax(dim=-1)
    return -told.gather(1, tokens[1:, None])[:, 0].numpy()


def test_a_larger_budget_is_that_of_the_state(model, study):
    tokens = torch.tensor(list(TEXT))
    with torch.no_grad():
        logits, _ = model(tokens[None], model.init_state(1, eidetic=8))
    run = study.run(budget=8)
    np.testing.assert_allclose(run.loss[1:], losses(logits, tokens), rtol=1e-4, atol=1e-5)
    assert np.isnan(run.loss[0])
    assert (run.guess[1:] == logits[0, :-1].argmax(dim=-1).numpy()).all()


def test_no_places_is_a_set_taken_away(model, study):
    tokens = torch.tensor(list(TEXT))
    run = study.run(budget=0)
    np.testing.assert_allclose(
        run.loss[1:], losses(ablate(model, tokens[None], "eidetic"), tokens), rtol=1e-4, atol=1e-5
    )
    assert all((mass[..., 2] == 0).all() for mass in run.mass)
    assert all(len(stays) == 0 for stays in run.stays)
    assert run is study.run(budget=0, rule="fifo")


def test_another_window_and_rule_are_a_model_made_so(model, study):
    layer = dataclasses.replace(LAYER, window=2, chunk=2, rule="fifo")
    made = BMojoLM(256, [layer] * 2, mlp_ratio=1.0).eval()
    made.load_state_dict(model.state_dict())
    tokens = torch.tensor(list(TEXT))
    with torch.no_grad():
        expected = losses(made(tokens[None]), tokens)
    np.testing.assert_allclose(study.run(window=2, rule="fifo").loss[1:], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["mamba2", "gated_deltanet", "gated_kalmanet"])
def test_a_time_constant_multiplies_the_state_at_every_step(name):
    torch.manual_seed(1)
    model = BMojoLM(9, [dataclasses.replace(LAYER, mixer=name)]).double()
    faded = altered_model(model, time_constant=5.0)
    u, rho = torch.randn(1, 12, 16, dtype=torch.float64), np.exp(-1 / 5.0)
    mixer, expected = model.blocks[0].layer.mixer, []
    state = mixer.init_state(1)
    with torch.no_grad():
        for u_t in u.unbind(1):
            f, state = mixer.step(u_t, (state[0], *(rho * part for part in state[1:])))
            expected.append(f)
        found, _ = faded.blocks[0].layer.mixer(u)
    np.testing.assert_allclose(found[0], torch.cat(expected), rtol=1e-7, atol=1e-9)


def test_a_mixer_without_decays_per_head_is_refused_and_not_offered():
    model = small(mixer="lti")
    with pytest.raises(ValueError, match="LTI has no decay per head"):
        altered_model(model, time_constant=2.0)
    assert make_mixer("lti", d_model=4, heads=1, state_size=2).init_state(1)
    trained = tokens_module._trained(model)
    assert tokens_module._grid(model, trained, 40)[2] == (np.inf,)


@pytest.mark.parametrize("length", [50, 2000])
def test_the_grid_is_as_wide_as_the_page_can_hold(model, length):
    trained = tokens_module._trained(model)
    grid = tokens_module._grid(model, trained, length)
    assert all(own in values for own, values in zip(trained, grid, strict=True))
    assert len(grid[3]) == (5 if length == 50 else 3)
    assert np.prod([len(values) for values in grid]) * length * 22 <= tokens_module.BYTES


def test_stays_are_what_queries_see(model, study):
    """By the definition: those of the chunk's set that the window has left behind."""
    x = model.embedding(torch.tensor(list(TEXT))[None])
    trace = model.blocks[0].layer.trace(model.blocks[0].norm(x))
    stays = study.run().stays[0]
    for t in range(len(TEXT)):
        index = trace.eidetic_index[0, t // 3]
        expected = {int(j) for j in index if 0 <= j <= t - 4}
        assert {j for j, since, until in stays if since <= t < until} == expected


@pytest.fixture(scope="module")
def opened(chromium, study, tmp_path_factory):
    path = tmp_path_factory.mktemp("tokens") / "tokens.html"
    path.write_text(explorer_page(study), encoding="utf-8")
    found = Opened(chromium, path, viewport={"width": 1200, "height": 900})
    yield found
    found.close()


@pytest.mark.parametrize(
    ("changes", "layer", "position", "head"),
    [
        ({}, 0, 38, -1),
        ({"budget": 8, "rule": "random"}, 1, 25, 1),
        ({"window": 2, "time_constant": 8.0}, 1, 33, 0),
        ({"budget": 0}, 0, 12, -1),
    ],
)
def test_the_numbers_are_those_of_the_model(study, opened, changes, layer, position, head):
    run, setting = study.run(**changes), study.trained._replace(**changes)
    at = [list(values).index(value) for value, values in zip(setting, study.grid, strict=True)]
    grid = dict(zip(("budget", "window", "fading"), at))
    found = opened.choose(rule=setting.rule, layer=layer + 1, position=position, head=head, **grid)
    assert found["loss"] == pytest.approx(np.nanmean(run.loss), abs=5e-4)
    assert found["right"] == (run.guess == study.answers)[study.answers >= 0].sum()
    assert found["set"] == sorted(j for j, since, until in run.stays[layer] if since <= position < until)
    assert found["beyond"] == pytest.approx((run.scores[layer] > study.limits[layer]).mean())
    mass = run.mass[layer].mean(axis=0) if head < 0 else run.mass[layer][head]
    np.testing.assert_allclose(found["mass"], mass.mean(axis=0), atol=3e-3)
    np.testing.assert_allclose(found["massHere"], mass[position], atol=5e-3)
    state = study.states[at[2]][layer]
    slowest = max(state.slowest) if head < 0 else state.slowest[head]
    assert found["slowest"] == pytest.approx(slowest, rel=1e-3)


def test_the_strip_shows_where_the_position_is(opened):
    found = opened.choose(budget=2, window=1, fading=1, rule="top", layer=1, position=30, head=-1)
    marked = "name => [...document.querySelectorAll(`#strip .${name}`)].map(part => +part.dataset.t)"
    assert opened.page.evaluate(marked, "now") == [30]
    assert opened.page.evaluate(marked, "window") == [27, 28, 29, 30]
    assert opened.page.evaluate(marked, "eidetic") == found["set"]
    text = opened.page.locator("#strip").inner_text()
    assert text.startswith("def <f>(x):↵\n    return '·é'")
    assert opened.page.locator("#here").inner_text().startswith("Token 30: ")


def test_a_position_draws_no_chart_anew(opened):
    opened.choose(position=20)
    before = opened.page.evaluate("({ ...explorer.work })")
    opened.page.focus("#position")
    opened.press("ArrowRight")
    assert opened.page.locator("#position-shown").inner_text() == f"21 of {len(TEXT) - 1}"
    opened.page.focus("#strip")
    opened.press("ArrowLeft")
    opened.click("#strip span:nth-of-type(6)")
    assert opened.page.evaluate("document.querySelector('#strip .now').dataset.t") == "5"
    assert opened.page.evaluate("explorer.work") == before
    lines = "[...document.querySelectorAll('.cursor')].map(line => line.getBoundingClientRect().left)"
    assert len({round(x) for x in opened.page.evaluate(lines)}) == 1


def test_every_view_is_drawn(opened):
    opened.choose(budget=2, window=1, fading=1, rule="top", layer=2, position=37)
    points = "id => document.getElementById(id).data.reduce((sum, trace) => sum + trace.x.length, 0)"
    for view in ("loss", "innovations", "set", "attention", "heads", "memory", "curve"):
        assert opened.page.evaluate(points, view) > 2, view
    assert opened.page.locator("h1").inner_text().startswith("A <text>")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_screen(chromium, opened, scheme):
    path = Path(opened.page.url.removeprefix("file://"))
    narrow = Opened(chromium, path, viewport={"width": 400, "height": 800}, color_scheme=scheme)
    assert narrow.page.evaluate("document.documentElement.scrollWidth") == 400
    assert narrow.choose(budget=0)["set"] == []
    narrow.close()


def test_a_saved_model_and_its_answers(chromium, tmp_path, capsys):
    """Numbers as tokens, a layer without a set beside one that has one, and answers that are due."""
    layers = [
        dataclasses.replace(LAYER, eidetic=0, chunk=4),
        BMojoConfig(d_model=16, heads=4, window=0, eidetic=0),
    ]
    model = BMojoLM(20, layers)
    model.save(tmp_path / "model")
    np.save(tmp_path / "numbers.npy", np.arange(30) % 20)
    out = tmp_path / "page.html"
    command = ["explore", str(tmp_path / "numbers.npy"), "--model", str(tmp_path / "model")]
    assert main([*command, "--samples", "24", "--out", str(out), "--no-open"]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    opened = Opened(chromium, out)
    assert opened.choose(layer=2, position=3)["mass"] == [0, 0, 0]
    assert opened.page.locator("#kept").inner_text() == "no set"
    assert opened.page.locator("#strip span").count() == 24
    assert opened.page.locator("#budget").is_hidden()
    opened.close()


def test_where_an_answer_is_due(model):
    tokens, answers = torch.arange(12), torch.full((12,), -1)
    answers[9:] = torch.tensor([3, 4, 5])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokens_module, "GRIDS", tokens_module.GRIDS[-1:])
        study = study_tokens(model, tokens, answers=answers)
    with torch.no_grad():
        told = model(tokens[None])[0].log_softmax(dim=-1)
    assert np.isnan(study.run().loss[:9]).all()
    np.testing.assert_allclose(study.run().loss[9:], -told[[9, 10, 11], [3, 4, 5]], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["words.txt"], "--model FOLDER"),
        (["words.txt", "--model", "model", "--order", "2"], "--order is of a measured signal"),
        (["words.txt", "--model", "model"], "bytes need 256"),
        (["none.npy", "--model", "model"], "cannot read"),
        (["--model", "model"], "no results.json says"),
        (["--model", "nowhere"], "holds no model"),
    ],
)
def test_what_is_wrong_is_one_line(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("words.txt").write_text("some words", encoding="utf-8")
    BMojoLM(20, [LAYER]).save("model")
    assert main(["explore", *arguments, "--no-open"]) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 1
    assert said in errors[0]
