"""Tests of `kdcache.share`."""
