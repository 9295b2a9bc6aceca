"""The pictures of the README, from the pages of two runs: python -m tests.browser.screenshots QUICKSTART WALK

QUICKSTART is a run with a `report.html`; WALK a folder with a `tree.html`. Writes `recipes/report.png` and
`recipes/viewer.png`; equal pages give equal pictures on one machine.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from pathlib import Path

from tests.browser.chrome import chrome, resize

REPLAY = """
const right = data.rollouts.findIndex((r) => nodes[r.leaf].verdict === "correct");
const at = right < 0 ? ways.length : right + 1, way = ways[at - 1];
goTo(at);
choose(way.slice(0, -1).find((id) => choice(id, at).length > 1) ?? way[0]);
"""
"""Shows the rollout that came to a right answer, at the first step where it had a choice."""
COLOURS = 256
"""Of a picture: text on plain ground needs no more, and the file is a third."""


def small_png(png: bytes) -> bytes:
    """A picture with a palette instead of true colours."""
    from PIL import Image

    picture = io.BytesIO()
    drawn = Image.open(io.BytesIO(png)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    drawn.save(picture, "png", optimize=True)
    return picture.getvalue()


def take(report: Path, tree: Path, folder: Path) -> list[Path]:
    """Take the pictures of a report and of a search tree.

    Returns:
        The files, in this order.
    """
    taken = []
    with tempfile.TemporaryDirectory() as profile, chrome(Path(profile)) as browser:
        for page, name, size, script in (
            (report, "report.png", (1160, 800), ""),
            (tree, "viewer.png", (1160, 720), REPLAY),
        ):
            resize(browser, *size)
            browser.get(page.resolve().as_uri())
            browser.execute_script(script)  # type: ignore[no-untyped-call]
            taken.append(folder / name)
            taken[-1].write_bytes(small_png(browser.get_screenshot_as_png()))
    return taken


def main() -> None:
    """Take both pictures of the README."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("quickstart", type=Path, help="a run with a report.html")
    parser.add_argument("walk", type=Path, help="a folder with a tree.html")
    asked = parser.parse_args()
    for path in take(asked.quickstart / "report.html", asked.walk / "tree.html", Path("recipes")):
        print(f"wrote {path} ({path.stat().st_size:,} bytes)", file=sys.stderr)


if __name__ == "__main__":
    main()
