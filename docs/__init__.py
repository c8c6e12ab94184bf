"""What the site is made of besides the pages written by hand: ``mkdocs build`` calls `hook`, which asks the others."""
