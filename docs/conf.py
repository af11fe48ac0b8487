"""Sphinx's settings. The command that builds the site is in CONTRIBUTING.md."""

import os
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent

sys.path[:0] = [str(HERE / "_ext"), str(ROOT)]

from tests.xla_flags import QUICK_TO_COMPILE  # noqa: E402

# Figures and tutorials compile much and compute little, and run on CPUs alone. Notebooks and the
# processes that they start inherit what is set here.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("XLA_FLAGS", QUICK_TO_COMPILE)
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(
    os.pathsep
)
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
os.environ["BMOJO_CACHE_DIR"] = str(HERE / "_build" / "cache")
os.environ["COLUMNS"] = "88"
os.environ["TTY_COMPATIBLE"] = "0"  # for Rich, which kernels tell to use colours
os.environ["IPYTHONDIR"] = str(HERE / "_build" / "ipython")
os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"

startup = HERE / "_build" / "ipython" / "profile_default" / "startup"
startup.mkdir(parents=True, exist_ok=True)
shutil.copy(HERE / "_ext" / "shell.py", startup)

import bmojo  # noqa: E402

project = "bmojo"
author = "The bmojo contributors"
copyright = "the bmojo contributors, Apache-2.0"
version = release = bmojo.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.linkcode",
    "myst_nb",
    "bindings",
    "citation",
    "drawings",
    "repository",
]
exclude_patterns = ["_build", "_ext", "_generated", "figures"]
suppress_warnings: list[str] = []

# Markdown and notebooks
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_execution_in_temp = True
nb_merge_streams = True

repository_pages = {"CONTRIBUTING.md": "contributing", "README.md": "index"}

# The reference
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_attr_annotations = False
python_maximum_signature_line_length = 76
add_module_names = False
toc_object_entries_show_parents = "hide"

# HTML
html_theme = "furo"
html_title = "bmojo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "navigation_with_keys": True,
    "light_css_variables": {"color-brand-primary": "#1f5a99", "color-brand-content": "#1f5a99"},
    "dark_css_variables": {"color-brand-primary": "#8ec1f5", "color-brand-content": "#8ec1f5"},
}
pygments_style = "tango"
pygments_dark_style = "monokai"


def linkcode_resolve(domain: str, info: dict[str, str]) -> str | None:
    """The source of an object, on this site; the pages of the API all lie at the same depth."""
    import repository

    place = repository.source_of(info["module"], info["fullname"])
    return None if place is None else f"../../{place}"


def shorten(app, what, name, obj, options, signature, returns):
    """Write ``Float[Array, "B L"]`` as the source does."""

    def short(text: str | None) -> str | None:
        return text and text.replace("jaxlib._jax.Array", "Array").replace("jax.Array", "Array")

    return short(signature), short(returns)


def setup(app):
    """Connect."""
    app.connect("autodoc-process-signature", shorten)
