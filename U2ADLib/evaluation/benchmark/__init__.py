"""The benchmark that judges a score: lesions planted in healthy cords, leave one person out, rivals in every table.

`study.py` plants and degrades, `cases.py` makes the sets of cases, `methods.py` says what a method is and turns its
maps into scores, `rules.py` holds the simple rules, `metrics.py` the figures; `run.py` runs all of it, `tables.py`
and `pages.py` show it. Planted lesions in healthy necks say nothing about patients.
"""
