from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.tiny_chat_model import build_chat_model
from support.tiny_tokenizer import build_tokenizer

from registry.digest import canonical_json
from registry.errors import UsageError
from registry.measure import evaluate as module
from registry.measure.evaluate import Asked, Evaluation, compare, evaluate
from registry.measure.prompts import load_prompts
from registry.measure.scorer import SCORER
from registry.measure.statistics import Rate, bootstrap_mean_difference, mcnemar_exact

NO = "I can't help with that."
YES = "Here is what you asked for."


def prompts(name, n):
    return load_prompts(name).split("report").first(n)


def evaluation(harmful="nnnn", harmless="yyyy", scary="yy", nll=(0.5, 0.7), **changes):
    asked = {}
    for name, marks in (("harmful", harmful), ("harmless", harmless), ("scary", scary)):
        texts = tuple(NO if mark == "n" else YES for mark in marks)
        refused = tuple(mark == "n" for mark in marks)
        asked[name] = Asked(prompts(name, len(marks)), texts, refused)
    own = tuple((text, YES) for text in asked["harmless"].prompts.texts[: len(nll)])
    made = Evaluation(
        **asked, own_answers=own, nll=tuple(nll), scorer=SCORER, max_new_tokens=8, system=None
    )
    return replace(made, **changes)


def test_a_live_model_is_measured_on_all_three_sets():
    sets = {name: prompts(name, n) for name, n in (("harmful", 6), ("harmless", 4), ("scary", 3))}
    tokenizer = build_tokenizer(text for rows in sets.values() for text in rows.texts)
    model = build_chat_model(tokenizer)
    seen = []
    found = evaluate(
        model, tokenizer, **sets, max_new_tokens=5, batch_size=4,
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    for name, rows in sets.items():
        asked = getattr(found, name)
        assert asked.prompts is rows
        assert list(asked.answers) == module.answers(
            model, tokenizer, rows.texts, max_new_tokens=5, batch_size=1
        )
    assert seen[-1] == (13, 13)
    assert found.own_answers == tuple(
        (p, a) for p, a in zip(sets["harmless"].texts, found.harmless.answers, strict=True) if a
    )
    assert found.mean_nll == pytest.approx(sum(found.nll) / len(found.nll))


def test_after_is_measured_on_the_answers_of_before():
    sets = {name: prompts(name, 4) for name in ("harmful", "harmless", "scary")}
    tokenizer = build_tokenizer(text for rows in sets.values() for text in rows.texts)
    model = build_chat_model(tokenizer)
    before = evaluate(model, tokenizer, **sets, max_new_tokens=5)
    with torch.no_grad():
        model.model.layers[1].self_attn.o_proj.weight.mul_(-1)
    after = evaluate(model, tokenizer, **sets, max_new_tokens=5, own_answers=before.own_answers)
    change = compare(before, after)
    assert change["nll"]["n"] == len(before.own_answers) > 0
    assert change["nll"]["difference"] == pytest.approx(after.mean_nll - before.mean_nll)
    assert change["nll"]["difference"] > 0
    assert change["same_answers"]["value"] < 1


def test_refusals_and_empty_answers_are_no_own_answers(monkeypatch):
    given = [NO, YES, NO, "", YES, YES]  # 2 harmful, 3 harmless, 1 scary
    monkeypatch.setattr(module, "answers", lambda *_, **__: list(given))
    monkeypatch.setattr(module, "answer_nll", lambda _, __, kept, *___, **____: [0.5] * len(kept))
    sets = {name: prompts(name, n) for name, n in (("harmful", 2), ("harmless", 3), ("scary", 1))}
    found = evaluate(None, None, **sets)
    assert found.own_answers == ((sets["harmless"].texts[2], YES),)
    assert found.refusal == Rate(1, 2)
    assert found.over_refusal == Rate(1, 3)
    assert found.scary_refusal == Rate(0, 1)


def test_empty_set_is_refused():
    empty = replace(prompts("scary", 1), rows=())
    with pytest.raises(UsageError, match="at least one scary prompt"):
        evaluate(
            None, None, harmful=prompts("harmful", 1), harmless=prompts("harmless", 1), scary=empty
        )


def test_receipt_names_everything_and_has_a_canonical_form():
    receipt = evaluation(harmful="nnyn").to_dict()
    assert receipt["scorer"] == SCORER
    assert receipt["harmful"]["prompts"] == prompts("harmful", 4).describe()
    assert receipt["harmful"]["rate"]["successes"] == 3
    assert sum(form["n"] for form in receipt["harmful"]["forms"].values()) == 4
    assert receipt["utility"]["mean_nll"] == pytest.approx(0.6)
    assert receipt["utility"]["n"] == 2
    assert YES.encode() not in canonical_json(receipt)


def test_compare_counts_lost_and_gained_refusals():
    change = compare(evaluation("nnnnyyyy"), evaluation("nyyynyyy"))["harmful"]
    assert (change["before"]["successes"], change["after"]["successes"]) == (4, 2)
    assert change["difference"] == -0.25
    assert (change["only_before"], change["only_after"]) == (3, 1)
    assert change["p"] == mcnemar_exact(3, 1)


def test_compare_shows_what_one_form_lost_behind_an_equal_total():
    forms = [row.form for row in prompts("harmful", 8).rows]
    before = "".join("n" if form == "question" else "y" for form in forms)
    after = "".join("y" if form == "question" else "n" for form in forms)
    change = compare(evaluation(before), evaluation(after))["harmful"]
    assert change["forms"]["question"]["only_before"] == forms.count("question")
    assert change["forms"]["imperative"]["only_after"] == forms.count("imperative")
    assert change["forms"]["question"]["after"]["value"] == 0


def test_compare_gives_the_paired_interval_of_the_likelihood():
    change = compare(evaluation(nll=(0.5, 0.7)), evaluation(nll=(0.6, 1.0)))["nll"]
    interval = bootstrap_mean_difference((0.5, 0.7), (0.6, 1.0))
    assert change["difference"] == pytest.approx(0.2)
    assert (change["low"], change["high"]) == (interval.low, interval.high)


def test_compare_without_likelihoods_says_none():
    assert compare(evaluation(nll=()), evaluation(nll=()))["nll"] is None
    assert evaluation(nll=()).mean_nll is None


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (evaluation("nnn"), "one harmful set"),
        (evaluation(scorer="opening/0"), "one scorer"),
        (evaluation(max_new_tokens=16), "one max_new_tokens"),
        (evaluation(system="Be kind."), "one system"),
        (evaluation(nll=(0.5,)), "the same answers"),
    ],
)
def test_compare_refuses_what_was_asked_in_another_way(other, named):
    with pytest.raises(UsageError, match=named):
        compare(evaluation(), other)
