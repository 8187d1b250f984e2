"""Suites: lists of protocols, the reports that they fill, and `cam evaluate`."""
