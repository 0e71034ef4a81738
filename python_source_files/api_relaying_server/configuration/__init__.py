"""How settings are written and read: notations, rows of the table, flags, environment and file.

Nothing here knows which settings there are: `settings.py` does.
"""
