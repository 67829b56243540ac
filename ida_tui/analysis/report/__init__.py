"""A run as one page: what it learned, and how that is known.

`writing.write` makes it: `reading` gathers what the run's directory has, `page` puts it into words, `figures`
draws it, and the templates beside them are filled with that.
"""
