"""The command line and what its commands need beyond the library. Private: use the commands.

May depend on: everything in mshare but testing.
"""
