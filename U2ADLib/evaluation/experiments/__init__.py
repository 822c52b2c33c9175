"""The comparison: every method, every table and figure of the paper, and those that it lacks (`u2ad evaluate`).

| module | what |
|---|---|
| `config` | the configuration file, read and checked |
| `contracts` | a case and its scores: what the modules hand each other |
| `sets`, `planting`, `kept` | where images come from, lesions planted in them, how they are kept |
| `cases` | source, target and test: from folders with annotations, planted lesions or phantoms |
| `folds` | of people, never of images |
| `scores` | from a method's maps or boxes to scores of segments and patients: the same for all |
| `figures` | from scores to figures with intervals: the paper's protocol, and one that a reviewer believes |
| `training` | methods × strategies × folds, trained under one budget, kept and resumed |
| `tables/`, `pictures` | one module for each of the paper's experiments |
| `report` | one HTML page, CSV and LaTeX |
| `workers` | processes that share a computer's cores |
| `run` | everything in its order, with an estimate first |
"""
