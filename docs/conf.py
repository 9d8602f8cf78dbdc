"""How Sphinx makes the site of docs/ and of the pages beside it that they link to; `make docs` builds it."""

import sys
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

project = "gmml_cluster"
copyright = "the authors; Apache-2.0"

# The source is the repository, so that links to README.md, docker/ and benchmarks/ are checked like all others.
PAGES = {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs", "docker", "benchmarks"}
root_doc = "docs/index"
exclude_patterns = sorted(path.name for path in ROOT.iterdir() if path.name not in PAGES)
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_click"]

# Headings have the anchors that a repository's web page gives them, and links to these are checked.
myst_heading_anchors = 4
# Two hyphens begin an option, and are no dash.
smartquotes = False

# Docstrings have Markdown's single backticks.
default_role = "code"
napoleon_use_ivar = True
autodoc_member_order = "bysource"
autodoc_class_signature = "separated"

html_theme = "furo"
html_title = "gmml_cluster"
html_extra_path = ["site"]
html_show_sphinx = False
html_copy_source = False


def _as_text(app: Sphinx, context: object, lines: list[str]) -> None:
    """Help texts are plain: a star in them is a pattern's, no emphasis."""
    lines[:] = [line.replace("*", r"\*") for line in lines]


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    for part in ("description", "options"):
        app.connect(f"sphinx-click-process-{part}", _as_text)
