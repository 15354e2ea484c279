"""What a store must survive: killed writers, cut power, damaged files, writers at once.

python -m benchmarks.torture
    world.py        small real precomputes, and what an undisturbed one makes
    judging.py      what a store says it holds, against that
    tally.py        counts, and the table
    faults.py       every call that changes a disk, watched or broken
    processes.py    forked processes, for killing
    crashes.py      killed at every single call
    disks.py        what a disk may hold after its power was cut
    power_cuts.py   cut after every single call
    kills.py        larger runs, killed at random moments
    damage.py       flipped bits, truncated files, deleted files and folders
    races.py        writers of one store at once

Lost: something committed is gone or computed again. Believed (wrongly): the store gave a value that
no undisturbed run makes. Healed: the same precompute, run again, made the undisturbed store.
Linux only.
"""
