"""The storm: a whole installation under load while everything in it is killed, frozen and cut, and then is judged.

`python -m storm --seed S --minutes M`. The seed decides what is asked for and what is done to the system, in which order;
when exactly it hits is up to the machine, so a seed repeats the kind of run, not each of its instants.
"""
