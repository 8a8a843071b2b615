"""The site: these pages as HTML, with notebooks that are run and a reference of the public names.

.ci/docs builds it into build/site.
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

# Pages stay readable on GitHub: its Markdown, its anchors of headings, its relative links.
myst_heading_anchors = 6
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_show_tb = True  # a failed notebook is a warning, of which the build makes an error
nb_execution_timeout = 120
nb_merge_streams = True

default_role = "literal"  # docstrings have `names` in single backquotes, too
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Source", "notes_style")]
python_use_unqualified_type_names = True
maximum_signature_line_length = 80

html_theme = "furo"
html_title = f"simfl {release}"
html_static_path = ["_static"]
html_css_files = ["simfl.css"]
html_copy_source = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

PAGES = {
    "../README.md": "index.md",
    "../CONTRIBUTING.md": "contributing.md",
    "../CHANGELOG.md": "changelog.md",
    "../benchmarks/README.md": "benchmarks.md",
}
"""Where the site has what pages link to outside of this folder."""


def link_to_pages(_app, _page, content):
    """Have links to files outside of this folder lead to the pages that include them."""
    for path, name in PAGES.items():
        content[0] = content[0].replace(f"]({path}", f"](/{name}")


def setup(app):
    """Register the event."""
    app.connect("source-read", link_to_pages)
