"""Everything that `import mshare` loads. Private: use the names of `mshare.__all__`, which come from here.

Each module names what it may depend on; none needs more than Python.
"""
