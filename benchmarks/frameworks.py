"""Ray, torch, iceoryx2 and vineyard behind `mshare.measure`'s protocol: shared memory that comes with a framework.

Each mechanism does what its documentation shows. A mechanism with a daemon starts the daemon in `serve`, outside every
timing. The daemon ends with the PID namespace of the trial (see `compare.trial`). Some stores give readers read-only
memory. The creator of such an object writes all of it once, in `create`.

May depend on: mechanisms, measure, units, numpy.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
import time
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Protocol, runtime_checkable

from mshare._core.units import MIB
from mshare.measure import Mechanism
from mshare.measure.mechanisms import Attachment

from .mechanisms import Held

_PATIENCE_S = 10.0


@runtime_checkable
class Served(Mechanism, Protocol):
    """A mechanism with a daemon."""

    def serve(self, size_bytes: int) -> None:
        """Start the daemon, with room for so many bytes, and return when it can be reached."""


def _wait_for(path: Path, daemon: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not path.exists():
        if daemon.poll() is not None or time.monotonic() > deadline:
            raise ChildProcessError(f"{daemon.args!r} ended with status {daemon.returncode}, or took too long")
        time.sleep(0.01)


class Ray:
    """Ray's object store: `ray.put` in one driver, `ray.get` in others. The cluster is a separate service."""

    label = "Ray"
    shares_tables = False
    spec = f"{__name__}:Ray"

    def __init__(self) -> None:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        self._ray = import_module("ray")
        self._held: dict[str, Any] = {}

    def serve(self, size_bytes: int) -> None:
        ray = Path(sys.executable).parent / "ray"
        store = f"--object-store-memory={size_bytes * 11 // 10 + 80 * MIB}"
        options = ["--head", "--port=0", "--num-cpus=1", "--include-dashboard=false", store]
        done = subprocess.run([ray, "start", *options], check=False, capture_output=True, text=True)
        if done.returncode:
            raise ChildProcessError(f"ray start failed: {done.stderr.strip()}")

    def _connect(self) -> None:
        if not self._ray.is_initialized():
            self._ray.init(address="auto", log_to_driver=False, logging_level="ERROR")

    def create(self, name: str, size_bytes: int) -> str:
        del name
        import numpy

        self._connect()
        reference = self._ray.put(numpy.zeros(size_bytes, numpy.uint8))
        token: str = self._ray.cloudpickle.dumps(reference).hex()
        self._held[token] = reference
        return token

    def attach(self, token: str) -> Attachment:
        self._connect()
        return Held(self._ray.get(self._ray.cloudpickle.loads(bytes.fromhex(token)), timeout=_PATIENCE_S))

    def leave(self, token: str) -> None:
        pass

    def destroy(self, token: str) -> None:
        self._held.pop(token, None)


class Torch:
    """torch.multiprocessing: a tensor in shared memory, sent over a `multiprocessing.connection`.

    `strategy`: `file_descriptor` or `file_system`. A thread of the creator serves all connections.
    """

    shares_tables = False

    def __init__(self, strategy: str) -> None:
        self._torch = import_module("torch")
        import_module("torch.multiprocessing").set_sharing_strategy(strategy)
        self.label = f"torch {strategy}"
        self.spec = f"{__name__}:Torch:{strategy}"
        multiprocessing.current_process().authkey = b"benchmark"  # the creator and the readers need the same

    def create(self, name: str, size_bytes: int) -> str:
        from multiprocessing.connection import Listener

        tensor = self._torch.zeros(size_bytes, dtype=self._torch.uint8).share_memory_()
        path = str(Path(mkdtemp(prefix=f"{name}-")) / "socket")
        listener = Listener(path, "AF_UNIX", backlog=128, authkey=b"benchmark")

        def serve() -> None:
            while True:
                with listener.accept() as connection:
                    connection.send(tensor)

        threading.Thread(target=serve, daemon=True).start()
        return path

    def attach(self, token: str) -> Attachment:
        from multiprocessing.connection import Client

        with Client(token, authkey=b"benchmark") as connection:
            return Held(connection.recv().numpy())

    def leave(self, token: str) -> None:
        pass

    def destroy(self, token: str) -> None:
        pass  # the memory ends with the creator's last tensor, or with the creator


class Iceoryx2:
    """iceoryx2, publish and subscribe: the region is the one sample of the service's history.

    A late subscriber gets the sample when the publisher looks for new subscribers (`update_connections`). The publisher
    looks every 0.1 ms here, so up to 0.1 ms of attaching is the wait for the publisher. The subscriber asks again
    without sleeping, because its sleep would also count.
    """

    label = "iceoryx2"
    shares_tables = False
    spec = f"{__name__}:Iceoryx2"

    def __init__(self) -> None:
        self._package = import_module("iceoryx2")
        self._package.set_log_level(self._package.LogLevel.Error)
        self._here = threading.local()  # iceoryx2's objects belong to the thread that made them

    def _service(self, name: str) -> Any:
        import ctypes

        package = self._package
        if not hasattr(self._here, "node"):
            self._here.node = package.NodeBuilder.new().create(package.ServiceType.Ipc)
        builder = self._here.node.service_builder(package.ServiceName.new(name))
        builder = builder.publish_subscribe(package.Slice[ctypes.c_uint8])
        builder = builder.max_publishers(1).max_subscribers(1000).max_nodes(1001)
        builder = builder.history_size(1).subscriber_max_buffer_size(1).subscriber_max_borrowed_samples(1)
        return builder.open_or_create()

    @staticmethod
    def _view(payload: Any) -> Any:
        import ctypes

        return (ctypes.c_uint8 * payload.len()).from_address(payload.data_ptr)

    def create(self, name: str, size_bytes: int) -> str:
        import ctypes

        published = threading.Event()
        errors: list[Exception] = []

        def publish() -> None:
            try:
                builder = self._service(name).publisher_builder()
                publisher = builder.initial_max_slice_len(size_bytes).max_loaned_samples(1).create()
                sample = publisher.loan_slice_uninit(size_bytes)
                ctypes.memset(sample.payload().data_ptr, 0, size_bytes)
                sample.assume_init().send()
            except Exception as error:
                errors.append(error)
                return
            finally:
                published.set()
            while True:
                publisher.update_connections()
                time.sleep(0.0001)

        threading.Thread(target=publish, daemon=True).start()
        published.wait()
        if errors:
            raise errors[0]
        return name

    def attach(self, token: str) -> Attachment:
        subscriber = self._service(token).subscriber_builder().buffer_size(1).create()
        deadline = time.monotonic() + _PATIENCE_S
        while (sample := subscriber.receive()) is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"no sample within {_PATIENCE_S:.0f} s")
            os.sched_yield()
        return _Sample(self._view(sample.payload()), sample, subscriber)

    def leave(self, token: str) -> None:
        pass

    def destroy(self, token: str) -> None:
        pass  # the service ends with its publisher


class _Sample:
    """A received sample as an attachment."""

    def __init__(self, view: Any, *owners: Any) -> None:
        self._owners: tuple[Any, ...] = owners
        self.buf: memoryview | None = memoryview(view).cast("B").toreadonly()

    def close(self) -> None:
        self.buf = None
        for owner in self._owners:
            owner.delete()
        self._owners = ()


class Vineyard:
    """vineyard: a blob in the memory of a daemon, which its readers map read-only."""

    label = "vineyard"
    shares_tables = False
    spec = f"{__name__}:Vineyard"
    _SOCKET = Path("/tmp/mshare-bench-vineyard.sock")

    def __init__(self) -> None:
        self._package = import_module("vineyard")
        self._client: Any = None

    def serve(self, size_bytes: int) -> None:
        found = find_spec("vineyard")
        assert found is not None
        assert found.origin is not None
        daemon = Path(found.origin).parent / "bdist" / "vineyardd"
        options = [f"--socket={self._SOCKET}", f"--size={size_bytes * 11 // 10 + 16 * MIB}", "--meta=local"]
        started = subprocess.Popen([daemon, *options, "--rpc=false"], stdout=subprocess.DEVNULL)
        _wait_for(self._SOCKET, started)

    def _connected(self) -> Any:
        if self._client is None:
            self._client = self._package.connect(str(self._SOCKET))
        return self._client

    def create(self, name: str, size_bytes: int) -> str:
        del name
        import numpy

        client = self._connected()
        blob = client.create_blob(size_bytes)
        numpy.frombuffer(memoryview(blob), numpy.uint8)[:] = 0
        return repr(blob.seal(client).id)

    def attach(self, token: str) -> Attachment:
        return Held(self._connected().get_blob(self._package.ObjectID(token)))

    def leave(self, token: str) -> None:
        pass

    def destroy(self, token: str) -> None:
        self._connected().delete(self._package.ObjectID(token))
