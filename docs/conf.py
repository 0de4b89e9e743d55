"""How the documentation is built: Sphinx and MyST, strictly."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import otcluster

project = "otcluster"
author = copyright = "the otcluster developers"
version = release = otcluster.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = f"otcluster {release}"
exclude_patterns = ["_build"]
autodoc_typehints = "description"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
nitpicky = False
