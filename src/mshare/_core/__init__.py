"""Everything that `import mshare` loads. Private: use the names of `mshare.__all__`, which come from here.

May depend on: the standard library.
"""
