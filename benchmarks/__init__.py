"""Side-by-side measurements of DESIGN section 7's budgets; they print ratios and assert nothing.

python -m benchmarks            paired.py     interleaved timing, medians, intervals, verdicts
                                table.py      rows and how they are printed
                                hardware.py   what the numbers were measured on
                                material.py   real data and mentors, or stand-ins
                                synthetic.py  stores made without running a mentor
                                views.py, reading.py, training.py, precompute.py, encoders.py
"""
