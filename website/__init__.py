"""The site of docs/: what is generated from the code, and how mkdocs puts it together."""
