"""Sphinx's settings for the book; tools/book.py puts this file beside the pages."""

project = "Variational autoencoders"
author = "The VAE course authors"
copyright = "text and figures CC BY 4.0, code MIT"
language = "en"

extensions = ["myst_nb"]
exclude_patterns = ["extra"]
html_extra_path = ["extra"]  # the notebooks to download

# The pages come executed, their boards and figures as HTML (tools/live.py): nothing is run or fetched.
nb_execution_mode = "off"
nb_ipywidgets_js = {}
nb_merge_streams = True
nb_render_markdown_format = "myst"
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]

html_theme = "sphinx_book_theme"
html_title = project
html_static_path = ["_static"]
html_css_files = ["book.css"]
html_js_files = [("live.js", {"defer": "defer", "priority": 100})]  # before MathJax, which takes its time
mathjax_path = "tex-svg.js"
html_context = {"default_mode": "auto"}  # light or dark, as the reader has it
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "use_download_button": False,
    "use_fullscreen_button": False,
    "show_toc_level": 2,
    "navbar_persistent": [],
    "home_page_in_toc": True,
}
