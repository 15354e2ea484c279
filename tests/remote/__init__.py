"""Tests of `kdcache.remote`, and a server to read from."""
