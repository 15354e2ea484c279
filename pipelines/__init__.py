"""Whole experiments, each one file that tells its story in order with the public API."""
