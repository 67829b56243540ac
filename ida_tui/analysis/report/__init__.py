"""Run report as one HTML page and one Markdown file.

`writing.write` is the entry point: `reading` loads the run directory, `page` builds the content, `figures`
draws the plots, and the templates render the result.
"""
