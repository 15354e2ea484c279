"""Folders in repositories of the Hugging Face Hub: read as files, written as commits.

The Hub limits commits an hour, so that files are best put together.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kdcache.errors import UsageError
from kdcache.remote.folder import Content
from kdcache.remote.object_folder import ObjectFolder

_PLACE = re.compile(r"hf://datasets/([^/@]+/[^/@]+)(?:@([^/]+))?(?:/(.*))?")


class HfFolder(ObjectFolder):
    """`hf://datasets/OWNER/NAME[@REVISION][/PATH]`. `api`: an HfApi; None: the user's."""

    def __init__(self, address: str, filesystem: Any, root: str, api: Any = None) -> None:
        super().__init__(address, filesystem, root)
        self._api = api

    def put(self, name: str, content: Content) -> None:
        self.put_many([(name, content)])

    def put_many(self, files: Iterable[tuple[str, Content]]) -> None:
        """All in one commit."""
        from huggingface_hub import CommitOperationAdd, HfApi

        repository, revision, below = self._place()
        api = HfApi() if self._api is None else self._api
        operations = [
            CommitOperationAdd(
                path_in_repo=f"{below}{name}",
                path_or_fileobj=content if isinstance(content, Path) else bytes(content),
            )
            for name, content in files
        ]
        if not operations:
            return
        first = operations[0].path_in_repo
        more = f" and {len(operations) - 1} more" if len(operations) > 1 else ""
        api.create_commit(
            repo_id=repository,
            repo_type="dataset",
            revision=revision,
            operations=operations,
            commit_message=f"kdcache: {first}{more}",
        )

    @property
    def commits_puts(self) -> bool:
        return True

    def require_writable(self) -> None:
        self._place()

    def _place(self) -> tuple[str, str | None, str]:
        """Repository, revision, and what stands before the names of files."""
        found = _PLACE.fullmatch(self.address)
        if found is None:
            raise UsageError(
                f"{self.address} can be read only: a hub is pushed to a dataset repository, "
                "hf://datasets/OWNER/NAME or hf://datasets/OWNER/NAME@REVISION"
            )
        return found[1], found[2], f"{found[3].strip('/')}/" if found[3] else ""

    def _call(self, method: str, *arguments: Any, **options: Any) -> Any:
        self._filesystem.invalidate_cache()  # it remembers listings and sizes of files
        return super()._call(method, *arguments, **options)
