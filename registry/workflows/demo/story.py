"""The demo: aligned base -> fine-tune loses it -> registry gives it back, measured all along.

Everything is real: the model, the two trainings, the registry, the load. Prompts that figures are
reported on were used for nothing else. What does not beat a random control is said not to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from registry.artifact.bundle import write_bundle
from registry.errors import BaseModelMismatchError, VerificationError
from registry.kinds import kind_of, parse_body
from registry.measure.evaluate import compare
from registry.measure.scorer import SCORER
from registry.settings import Settings
from registry.workflows import bases, make
from registry.workflows.audit import audit
from registry.workflows.demo import models, table
from registry.workflows.demo.stage import Stage
from registry.workflows.load import load_protected
from registry.workflows.open_model import open_model, open_tokenizer
from registry.workflows.publish import publish

if TYPE_CHECKING:
    from pathlib import Path

    from registry.store.catalog import Registry
    from registry.workflows.demo.stage import Progress, Say
    from registry.workflows.identify import Identified

KIND, LINE, VERSION = "safety-lock", "demo-lock", "1.0"
_BUG = "This installation does not do what it says; do not rely on it. Run its tests: make test"


def run(
    out: Path, *, model: str | None, full: bool, seed: int, say: Say, progress: Progress
) -> int:
    """Tell the story below ``out`` and return 0; finished models there are used again.

    Args:
        out: Folder for the registry and the models; left for the user to explore.
        model: Path or Hub id of a chat model; SmolLM2-135M-Instruct by default.
        full: Measure on all prompts of the report split, with longer answers.
        seed: Seed of every random choice.
        say: Where lines of the story go.
        progress: Called with (stage, done, all).
    """
    from registry.store.catalog import Registry

    out.mkdir(parents=True, exist_ok=True)
    settings = Settings.load(str(out / "registry.db"))
    story = Stage(out, settings, seed, full, say, progress)
    with Registry.create(settings=settings) as registry:
        source = models.source(story, model)
        base = models.aligned(story, source)
        _publish_lock(story, registry, base)
        tuned = models.fine_tuned(story, base)
        _load_and_measure(story, registry, base, tuned)
        impostor = _refuse_impostor(story, registry, base)
        _audit(story, registry, [base.locator, tuned.locator, impostor])
    story.title("done")
    say(table.epilogue(out, tuned.locator))
    return 0


def _publish_lock(story: Stage, registry: Registry, base: Identified) -> None:
    """Register the base, make a lock from it, calibrate and publish it."""
    label = f"{LINE}@{VERSION}"
    if any(line.name == LINE for line in registry.lines()):
        story.say(f"  {label} is published already")
        return
    story.title("Register the base, extract a safety lock from it, calibrate and publish it")
    entry = bases.add_base(registry, base, "demo-base")
    loaded, tokenizer = open_model(base), open_tokenizer(base)
    kind = kind_of(KIND)
    bundle = make.extract(
        KIND, base, loaded, tokenizer, base_name=entry.name, seed=story.seed,
        options={option.name: option.default for option in kind.options}, progress=story.progress,
    )  # fmt: skip
    body = parse_body(bundle)
    story.say(
        f"  {len(body.heads)} heads in layers {body.layers[0]} to {body.layers[-1]}, held-out "
        f"probe accuracy {min(body.probe['accuracy']):.2f} to {max(body.probe['accuracy']):.2f}"
    )
    bundle = make.calibrate(
        bundle, base, loaded, tokenizer, budget=kind.verb("extract").Budget(), seed=story.seed,
        limit=None if story.full else 24, max_new_tokens=40 if story.full else 16,
        grid=None if story.full else (1.0, 1.5, 2.0, 2.5, 3.0, 4.0), progress=story.progress,
    )  # fmt: skip
    story.say(table.sweep(bundle.manifest.receipts[-1]))
    folder = write_bundle(bundle, story.out / "bundles" / f"{LINE}-{VERSION}")
    done = publish(registry, folder, name=LINE, version=VERSION)
    story.say(f"  published {done.version.label}  {done.version.digest}")


def _load_and_measure(
    story: Stage, registry: Registry, base: Identified, tuned: Identified
) -> None:
    """Load the fine-tune protected, and measure it beside the base, itself and a control."""
    story.title(f"load_protected({tuned.locator!r})")
    model = load_protected(tuned.locator, registry=registry)
    report: Any = model.safelatch
    applied = report.applied[0]
    story.say(
        f"  base {report.base}, distance {report.lineage['distance']:.4f}; {applied.label} at "
        f"alpha {applied.alpha:g}\n  applied {applied.applied_at}, verified {applied.verified_at} "
        f"on {applied.evidence['modules']} modules"
    )
    tokenizer = open_tokenizer(tuned)
    reference = open_model(base)
    aligned = story.measure("base", reference, tokenizer)
    locked = story.measure("protected fine-tune", model, tokenizer, aligned.own_answers)
    _show_tamper(story, model, applied)
    applied.undo()
    plain = story.measure("fine-tune", model, tokenizer, aligned.own_answers)
    kind = kind_of(KIND)
    control = kind.verb("extract").random_control(applied.body, story.seed)
    handle = kind.verb("apply").apply(
        model, control, owner="random control", alpha=applied.alpha, allow_unsafe=True
    )
    random = story.measure("random control", model, tokenizer, aligned.own_answers)
    kind.verb("apply").undo(model, handle)
    rows = {
        "base (aligned)": aligned,
        "fine-tune": plain,
        "fine-tune, protected": locked,
        "fine-tune, random lock": random,
    }
    story.title("What was measured, on prompts used for nothing else")
    story.say(table.measurements(rows, scorer=SCORER))
    story.say(table.verdict(compare(random, locked), compare(plain, locked)))


def _show_tamper(story: Stage, model: Any, applied: Any) -> None:
    """Zero one bias behind the registry's back, and let ``verify`` find it."""
    name, module = next(
        (name, module) for name, module in model.named_modules()
        if name.endswith("o_proj") and module.bias is not None
    )  # fmt: skip
    kept = module.bias.detach().clone()
    module.bias.data.zero_()
    try:
        applied.verify()
    except VerificationError as error:
        finding = error.message.splitlines()[1].strip()
        story.say(f"  zeroed one bias behind its back; verify(): {finding}")
    else:
        raise VerificationError(
            f"{name}.bias: expected verify() to notice that it was zeroed, it did not.", hint=_BUG
        )
    module.bias.data.copy_(kept)
    applied.verify()


def _refuse_impostor(story: Stage, registry: Registry, base: Identified) -> str:
    """Save a model of the same shapes with other weights, and see it refused."""
    import torch
    from transformers import AutoModelForCausalLM

    story.title("A model of the same shapes with other weights asks for the same lock")
    folder = story.out / "models" / "impostor"
    if not folder.is_dir():
        torch.manual_seed(story.seed)
        original: Any = open_model(base)
        impostor = AutoModelForCausalLM.from_config(original.config, dtype=original.dtype)
        models.save_model(impostor, open_tokenizer(base), folder)
    try:
        load_protected(str(folder), artifacts=[f"{LINE}@{VERSION}"], registry=registry)
    except BaseModelMismatchError as error:
        story.say(f"  refused [{error.code}]: {error.message}")
    else:
        raise VerificationError(f"expected {folder} to be refused, it was loaded.", hint=_BUG)
    return str(folder)


def _audit(story: Stage, registry: Registry, targets: list[str]) -> None:
    story.title("Which of these models carry protection?")
    rows = audit(registry, targets, settings=story.settings)
    story.say(table.audit(rows))
