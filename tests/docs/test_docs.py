"""Every block of the README and of docs/ runs, and every link leads to a file."""

import re
from pathlib import Path

import pytest

from tests.docs.blocks import FENCE, Page, blocks

ROOT = Path(__file__).parents[2]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
}
LINK = re.compile(r"\]\((?!https?://|mailto:)([^)#\s]*)(?:#([^)\s]*))?\)")


@pytest.mark.parametrize("name", [name for name, text in PAGES.items() if any(b.runs for b in blocks(text))])
def test_the_blocks_of_a_page_run(name: str, page: Page) -> None:
    page.name = name
    with page:
        for block in blocks(PAGES[name]):
            page.run(block)


def slug(heading: str) -> str:
    """The anchor a heading gets: lower case, spaces as hyphens, punctuation gone."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("name", PAGES)
def test_the_links_of_a_page_lead_somewhere(name: str) -> None:
    for target, anchor in LINK.findall(FENCE.sub("", PAGES[name])):
        path = (ROOT / name).parent / target if target else ROOT / name
        assert path.exists(), f"{name}: {target} does not exist"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", FENCE.sub("", path.read_text(encoding="utf-8")), re.MULTILINE)
            assert anchor in map(slug, headings), f"{name}: {target} has no heading #{anchor}"
