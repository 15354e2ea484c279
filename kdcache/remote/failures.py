"""What went wrong at a server: whether waiting can help, and how it is told."""

import errno
from collections.abc import Iterator

from kdcache.errors import KdcacheError, NoSpace, StoreError

_NO_SPACE = frozenset({errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG})
_FULL_CODES = frozenset({"507", "QuotaExceeded", "InsufficientStorage", "EntityTooLarge"})
_NO_BUCKET = frozenset({"NoSuchBucket", "InvalidBucketName"})
_NO_CREDENTIALS = frozenset(
    {
        "NoCredentialsError",  # botocore
        "PartialCredentialsError",
        "CredentialRetrievalError",
        "ProfileNotFound",
        "DefaultCredentialsError",  # google.auth
        "LocalTokenNotFoundError",  # huggingface_hub
    }
)
_MOST_TOLD = 300  # characters of a library's or server's own text
_GIVE = (
    "Give credentials as its protocol has them: environment or ~/.aws for s3://, a key or "
    "~/.ssh/config for sftp://, .netrc for http://, `hf auth login` for hf://"
)
_SHARE = (
    "Whoever owns that folder can open a hub to a group: chgrp -R GROUP HUB; chmod -R g+rwX HUB; "
    "find HUB -type d -exec chmod g+s {} +; what is pushed later then is open to it too"
)


def told(error: BaseException) -> str:
    """An exception in one line for the terminal."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = text if len(text) <= _MOST_TOLD else f"{text[:_MOST_TOLD]} ..."
    return text if isinstance(error, OSError | StoreError) else f"{type(error).__name__}: {text}"


def lasting(what: str, error: Exception, *, writing: bool) -> KdcacheError | None:
    """The error for what no waiting changes; None for what may pass."""
    chain = list(_chain(error))
    kinds = {type(one).__name__ for one in chain}
    codes = {code for one in chain for code in _codes(one)}
    numbers = {one.errno for one in chain if isinstance(one, OSError)}
    done = "written" if writing else "read"
    reason = told(error)
    if kinds & _NO_CREDENTIALS:
        return StoreError(f"{what} cannot be {done}: no credentials ({reason}). {_GIVE}")
    if "HostKeyNotVerifiable" in kinds:
        return StoreError(
            f"{what} cannot be {done}: the host's key is not the one in ~/.ssh/known_hosts, or is "
            f"not there ({reason}). If you trust the host, log in once with ssh, or add its key "
            "with: ssh-keyscan HOST >> ~/.ssh/known_hosts; a key that has changed must be asked "
            "about first"
        )
    if codes & _NO_BUCKET or "ParamValidationError" in kinds:
        return StoreError(f"{what} cannot be {done}: there is no such bucket ({reason}). Check it")
    if numbers & _NO_SPACE or codes & _FULL_CODES:
        return NoSpace(
            f"{what} cannot be written: no space is left there ({reason}). What is there stays "
            "good; make room, then run the same command again to go on"
        )
    if errno.EROFS in numbers:
        return StoreError(f"{what} cannot be written: {reason}. Push to where you may write")
    if isinstance(error, PermissionError) or "PermissionDenied" in kinds:
        if "RequestTimeTooSkewed" in codes:
            return StoreError(f"{what}: {reason}. Set this machine's clock")
        verb = "be written" if writing else "be read"
        if "://" not in what or what.startswith("file:"):
            return StoreError(f"{what} cannot {verb}: no permission ({reason}). {_SHARE}")
        return StoreError(
            f"{what} cannot {verb}: the server refuses access ({reason}). Ask its owner. {_GIVE}"
        )
    if writing and isinstance(
        error, FileNotFoundError | NotADirectoryError | IsADirectoryError | FileExistsError
    ):
        return StoreError(
            f"{what} cannot be written ({reason}). Check that the hub's folder is there, and that "
            "nothing lies in the file's place"
        )
    if isinstance(error, ValueError):  # no address at all
        return StoreError(f"{what} cannot be {done}: {reason}")
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen = 0
    while error is not None and seen < 10:
        yield error
        error, seen = error.__cause__ or error.__context__, seen + 1


def _codes(error: BaseException) -> Iterator[str]:
    """What S3 and its like call it: botocore keeps the answer in `response`."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        yield str(response.get("Error", {}).get("Code"))
        yield str(response.get("ResponseMetadata", {}).get("HTTPStatusCode"))
