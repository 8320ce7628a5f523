"""Searching plans: which solver, grid and Restart intervals give the best samples for how many evaluations.

`space` says what is searched, `starts` where the search begins, `objective` how good a plan is. `study` tries plans
with optuna and `storage` holds the trials. Trials are rows as well, and `restore` makes a study from rows. `confirm`
measures what was found on fresh seeds, `plan_text` writes it as a command, `pareto` draws it. `session` is a search
from start to end and `display` what it prints. All need the extra [bench].
"""
