"""Searching plans: which solver, grid and Restart intervals give the best samples for how many evaluations.

`space` says what is searched, `starts` where the search begins, `objective` what a plan is worth, `study` stores and
resumes the search (optuna), `confirm` measures what was found on fresh seeds, `pareto` draws it, `session` is a search
from start to end and `display` what it prints. It needs the extra [bench].
"""
