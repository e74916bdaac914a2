import os
import sys
from importlib import metadata
from pathlib import Path

import bmojo

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # the extension `mathematics` lies beside this file

project = "realization"
author = "The realization developers"
release = version = metadata.version("realization")
copyright = author

extensions = [
    "mathematics",
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
exclude_patterns = [
    "_build",
    "_generated/demo.md",
    "_generated/evidence",
    "_generated/measured.md",
    "_generated/walkthrough.md",
    "_generated/demo/*",
    "**/.ipynb_checkpoints",
]
templates_path = ["_templates"]
default_role = "literal"
nitpicky = False
# Cells that were not run know no lexer; attributes of one name are in several classes, each page has its own.
suppress_warnings = ["myst-nb.lexer", "ref.python"]

myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
html_math_renderer = "mathml"

nb_execution_mode = "force"
# Cells that read measured records run where there are any; `build.py` writes a note where there are none.
nb_execution_excludepatterns = [] if os.environ.get("REALIZATION_DATA") else ["walkthrough.md"]
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_merge_streams = True
nb_render_markdown_format = "myst"
nb_execution_show_tb = True

autosummary_generate = True
# A package's names that stand on the page of the package above it.
autosummary_context = {"shown_elsewhere": {"bmojo.bridge": bmojo.__all__}}
autosummary_imported_members = True
autosummary_ignore_module_all = False
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "imported-members": True, "show-inheritance": False}
napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_preprocess_types = False

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
copybutton_only_copy_prompt_lines = True

html_theme = "furo"
html_title = "realization"
html_static_path = ["_static"]
html_css_files = ["style.css"]
html_favicon = "_static/favicon.svg"
html_show_sourcelink = False
html_show_copyright = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#1647b9", "color-brand-content": "#1647b9"},
    "dark_css_variables": {"color-brand-primary": "#8fb0ff", "color-brand-content": "#8fb0ff"},
}
