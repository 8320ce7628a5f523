"""Searching plans: which solver, grid and Restart intervals give the best samples for how many evaluations.

`space` says what is searched, `starts` where the search begins, `objective` what a plan is worth, `study` keeps and resumes the
search (optuna), `confirm` measures what was found on fresh seeds, `pareto` draws it. It needs the extra [bench].
"""
