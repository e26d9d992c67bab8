"""The card: what it says, what it must not let others say, and one golden card.

The golden card is of a planted lock whose receipts a real calibration wrote. After a wanted change
of the text: ``python tests/unit/report/test_card.py``; with ``lock`` it makes the lock anew too.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from registry import __version__
from registry.artifact.bundle import Bundle, make_bundle, read_bundle, write_bundle
from registry.artifact.line import Line, first_line
from registry.artifact.manifest import BaseIdentity, Manifest
from registry.artifact.presentation import Grid, Presentation, Share, Verbatim
from registry.digest import digest_bytes
from registry.kinds import present
from registry.report.card import card

GOLDEN = Path(__file__).parents[2] / "golden" / "card"
WHEN = "2030-01-01T00:00:00Z"
KEY = "ed25519:" + "3b" * 32
URL = "hf://acme/base-lock"
DIGEST = digest_bytes(b"something")


def make_golden_lock(folder: Path) -> None:
    """Write the planted lock: extracted and calibrated, as a publisher would."""
    from support.locks import bundle_of, read_record
    from support.planted import LEVELS, build_planted, planted_pairs, planted_prompts

    from registry.kinds.safety_lock.extract import Budget, calibrate, extract

    planted = build_planted(LEVELS)
    options = {"heads": 4, "answer_tokens": 5, "folds": 3, "repeats": 1}
    body = extract(planted.model, planted.tokenizer, planted_pairs(), seed=0, options=options).body
    made = calibrate(
        planted.model, planted.tokenizer, body, budget=Budget(0.2, 5.0), seed=0, max_new_tokens=8,
        harmful=planted_prompts("harmful", (4, 5, 6, 7, 8, 9)),
        harmless=planted_prompts("harmless", (0, 0, 0, 1)),
        scary=planted_prompts("scary", (0, 1, 1, 2)),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        record = read_record(planted.save(Path(scratch) / "base"))
        receipts = ({"type": "calibration", "created": WHEN, **made.receipt},)
        draft = bundle_of(record, made.body, receipts=receipts, license="Apache-2.0").manifest
    draft = replace(draft, base=replace(draft.base, name="acme/planted-base"))
    nothing = {"nothing": np.zeros(1, dtype=np.uint8)}  # a card needs no record of the base
    bundle = make_bundle(draft, made.body.to_tensors(), nothing)
    shutil.rmtree(folder, ignore_errors=True)
    write_bundle(bundle.named("planted-lock", "1.1"), folder)


def golden_lock() -> Bundle:
    return read_bundle(GOLDEN / "lock")


def golden_line(bundle: Bundle) -> Line:
    line = first_line(bundle.manifest.named("planted-lock", "1.0"), created=WHEN, expires=None)
    line = line.with_state("1.0", "yanked", "refuses too much", created=WHEN, expires=None)
    return line.with_version("1.1", bundle.manifest.digest, created=WHEN, expires=None)


def golden_card() -> str:
    bundle = golden_lock()
    text = card(
        golden_line(bundle), {"1.1": bundle.manifest}, url=URL, signers=[KEY],
        images={"calibration": "plots/calibration.png"}, shown=present(bundle),
    )  # fmt: skip
    return text.replace(f"Safelatch {__version__}", "Safelatch VERSION")


def golden_card_of(kind: str, *images: str) -> str:
    bundle = read_bundle(GOLDEN.with_name("v2") / kind)
    line = first_line(bundle.manifest, created=WHEN, expires=None)
    text = card(
        line, {"1.0": bundle.manifest}, url="hf://acme/base-layers", signers=[KEY],
        images={name: f"plots/{name}.png" for name in images}, shown=present(bundle),
    )  # fmt: skip
    return text.replace(f"Safelatch {__version__}", "Safelatch VERSION")


def golden_card_of_layers() -> str:
    return golden_card_of("safety-layers", "curves", "sweep")


def golden_card_of_a_mask() -> str:
    return golden_card_of("esi-mask", "layers", "components")


def a_manifest(**changes: Any) -> Manifest:
    manifest = Manifest(
        kind="safety-lock", created=WHEN, name="a-lock", version="1.0",
        base=BaseIdentity("acme/base", DIGEST, DIGEST, None, None),
        geometry={"family": "llama", "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 8,
                  "hidden_size": 32},
        body={"schema": "s"}, files={}, provenance={"tool": {}, "seed": 0, "data": []},
    )  # fmt: skip
    return replace(manifest, **changes)


def card_of(manifest: Manifest, **changes: Any) -> str:
    line = first_line(manifest, created=WHEN, expires=None)
    arguments: dict[str, Any] = {"url": URL, "signers": [KEY], "images": {}} | changes
    return card(line, {str(manifest.version): manifest}, **arguments)


def parts(text: str) -> tuple[Any, str]:
    """Return the front matter as YAML reads it, and the body as HTML."""
    empty, matter, body = text.split("---\n", 2)
    assert not empty
    return yaml.safe_load(matter), MarkdownIt("commonmark").enable("table").render(body)


class Seen(HTMLParser):
    """What a page is made of: tags with their attributes, and the text outside of code."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, tuple[tuple[str, str | None], ...]]] = []
        self.prose: list[str] = []
        self.code: list[str] = []
        self._depth = 0
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(attrs)))
        self._depth += tag == "code"

    def handle_endtag(self, tag: str) -> None:
        self._depth -= tag == "code"

    def handle_data(self, data: str) -> None:
        (self.code if self._depth else self.prose).append(data)


def test_golden_card_of_a_planted_lock() -> None:
    assert golden_card() == (GOLDEN / "README.md").read_text("utf-8")


def test_the_golden_card_of_safety_layers() -> None:
    assert golden_card_of_layers() == (GOLDEN / "README.safety-layers.md").read_text("utf-8")


def test_the_golden_card_of_an_esi_mask() -> None:
    assert golden_card_of_a_mask() == (GOLDEN / "README.esi-mask.md").read_text("utf-8")


def test_front_matter_is_what_the_hub_reads() -> None:
    matter, _ = parts(card_of(a_manifest(license="Apache-2.0")))
    assert matter == {
        "base_model": "acme/base",
        "base_model_relation": "adapter",
        "library_name": "safelatch",
        "tags": ["safelatch", "safety-lock"],
        "license": "apache-2.0",
    }


@pytest.mark.parametrize("name", ["my base", "base", "a/b/c", "../x", "https://x.org/a"])
def test_a_base_that_is_no_hub_id_is_not_declared_as_one(name: str) -> None:
    base = replace(a_manifest().base, name=name)
    matter, _ = parts(card_of(a_manifest(base=base)))
    assert set(matter) == {"library_name", "tags"}


@pytest.mark.parametrize(
    ("said", "members"),
    [
        (None, {}),
        ("MIT", {"license": "mit"}),
        ("other", {"license": "other"}),
        ("GPL-3.0-or-later", {"license": "other", "license_name": "gpl-3.0-or-later"}),
        ("Acme: [ours] #1\n", {"license": "other", "license_name": "acme-ours-1"}),
        ("許可", {"license": "other"}),
    ],
)
def test_a_license_that_the_hub_does_not_know_is_another_one(
    said: str | None, members: dict[str, str]
) -> None:
    matter, _ = parts(card_of(a_manifest(license=said)))
    assert {name: matter[name] for name in matter if name.startswith("license")} == members


def test_the_line_to_copy_names_the_remote_and_asks_for_the_publishers_key() -> None:
    text = card_of(a_manifest())
    block = text.split("```python\n")[1].split("```")[0]
    assert block == (
        "from registry import load_protected\n\nmodel = load_protected(\n"
        '    "path/to/your-fine-tune",\n    artifacts=["hf://acme/base-lock"],\n'
        '    trust="publisher.pub",\n)\n'
    )
    assert f"- `{KEY}`" in text
    assert "**A key printed beside what it signed proves nothing.**" in text


def test_a_line_that_nobody_signed_is_called_so_and_asks_for_no_key() -> None:
    text = card_of(a_manifest(), signers=[])
    assert "**Nobody signed this line.**" in text
    assert "publisher.pub" not in text
    assert "signed files" not in text


def test_a_folder_as_remote_is_one_text_in_the_code_to_copy() -> None:
    url = "file:///tmp/a%22%29%3Bprint%28%22x%60"
    compile(card_of(a_manifest(), url=url).split("```python\n")[1].split("```")[0], "card", "exec")


def test_a_line_without_an_active_version_says_so_and_shows_no_way_to_use_it() -> None:
    line = first_line(a_manifest(), created=WHEN, expires=None)
    line = line.with_state("1.0", "revoked", "leaked", created=WHEN, expires=None)
    text = card(line, {}, url=URL, signers=[KEY], images={})
    assert line.newest_active is None
    assert "**No version of this line is active.**" in text
    assert "load_protected" not in text
    assert "| `1.0` | revoked | `leaked` |" in text


@pytest.mark.parametrize(
    ("states", "newest"),
    [
        ({"1.0": "active", "1.10": "active", "1.9": "active"}, "1.10"),
        ({"1.0": "active", "2.0": "yanked", "2.1rc1": "active"}, "1.0"),
        ({"2.0": "revoked", "2.1rc1": "active"}, "2.1rc1"),
    ],
)
def test_the_newest_version_is_the_one_that_a_load_gets(
    states: dict[str, Any], newest: str
) -> None:
    line = first_line(a_manifest(), created=WHEN, expires=None)
    entries = {
        version: replace(line.versions["1.0"], state=state) for version, state in states.items()
    }
    assert replace(line, versions=entries).newest_active == newest


def test_versions_are_listed_newest_first_and_the_oldest_of_many_are_counted() -> None:
    line = first_line(a_manifest(), created=WHEN, expires=None)
    versions = {f"1.{n}": line.versions["1.0"] for n in range(53)}
    text = card(
        replace(line, versions=versions), {"1.52": a_manifest(version="1.52")},
        url=URL, signers=[], images={},
    )  # fmt: skip
    assert text.index("| `1.52` |") < text.index("| `1.9` |")
    assert "and 3 older ones" in text
    assert "| `1.2` |" not in text


def test_counts_and_intervals_stand_in_the_table_as_they_are() -> None:
    shown = Presentation(
        method="m", paper=("p", None),
        grids=(Grid("What", "how", ("set", "x"), (("a", Share(2, 3, 0.2, 0.9)), ("b", None))),),
    )  # fmt: skip
    text = card_of(a_manifest(), shown=shown)
    assert "| a | **67%** (2 of 3) [20, 90] |\n| b | - |" in text


def test_without_images_and_without_a_presentation_there_is_still_a_card() -> None:
    assert "![" not in card_of(a_manifest(), shown=present(golden_lock()))
    assert "## Versions" in card_of(a_manifest())


HOSTILE = [
    "<script>alert(1)</script>",
    "[x](https://evil.example)",
    "![x](https://evil.example/a.png)",
    "https://evil.example www.evil.example a@evil.example @somebody #1",
    "` [x](https://evil.example) `",
    "``` \n# title\n",
    "a | b | <b>c</b>",
    "a\\| b `| c",
    "'\"><img src=x onerror=alert(1)>",
    "---\npipeline_tag: x\n---",
    '"\npipeline_tag: text-generation\n#',
    "\u202eevil",
    "$$x$$ \\(y\\)",
    "&lt;b&gt; &#60;b&#62;",
    "[link]: https://evil.example",
    "",
    "   ",
]


def full_of(text: str, license_: str | None = None) -> tuple[Line, Manifest, Presentation]:
    """Return a line, a manifest and a presentation that hold ``text`` wherever a text can be."""
    manifest = a_manifest(
        base=BaseIdentity(text, DIGEST, DIGEST, None, None),
        license=license_,
        provenance={
            "tool": {text: text},
            "seed": 0,
            "data": [{"name": text, "digest": text, "rows": 1, "split": text, "version": text}],
            "dtype": text,
            "device": [text],
            "options": {text: text},
            "imported": {text: [text]},
        },
    )
    line = first_line(manifest, created=WHEN, expires=None).with_version(
        "2.0", manifest.digest, created=WHEN, expires=None
    )
    line = line.with_state("1.0", "yanked", text, created=WHEN, expires=None)
    shown = Presentation(
        method="m", paper=("p", None), facts=(("f", Verbatim(text)),),
        grids=(Grid("t", ("l", Verbatim(text)), ("c",), ((Verbatim(text),),),
                    (("n", Verbatim(text)),)),),
        limits=(("l", Verbatim(text)),), refusals=((Verbatim(text),),),
    )  # fmt: skip
    return line, replace(manifest, version="2.0"), shown


def structure(text: str) -> Seen:
    line, manifest, shown = full_of(text, text)
    made = card(line, {"2.0": manifest}, url=URL, signers=[text], images={}, shown=shown)
    matter, page = parts(made)
    assert set(matter) <= {
        "base_model", "base_model_relation", "library_name", "tags", "license", "license_name",
    }  # fmt: skip
    return Seen(page)


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_of_a_manifest_becomes_markup(text: str) -> None:
    seen, harmless = structure(text), structure("harmless")
    assert seen.tags == harmless.tags
    assert seen.prose == harmless.prose


@settings(max_examples=150, deadline=None)
@given(st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=40))
def test_any_text_stays_in_its_code(text: str) -> None:
    seen, harmless = structure(text), structure("harmless")
    assert seen.tags == harmless.tags
    assert seen.prose == harmless.prose


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=("Cs",)), max_size=40), max_size=4))
def test_front_matter_gives_every_text_back(texts: list[str]) -> None:
    """Whatever a kind takes for a tag: quotes, line breaks, comments, characters beyond ASCII."""
    made = card_of(a_manifest(), shown=Presentation("m", ("p", None), tags=tuple(texts)))
    matter, _ = parts(made)
    assert matter["tags"] == list(dict.fromkeys(["safelatch", "safety-lock", *texts]))
    assert set(matter) == {"base_model", "base_model_relation", "library_name", "tags"}


def test_a_text_of_any_length_is_cut() -> None:
    line, manifest, shown = full_of("x" * 5000)
    made = card(line, {"2.0": manifest}, url=URL, signers=[], images={}, shown=shown)
    assert "x" * 297 + "..." in made
    assert "x" * 298 not in made


def test_the_kinds_own_words_are_not_markdown_either() -> None:
    shown = Presentation(method="W_o * <b> [x](y) `z`", paper=("p", None))
    _, page = parts(card_of(a_manifest(), shown=shown))
    assert ": W_o * &lt;b&gt; [x](y) `z`." in page


if __name__ == "__main__":
    if sys.argv[1:] == ["lock"]:
        make_golden_lock(GOLDEN / "lock")
    GOLDEN.mkdir(parents=True, exist_ok=True)
    (GOLDEN / "README.md").write_text(golden_card(), encoding="utf-8")
    (GOLDEN / "README.safety-layers.md").write_text(golden_card_of_layers(), encoding="utf-8")
    (GOLDEN / "README.esi-mask.md").write_text(golden_card_of_a_mask(), encoding="utf-8")
    print(json.dumps({"written": str(GOLDEN / "README.md")}))
