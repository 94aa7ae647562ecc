"""The command line and what its commands need beyond the library. Private: use the commands.

The library depends on nothing in here.
"""
