"""Charts: the same bytes each time, nothing of the process changed, and none without matplotlib."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from registry.artifact.bundle import read_bundle
from registry.artifact.presentation import Chart, Panel, Point, Series
from registry.kinds import present
from registry.report.plots import _LOOKS, draw

GOLDEN = Path(__file__).parents[2] / "golden" / "card" / "lock"
ROOT = Path(__file__).parents[3]
DRAW = f"""
import hashlib, json, sys
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from registry.artifact.bundle import read_bundle
from registry.kinds import present
from registry.report.plots import draw
images = draw(present(read_bundle(Path({str(GOLDEN)!r}))).charts)
print(json.dumps({{
    "digests": images and {{name: hashlib.sha256(data).hexdigest() for name, data in images.items()}},
    "pyplot": "matplotlib.pyplot" in sys.modules,
}}))
"""


def drawn() -> dict[str, bytes]:
    images = draw(present(read_bundle(GOLDEN)).charts)
    assert images is not None
    return images


def chart(**changes: object) -> Chart:
    series = Series("one", (Point(0.0, 0.2, 0.1, 0.3), Point(1.0, 0.5)))
    given = {"name": "c", "title": "t", "described": "d", "x_label": "x",
             "panels": (Panel("y", (series,)),)}  # fmt: skip
    return Chart(**{**given, **changes})  # type: ignore[arg-type]


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def run(tmp_path: Path, code: str, **environment: str) -> dict[str, object]:
    clean = {"PATH": "/usr/bin", "HOME": str(tmp_path), "MPLCONFIGDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=clean | environment, cwd=tmp_path,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_a_lock_has_its_sweep_and_its_probes_drawn_wide_enough_for_a_page() -> None:
    images = drawn()
    assert set(images) == {"calibration", "probes"}
    for data in images.values():
        height, width, _ = pixels(data).shape
        assert width == 1400
        assert 700 <= height <= 1400


def test_the_same_bytes_each_time_whatever_the_users_own_style_and_backend(tmp_path: Path) -> None:
    style = tmp_path / "style" / "matplotlibrc"  # not where matplotlib looks by itself
    style.parent.mkdir()
    style.write_text("font.size: 30\nlines.linewidth: 9\nsavefig.facecolor: red\n")
    plain = run(tmp_path, DRAW)
    styled = run(tmp_path, DRAW, MATPLOTLIBRC=str(style), MPLBACKEND="svg")
    assert plain == styled
    assert plain["pyplot"] is False


def test_an_image_says_nothing_of_when_and_where_it_was_made() -> None:
    for data in drawn().values():
        assert set(Image.open(io.BytesIO(data)).info) == {"dpi"}


def test_no_setting_of_this_process_is_changed() -> None:
    before = dict(mpl.rcParams)
    drawn()
    assert dict(mpl.rcParams) == before


def test_without_matplotlib_there_are_no_images_and_no_error(tmp_path: Path) -> None:
    hidden = "import sys; sys.modules['matplotlib'] = None\n"
    assert run(tmp_path, hidden + DRAW) == {"digests": None, "pyplot": False}


def test_series_differ_in_marker_and_line_and_not_in_colour_alone() -> None:
    shapes = {(marker, line) for _, marker, line in _LOOKS}
    assert len(shapes) == len({colour for colour, _, _ in _LOOKS}) == len(_LOOKS) == 6


@pytest.mark.parametrize("text", ["$x$", "$\\frac{", "a$b", "_hidden"])
def test_no_text_is_taken_for_a_formula(text: str) -> None:
    series = Series(text, (Point(0.0, 0.5), Point(1.0, 0.5)))
    panel = Panel(text, (series, series), limit=(0.4, text))
    odd = chart(title=text, x_label=text, panels=(panel,), mark=(0.5, text), names=(text, text))
    assert draw([odd]) is not None


def test_of_many_names_every_second_or_third_is_written() -> None:
    points = tuple(Point(float(n), 0.5) for n in range(300))
    many = chart(
        panels=(Panel("y", (Series("s", points),), joined=False),),
        names=tuple(f"{n}:{n}" for n in range(300)),
    )
    assert draw([many]) is not None


@pytest.mark.parametrize("points", [(), (Point(0.0, 0.0),), (Point(5.0, 1.0, 1.0, 1.0),)])
def test_few_points_are_drawn_without_a_warning(points: tuple[Point, ...]) -> None:
    assert draw([chart(panels=(Panel("y", (Series("s", points),), limit=(0.1, "l")),))])


def test_an_interval_that_does_not_hold_its_point_is_drawn_up_to_it() -> None:
    assert draw([chart(panels=(Panel("y", (Series("s", (Point(0.0, 0.5, 0.6, 0.4),)),)),))])
