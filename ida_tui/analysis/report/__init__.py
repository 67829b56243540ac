"""Run report as one HTML page and one Markdown file.

The report is loaded from the run directory, converted to page content with plots, and rendered by two
templates.
"""
