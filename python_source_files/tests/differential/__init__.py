"""Random histories of many users against real relays, judged by a short model of the contract.

    python -m tests.differential --seconds 60 --seed 7 --store redis --nodes 2

`plans` draws what a resource says of itself, `origin` says it and stamps each answer, `clients` ask
in many threads at once, `events` is what both write down, `model` says for each answer that a
client got whether it might be given, `world` starts the processes and `telling` prints what was
found. Nothing but the outside of the relay is used: its flags, and HTTP.
"""
