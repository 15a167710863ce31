# SPDX-License-Identifier: GPL-2.0
# Sphinx: sphinx-build Documentation build/html
project = "mkvm"
extensions = []
root_doc = "index"
html_theme = "alabaster"
