"""Fuzzing of what reads bytes from elsewhere: `python -m fuzz --seconds 60` from the folder above.

`targets.py` says what must hold for any bytes, `seeds.py` where mutation begins, `__main__.py` how
long each target is tried. With Atheris installed its coverage guides the mutation; without it
Hypothesis makes the examples.
"""
