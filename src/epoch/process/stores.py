"""Opens the store that the settings name."""

from __future__ import annotations

import os

from epoch import log
from epoch.config import StoreSettings
from epoch.environment import unread
from epoch.store.base import Store


def open_store(settings: StoreSettings) -> Store:
    """The bucket where one is named, else the directory. S3's libraries are imported only then."""
    if settings.s3 is None:
        from epoch.store.directory.store import DirectoryStore

        return DirectoryStore(settings.data_dir, create=settings.create)
    from epoch.store.s3.calls import Patience
    from epoch.store.s3.store import S3Store

    return S3Store(settings.s3, Patience(repeat=settings.patience))


def warn_of_unread(store: StoreSettings) -> None:
    """Say so where a bucket may have been meant and the directory is taken."""
    if store.s3 is None and (names := unread(os.environ)):
        log.warn(
            f"{', '.join(names)}: not read; set EPOCH_S3_* to store in a bucket",
            storing_in=store.data_dir,
        )
