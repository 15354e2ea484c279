"""Side-by-side measurements of DESIGN section 7's budgets; they print ratios and assert nothing.

python -m benchmarks            paired.py     interleaved timing, medians, intervals, verdicts
                                table.py      rows and how they are printed
                                results_file.py  the same in docs/benchmarks.md
                                hardware.py   what the numbers were measured on
                                material.py   real data and mentors, or stand-ins
                                synthetic.py  stores made without running a mentor
                                 options.py    options of its commands
                                 page_cache.py what of a file is in memory; forgetting it
                                 peak.py       the most memory this process held
                                 views.py, reading.py, streamed.py, cold.py, windows.py,
                                 training.py, precompute.py, encoders.py, checks.py
                                 readers/      other formats and libraries beside ours
"""
