"""Backups of a node: made while it runs (making.py), put back while it does not (restoring.py), and what a node that
finds itself in the past does at its next start (returned.py).
"""
