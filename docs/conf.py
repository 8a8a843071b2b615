"""The site: the pages of the repository as HTML, notebooks that are run, and a Python reference.

.ci/docs builds it into build/site. Its source is the root of the repository, so that relative
links are the same here and on GitHub.
"""

import simfl

project = "simfl"
author = "The simfl authors"
copyright = author
release = version = simfl.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]

root_doc = "docs/index"
include_patterns = ["*.md", "docs/**", "benchmarks/*.md", "experiments/**"]
exclude_patterns = [".*", "build", "runs", "simfl", "tests", "**/_*"]

# Pages stay readable on GitHub: its Markdown, its anchors of headings, its relative links.
myst_heading_anchors = 6
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_show_tb = True  # a failed notebook is a warning, of which the build makes an error
nb_execution_timeout = 120
nb_merge_streams = True

default_role = "literal"  # docstrings have `names` in single backquotes, too
autodoc_default_options = {"exclude-members": "registry"}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Source", "notes_style")]
python_use_unqualified_type_names = True
maximum_signature_line_length = 120

html_theme = "furo"
html_title = f"simfl {release}"
html_static_path = ["_static"]
html_extra_path = ["_root"]
html_css_files = ["simfl.css"]
html_copy_source = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


def leave_out_of_the_menu(_app, page, content):
    """Take tables of experiments, which their pages link to, as pages without a place of theirs."""
    if page.startswith("experiments/") and page.endswith("/table"):
        content[0] = f"---\norphan: true\n---\n\n{content[0]}"


def setup(app):
    """Register the event."""
    app.connect("source-read", leave_out_of_the_menu)
