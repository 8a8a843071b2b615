from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from simfl.states import Storage, open_storage
from simfl.states.storage import RemoteStorage


@pytest.fixture(params=["local", "memory", "fsspec-folders"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    if request.param == "local":
        yield open_storage(tmp_path / "checkpoints")
        return
    if request.param == "fsspec-folders":  # a protocol whose folders have to be made
        yield RemoteStorage(f"file://{tmp_path}/checkpoints")
        return
    name = uuid.uuid4().hex  # fsspec's memory is one for the whole process
    storage = open_storage(f"memory://{name}/checkpoints")
    yield storage
    for file in storage.list_files():
        storage.delete(file)
