"""Summed gradients: plain autograd's, in fp32, one in memory at a time, and the model as it was."""

from __future__ import annotations

import contextlib
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.families import family_model
from support.planted_mask import build_planted_mask, build_tokens, mask_pairs, mean_score
from torch import nn

from registry.errors import (
    ApplyError,
    HostError,
    NonFiniteResultError,
    NonFiniteTensorError,
    UsageError,
)
from registry.kinds.esi_mask import _gradients, _kept_sums
from registry.kinds.esi_mask._gradients import gradients, halves
from registry.kinds.esi_mask._kept_sums import KeptSums
from registry.kinds.esi_mask._scores import RefusalLogOdds

PAIRS = mask_pairs(6).rows


def matrices_of(model):
    return [name for name, value in model.named_parameters() if value.ndim == 2]


def found(planted, names=None, **options):
    names = matrices_of(planted.model) if names is None else names
    return gradients(planted.model, names, RefusalLogOdds(planted.tokenizer), PAIRS, **options)


class Given:
    """A score whose pairs are functions of the model."""

    name, version = "given", 1

    def terms(self, model, pair):
        yield pair.of(model)


def given(model, *functions, names=("weight",), **options):
    pairs = [SimpleNamespace(id=f"pair-{i}", of=of) for i, of in enumerate(functions)]
    return gradients(model, names, Given(), pairs, **options)


def test_the_sum_is_that_of_plain_autograd():
    planted = build_planted_mask()
    planted.model.double()
    got = found(planted)
    mean_score(planted.model, planted.tokenizer, PAIRS).backward()
    assert got.pairs == (6,)
    assert sum(got.scores) / 6 == pytest.approx(
        float(mean_score(planted.model, planted.tokenizer, PAIRS).detach()), rel=1e-5
    )
    for name, total in got.sums[0].items():
        expected = planted.model.get_parameter(name).grad
        assert total.dtype == torch.float32
        assert torch.allclose(total / 6, expected.float(), rtol=1e-4, atol=1e-8), name
    assert any(total.any() for total in got.sums[0].values())


def test_halves_add_up_to_the_whole():
    planted = build_planted_mask()
    parts = halves(6, seed=3)
    whole, split = found(planted).sums[0], found(planted, parts=parts)
    assert split.pairs == (3, 3)
    for name, total in whole.items():
        both = split.sums[0][name] + split.sums[1][name]
        assert torch.allclose(both, total, rtol=1e-5, atol=1e-8)
        first = [PAIRS[i] for i in range(6) if parts[i] == 0]
    alone = gradients(
        planted.model, matrices_of(planted.model), RefusalLogOdds(planted.tokenizer), first
    )
    assert all(torch.equal(alone.sums[0][name], split.sums[0][name]) for name in whole)


def test_terms_that_bf16_would_lose_are_summed():
    """1 and 256 times 1/512 are 1.5; in bf16, what is added to 1 is lost each time."""
    model = nn.Linear(2, 1, bias=False, dtype=torch.bfloat16)
    terms = [lambda m: m.weight.sum(), *[lambda m: (m.weight / 512).sum()] * 256]
    for term in terms:
        term(model).backward()
    assert model.weight.grad.tolist() == [[1.0, 1.0]]
    assert given(model, *terms).sums[0]["weight"].tolist() == [[1.5, 1.5]]


def test_one_gradient_is_in_memory_at_a_time():
    planted, most = build_planted_mask(), []
    live = list(planted.model.parameters())

    def count(_parameter):
        most.append(sum(parameter.grad is not None for parameter in live))

    handles = [parameter.register_post_accumulate_grad_hook(count) for parameter in live]
    found(planted)
    for handle in handles:
        handle.remove()
    assert max(most) == 1
    assert len(most) == 6 * 2 * len(matrices_of(planted.model))  # for every answer


def test_only_what_is_wanted_gets_a_gradient():
    planted = build_planted_mask()
    name = "model.layers.1.mlp.up_proj.weight"
    seen = []
    live = dict(planted.model.named_parameters())

    def look(done, total):
        seen.append((done, total, [n for n, p in live.items() if p.requires_grad]))

    got = found(planted, [name], progress=look)
    assert list(got.sums[0]) == [name]
    assert seen[-1] == (6, 6, [name])


def state(model):
    return (
        {name: value.requires_grad for name, value in model.named_parameters()},
        {name: value.grad for name, value in model.named_parameters()},
        {name: module.training for name, module in model.named_modules()},
        {name: len(value._post_accumulate_grad_hooks or ())
         for name, value in model.named_parameters()},
        len(model._forward_hooks),
        model.config.use_cache,
    )  # fmt: skip


@pytest.mark.parametrize("ending", [None, KeyboardInterrupt, NonFiniteResultError])
def test_the_model_is_as_it_was_whatever_happens(ending):
    planted = build_planted_mask()
    model = planted.model
    model.model.layers[1].train()
    model.model.norm.weight.requires_grad_(False)
    kept = torch.ones_like(model.lm_head.weight)
    model.lm_head.weight.grad = kept
    before = state(model)

    def stop(done, _total):
        if ending is not None and done == 2:
            raise ending("stopped")

    if ending is None:
        found(planted, progress=stop)
    else:
        with pytest.raises(ending):
            found(planted, progress=stop)
    after = state(model)
    assert after[0] == before[0]
    assert after[2:] == before[2:]
    assert model.lm_head.weight.grad is kept
    assert torch.equal(kept, torch.ones_like(kept))
    assert sum(gradient is not None for gradient in after[1].values()) == 1


def test_it_works_inside_no_grad():
    planted = build_planted_mask()
    with torch.no_grad():
        assert any(total.any() for total in found(planted).sums[0].values())


def test_a_score_that_is_not_finite_is_refused_by_its_pair():
    model = nn.Linear(2, 1, bias=False)
    with pytest.raises(NonFiniteResultError) as caught:
        given(model, lambda m: m.weight.sum(), lambda m: m.weight.sum() * float("inf"))
    assert caught.value.message in {
        f"pair 'pair-1': expected a finite given, got {value}." for value in ("inf", "-inf")
    }


def test_gradients_that_are_not_finite_are_refused_with_their_names():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = (nn.Parameter(torch.zeros(2, 2)) for _ in range(2))

    with pytest.raises(NonFiniteTensorError) as caught:
        given(Two(), lambda m: m.a.sum() + m.b.square().sum().sqrt(), names=("a", "b"))
    assert caught.value.message == (
        "expected finite gradients, got NaN or infinity in 1 parameters:\n  b: 4 entries"
    )


def test_parameters_that_are_not_plain_numbers_are_refused_together():
    model = nn.Linear(2, 1, device="meta")
    model.packed = nn.Parameter(torch.zeros(2, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(ApplyError) as caught:
        given(model, lambda m: m.weight.sum(), names=("weight", "packed", "gone"))
    assert caught.value.message == (
        "expected weights that can be differentiated, got:\n"
        "  gone: expected a parameter, the model has none\n"
        "  packed: expected a plain floating-point parameter, got Parameter of torch.uint8\n"
        "  weight: expected weights on a device, they are offloaded"
    )


def test_no_pairs_are_refused():
    with pytest.raises(UsageError, match="expected at least 1 pair, got none"):
        given(nn.Linear(2, 1))


def test_halves_are_drawn_by_the_seed_alone():
    assert halves(7, seed=1) == halves(7, seed=1)
    assert len({halves(40, seed=seed) for seed in range(5)}) == 5
    assert sorted(halves(7, seed=1)) == [0, 0, 0, 0, 1, 1, 1]
    with pytest.raises(UsageError, match="expected at least 2 pairs for two halves, got 1"):
        halves(1, seed=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_gradient_is_added_as_torch_adds_it_also_in_pieces(monkeypatch, dtype):
    monkeypatch.setattr(_gradients, "_PIECE", 1000)
    generator = torch.Generator().manual_seed(0)
    total, gradient = (torch.randn(70, 101, generator=generator) for _ in range(2))
    gradient = gradient.to(dtype)
    for laid_out in (gradient, gradient.t().contiguous().t()):
        expected = total.clone().add_(gradient)
        got = total.clone()
        _gradients._add(got, laid_out)
        assert torch.equal(got, expected)


def test_embeddings_norms_and_their_inputs_get_no_gradient():
    """Not even one that is thrown away: backward does not compute it."""
    planted = build_planted_mask()
    planted.model.requires_grad_(True)
    names = [name for name in matrices_of(planted.model) if "layers" in name]
    seen = set()
    handles = [
        value.register_hook(lambda _, name=name: seen.add(name))
        for name, value in planted.model.named_parameters()
    ]
    outputs = []
    handles.append(
        planted.model.model.embed_tokens.register_forward_hook(
            lambda _module, _given, output: outputs.append(output.requires_grad)
        )
    )
    found(planted, names)
    for handle in handles:
        handle.remove()
    assert seen == set(names)
    assert not any(outputs)


# What an interrupted run has


class Notes:
    """Notes in memory, of which nothing changes later."""

    def __init__(self, *, is_full=False):
        self.kept, self.is_full, self.writes = {}, is_full, 0

    def recall_tensors(self, key):
        return self.kept.get(key)

    def keep_tensors(self, key, value, tensors):
        self.writes += 1
        if self.is_full:
            raise HostError("expected room, got none.")
        self.kept[key] = (
            json.loads(json.dumps(value)),
            {name: array.copy() for name, array in tensors.items()},
        )


@pytest.fixture
def always(monkeypatch):
    monkeypatch.setattr(_kept_sums, "_EVERY_S", 0.0)
    monkeypatch.setattr(_kept_sums, "_TIMES_COST", 0)


def interrupted(notes, after, *, run=None, pairs=PAIRS, **options):
    """Return the pairs that were differentiated, and what was found unless it was interrupted."""
    planted, done = build_planted_mask(), []

    class Counted(RefusalLogOdds):
        def terms(self, model, pair):
            done.append(pair.id)
            return super().terms(model, pair)

    def progress(number, _total):
        if number == after:
            raise KeyboardInterrupt

    got = None
    with contextlib.suppress(KeyboardInterrupt):
        got = gradients(
            planted.model, matrices_of(planted.model), Counted(planted.tokenizer), pairs,
            kept=KeptSums(notes, run or {"data": "a"}), progress=progress, **options,
        )  # fmt: skip
    return done, got


@pytest.mark.parametrize("after", [1, 4, 6])
@pytest.mark.parametrize("parts", [None, halves(6, seed=1)])
@pytest.mark.usefixtures("always")
def test_an_interrupted_run_goes_on_behind_the_last_pair_and_ends_with_the_same_bits(after, parts):
    notes = Notes()
    first, nothing = interrupted(notes, after, parts=parts)
    second, got = interrupted(notes, None, parts=parts)
    assert nothing is None
    assert first + second == [pair.id for pair in PAIRS]
    assert len(first) == after
    expected = found(build_planted_mask(), parts=parts)
    assert (got.scores, got.pairs) == (expected.scores, expected.pairs)
    for part, whole in zip(got.sums, expected.sums, strict=True):
        assert list(part) == list(whole)
        assert all(torch.equal(part[name], whole[name]) for name in whole)


@pytest.mark.usefixtures("always")
def test_tokens_of_experts_are_counted_once_also_of_an_interrupted_run():
    def run(notes, after):
        model = family_model("mixtral")
        routers = [f"model.layers.{layer}.mlp.gate" for layer in range(2)]

        def progress(number, _total):
            if number == after:
                raise KeyboardInterrupt

        with contextlib.suppress(KeyboardInterrupt):
            return gradients(
                model, ["model.layers.1.self_attn.v_proj.weight"], RefusalLogOdds(build_tokens()),
                PAIRS, routers=routers, kept=KeptSums(notes, {}), progress=progress,
            ).routed  # fmt: skip

    notes = Notes()
    assert run(notes, 2) is None
    assert run(notes, None) == run(Notes(), None)


@pytest.mark.usefixtures("always")
def test_sums_of_another_run_are_not_used():
    notes = Notes()
    interrupted(notes, 3)
    for other in ({"run": {"data": "b"}}, {"parts": halves(6, seed=1)}, {"pairs": PAIRS[:4]}):
        again, got = interrupted(notes, None, **other)
        assert len(again) == len(other.get("pairs", PAIRS))
        assert got is not None
    assert interrupted(notes, None)[0] == [pair.id for pair in PAIRS[3:]]


def test_sums_are_kept_seldom_and_never_where_writing_costs_more_than_it_saves(monkeypatch):
    clock = SimpleNamespace(now=0.0)

    def tick(seconds):
        clock.now += seconds

    monkeypatch.setattr(_kept_sums.time, "monotonic", lambda: clock.now)

    class Slow(Notes):
        def keep_tensors(self, key, value, tensors):
            super().keep_tensors(key, value, tensors)
            tick(4.0)

    planted, notes, when = build_planted_mask(), Slow(), []

    def progress(_number, _total):
        tick(10.0)
        when.append(notes.writes)

    gradients(
        planted.model, matrices_of(planted.model), RefusalLogOdds(planted.tokenizer), PAIRS * 4,
        kept=KeptSums(notes, {}), progress=progress,
    )  # fmt: skip
    assert when == [0, 0, 0, *[1] * 8, *[2] * 8, *[3] * 5]


@pytest.mark.usefixtures("always")
def test_a_full_disk_is_warned_about_once_and_the_run_ends():
    notes = Notes(is_full=True)
    with pytest.warns(UserWarning, match="would begin anew: expected room, got none") as caught:
        _, got = interrupted(notes, None)
    assert len(caught) == 1
    assert notes.writes == 1
    assert got.pairs == (6,)


def test_a_sum_that_is_not_finite_in_another_process_is_refused_here_too():
    """Or this one would wait for it for ever."""
    others = SimpleNamespace(sum=lambda counts: counts + np.array([0, 3]))
    with pytest.raises(NonFiniteTensorError) as caught:
        _gradients._require_finite([{"a": torch.ones(2), "b": torch.ones(2)}], others)
    assert caught.value.violations == ["b: 3 entries"]
