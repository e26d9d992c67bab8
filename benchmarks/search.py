"""Finding one base model among 10,000 of one geometry, by what is known of it, in one run.

    python benchmarks/search.py [--bases 10000] [--rounds 20] [--db postgresql://HOST/EMPTY]

What is real: every row, index, alias and probe; and nine records of the shapes of Llama-3-8B, a
model and eight fine-tunes of it, whose files lie in the registry and are read, checked and judged.
The other bases have probes of random numbers, as unrelated models have, and the first record's file
in place of their own: no search by probe comes to read it. Judging every base one by one is not
run: it is the time of nine records in the page cache, multiplied. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import platform
import statistics
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sqlalchemy import insert, select

from registry.artifact.tensors import write_payloads
from registry.checkpoint.config import computation_fields, config_digest
from registry.checkpoint.geometry import read_geometry
from registry.checkpoint.probe import COUNT, probe
from registry.checkpoint.record import BaseRecord, Entry, entries_json
from registry.checkpoint.sketch import extent
from registry.digest import Digest, digest_bytes
from registry.errors import BaseNotFoundError
from registry.settings import Settings
from registry.store import migrate, session
from registry.store.catalog import Registry
from registry.store.tables import aliases, bases, checkpoints, reports
from registry.workflows.bases import descents, judged

if TYPE_CHECKING:
    from collections.abc import Callable

    from registry.store.values import Base

LAYERS, HIDDEN, WIDE, HEADS, GROUPS, VOCABULARY = 32, 4096, 14336, 32, 8, 128_256
CONFIG = {
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": WIDE,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": GROUPS,
    "vocab_size": VOCABULARY,
    "tie_word_embeddings": False,
}
FINE_TUNES, ALIASES, REPORTS = 8, 5, 10  # aliases of a base, reports of a checkpoint
DEVIATION = 0.02
NOON = dt.datetime(2030, 1, 1, 12, tzinfo=dt.timezone.utc)
DIGEST, ALIAS = "one base, by its digest", "one base, by an alias"
PREFIX, MISSING = (
    "one base, by 8 digits of its digest",
    "a name that is not there, and the near ones",
)
REPORTS_OF, EVERY = "the reports of a checkpoint", "every base, with its aliases"
PROBE, LIMIT = "the nearest by probe", "  the same as one numpy scan (the limit)"
SEARCH, ONE = "the nearest by probe, each judged", "one record, read and judged"


def shapes() -> dict[str, tuple[int, ...]]:
    """Return the tensors of a Llama of 8 billion weights."""
    narrow = HIDDEN // HEADS * GROUPS
    found: dict[str, tuple[int, ...]] = {
        "lm_head.weight": (VOCABULARY, HIDDEN),
        "model.embed_tokens.weight": (VOCABULARY, HIDDEN),
        "model.norm.weight": (HIDDEN,),
    }
    for layer in range(LAYERS):
        for name, shape in {
            "input_layernorm": (HIDDEN,),
            "post_attention_layernorm": (HIDDEN,),
            "self_attn.q_proj": (HIDDEN, HIDDEN),
            "self_attn.k_proj": (narrow, HIDDEN),
            "self_attn.v_proj": (narrow, HIDDEN),
            "self_attn.o_proj": (HIDDEN, HIDDEN),
            "mlp.gate_proj": (WIDE, HIDDEN),
            "mlp.up_proj": (WIDE, HIDDEN),
            "mlp.down_proj": (HIDDEN, WIDE),
        }.items():
            found[f"model.layers.{layer}.{name}.weight"] = shape
    return dict(sorted(found.items()))


def digest_of(tag: str) -> Digest:
    return digest_bytes(tag.encode())


def make_record(tag: str, parts: list[tuple[float, int]]) -> BaseRecord:
    """Return a record whose weights are the sum of normal numbers: (relative size, seed) each."""
    wanted = shapes()
    generators = [(size, np.random.default_rng(seed)) for size, seed in parts]
    entries, samples = [], {}
    for name, shape in wanted.items():
        count = extent(shape).count
        values = sum(
            size * DEVIATION * random.standard_normal(count) for size, random in generators
        )
        samples[name] = (np.asarray(values, "<f4").view("<u4") >> 16).astype("<u2").tobytes()
        data = samples[name] if extent(shape).is_whole else f"{tag} {name}".encode()
        entries.append(Entry(name, "BF16", shape, digest_bytes(data)))
    geometry = read_geometry(wanted, CONFIG)
    fields = computation_fields(CONFIG, geometry)
    return BaseRecord(
        weights=digest_bytes(entries_json(tuple(entries))),
        entries=tuple(entries),
        samples=samples,
        config=fields,
        config_digest=config_digest(fields),
        tokenizer=None,
        chat_template=None,
        geometry=geometry,
    )


def fill(settings: Settings, first: Base, count: int) -> None:
    """Add ``count`` bases like ``first`` with probes of their own, their aliases and reports."""
    random = np.random.default_rng(1000)
    engine = session.connect(settings)
    with session.write(engine) as connection:
        row = connection.execute(select(bases).where(bases.c.weights == first.weights)).one()
        shared = {name: value for name, value in row._asdict().items() if name != "id"}
        rows, named, seen, told = [], [], [], []
        for number in range(1000, 1000 + count):
            probed = (DEVIATION * random.standard_normal(COUNT)).astype("<f4").tobytes()
            own = {"weights": digest_of(f"base {number}"), "name": f"organisation/model-{number}"}
            rows.append(shared | own | {"id": number, "probe": probed})
            named += [
                {"base_id": number, "scheme": "path", "value": f"/models/{number}/{place}",
                 "created_at": NOON}
                for place in range(ALIASES)
            ]  # fmt: skip
            seen.append(
                {"id": number, "weights": digest_of(f"child {number}"), "base_id": number,
                 "relation": "derived", "evidence_level": 3, "distance": 0.01,
                 "first_seen": NOON, "last_seen": NOON}
            )  # fmt: skip
            told += [
                {"checkpoint_id": number, "kind": "lineage", "verdict": "derived",
                 "body": "{}", "tool_version": "0", "created_at": NOON}
                for _ in range(REPORTS)
            ]  # fmt: skip
        for table, content in (
            (bases, rows),
            (aliases, named),
            (checkpoints, seen),
            (reports, told),
        ):
            connection.execute(insert(table), content)
    engine.dispose()


def miss(registry: Registry) -> None:
    try:
        registry.base("organization/model-10x0")
    except BaseNotFoundError:
        return


def kinds_of_work(
    registry: Registry, child: BaseRecord, known: list[Base], probes: list[bytes]
) -> dict[str, Callable[[], Any]]:
    """Return what is measured, by name."""
    weights, wanted = digest_of("base 1500"), np.frombuffer(probe(child) or b"", "<f4")
    matrix = np.frombuffer(b"".join(probes), "<f4").reshape(len(probes), COUNT)

    def scan() -> Any:
        change = matrix - wanted
        return np.argpartition(np.einsum("ij,ij->i", change, change), FINE_TUNES)

    return {
        DIGEST: lambda: registry.base(weights),
        ALIAS: lambda: registry.base("/models/1500/3"),
        PREFIX: lambda: registry.base(weights[7:15]),
        MISSING: lambda: miss(registry),
        REPORTS_OF: lambda: registry.reports(digest_of("child 1500"), "lineage"),
        EVERY: registry.bases,
        PROBE: lambda: registry.bases_near(child),
        LIMIT: scan,
        SEARCH: lambda: descents(registry, child),
        ONE: lambda: [judged(registry, base, child) for base in known],
    }


def machine() -> str:
    """Return what a number is worth only together with."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("sqlalchemy", "numpy"))
    now = dt.datetime.now(dt.timezone.utc)
    return f"{os.cpu_count()} cores; Python {platform.python_version()}, {packages}; {now:%F}"


def prepare(settings: Settings, count: int) -> tuple[BaseRecord, list[Base]]:
    """Make the registry; return a fine-tune that it does not hold and the bases that are whole."""
    engine = session.connect(settings, create=True)
    migrate.upgrade(engine)
    engine.dispose()
    with Registry.open(settings=settings) as registry:
        known = []
        for number in range(1 + FINE_TUNES):
            name = f"fine-tune-{number}" if number else "original"
            record = make_record(name, [(1.0, 0), (0.01 * number, number)])
            payload = write_payloads(record.to_tensors())
            known.append(registry.add_base(name, record, payload, [("hub", f"org/{name}")]))
    fill(settings, known[0], count - len(known))
    return make_record("child", [(1.0, 0), (0.04, 4), (0.005, 99)]), known


def report(times: dict[str, list[float]], count: int, judgements: int, found: int) -> None:
    times[ONE] = [taken / judgements for taken in times[ONE]]
    print(f"{'':46} {'best':>10} {'median':>10} {'slowest':>10}")
    for name, taken in times.items():
        row = (min(taken), statistics.median(taken), max(taken))
        print(f"{name:46}" + "".join(f" {1e3 * value:7.2f} ms" for value in row))
    one_by_one = count * min(times[ONE])
    print(f"{'every record, judged one by one (multiplied)':46} {one_by_one:8.0f} s")
    search, probed = min(times[SEARCH]), min(times[PROBE])
    print(
        f"\nThe search, with {found} records judged, takes 1/{one_by_one / search:.0f} of judging "
        f"every record;\nits part by probe {probed / min(times[LIMIT]):.0f} times "
        f"the numpy scan. Ratios of the best rounds; load average now {os.getloadavg()[0]:.1f}."
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--bases", type=int, default=10_000, help="1,000 or more")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--db", help="an empty database on a server; by default a SQLite file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = arguments.db or str(Path(folder) / "registry.db")
        environ = {"SAFELATCH_BLOBS": f"{folder}/blobs", "SAFELATCH_CACHE": folder}
        settings = Settings.load(url, environ=environ)
        child, known = prepare(settings, arguments.bases)
        with Registry.open(settings=settings) as registry:
            engine = session.connect(settings)
            with session.read(engine) as connection:
                probes = list(connection.scalars(select(bases.c.probe)))
            engine.dispose()
            work = kinds_of_work(registry, child, known, probes)
            times: dict[str, list[float]] = {name: [] for name in work}
            for _ in range(arguments.rounds):
                for name, run in work.items():
                    start = time.perf_counter()
                    run()
                    times[name].append(time.perf_counter() - start)
            found = descents(registry, child)
            size = statistics.mean(len(registry.base_record_bytes(base)) for base in known) / 1e6
            print(f"{registry.base_count():,} bases in {settings.db_url.partition(':')[0]}, "
                  f"{ALIASES * arguments.bases:,} aliases, {REPORTS * arguments.bases:,} reports; "
                  f"records of {size:.1f} MB; {machine()}\n")  # fmt: skip
            report(times, arguments.bases, len(known), len(found))
            print(f"Nearest: {found[0].base.name}, at {found[0].lineage.distance:.4f}.")


if __name__ == "__main__":
    main()
