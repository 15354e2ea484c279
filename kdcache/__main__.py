"""`python -m kdcache` is `kdcache`."""

from kdcache.cli import main

main(prog_name="kdcache")
