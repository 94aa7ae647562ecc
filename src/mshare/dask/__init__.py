"""One copy per host of a Dask cluster: a file or URL in a region for all workers of a host. Needs the extra `dask`.

>>> import mshare.dask
>>> from distributed import Client
>>> def size_of(name):
...     with mshare.dask.attach(name) as region:
...         return region.size
>>> with Client(n_workers=2, processes=False, dashboard_address=":0") as client:
...     copies = mshare.dask.replicate(client, "docs-hosts", "/etc/passwd")
...     same = client.submit(size_of, "docs-hosts").result() == copies[0].size
...     mshare.dask.drop(client, "docs-hosts")
>>> len(copies), same
(1, True)

`replicate` loads once per host, whichever worker comes first. `attach` gives the copy to a task. `status` shows the
copies, and `drop` removes them. The scheduler, the workers and the client need this package.

May depend on: names, entry, backends, linux, attachment, creation, region, handle, removal, limits, errors, procfs,
record, distributed, fsspec.
"""

try:
    import distributed as _distributed  # noqa: F401
    import fsspec as _fsspec  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "mshare.dask needs distributed and fsspec: pip install 'mshare[dask]'", name=error.name
    ) from error

from .cluster import Copy, attach, drop, replicate, status
from .failures import ReplicationError, SourceChangedError

__all__ = ["Copy", "ReplicationError", "SourceChangedError", "attach", "drop", "replicate", "status"]
