"""Every block that is marked `slow` or `quick` runs, page by page and in the order of the page: `make docs-test`."""

import shutil

import pytest

from tests.fixtures.pages import PAGES, ROOT, Session, blocks, named

DATA = ROOT.parent / "shared" / "data"
"""Real images, which are no part of the repository."""
BEFORE = {
    "docs/tutorial.md": f"python -m tests.docs.photographs {DATA} photos",
    "docs/corpus.md": f"python {DATA}/expand.py raw photos tiny_imagenet_50; mv raw/tiny_imagenet_50 raw/tiny",
}
"""What has to be there before the first block of a page."""

pytestmark = pytest.mark.timeout(3600)


@pytest.fixture
def session(tmp_path):
    made = Session(tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(block.marker == "slow" for block in blocks(page))], ids=named
)
def test_all_blocks_run(page, session):
    shown = [block for block in blocks(page) if block.marker in ("quick", "slow") or block.file]
    if any("jq " in block.body for block in shown) and shutil.which("jq") is None:
        pytest.skip("jq is not installed")
    before = BEFORE.get(named(page), "")
    if str(DATA) in before and not DATA.exists():
        pytest.skip(f"no photographs: {DATA} is not there")
    session.call(before, named(page))
    for block in shown:
        session.run(block)
