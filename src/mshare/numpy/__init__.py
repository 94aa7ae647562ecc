"""Arrays of numpy in regions: saved once, loaded by every process without a copy. Needs the extra `numpy`.

>>> import mshare, mshare.numpy
>>> mshare.numpy.save("docs-prices", {"price": [9.5, 3.25], "count": [3, 4]}).close()
>>> mshare.numpy.load("docs-prices", "price")
array([9.5 , 3.25])
>>> mshare.unlink("docs-prices")

The bytes of a region are a `.npy` file, or for several arrays an uncompressed `.npz` file. `numpy.load` reads the
region's file (`region.info().path`), and a `.npz` or `.npy` file that was copied into a region can be loaded here.

A loaded array keeps its region mapped, and is read-only unless asked otherwise. A pickle of an array has a copy of all
its items: send a `Reference` to other processes.

May depend on: creation, attachment, region, handle, errors, geometry, numpy.
"""

try:
    import numpy as _numpy  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("mshare.numpy needs numpy: pip install 'mshare[numpy]'", name=error.name) from error

from .load import load, load_dict
from .npy import NotAnArrayError
from .reference import Reference
from .save import save

__all__ = ["NotAnArrayError", "Reference", "load", "load_dict", "save"]
