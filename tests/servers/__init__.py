"""Real servers on loopback, started by the tests: nginx, OpenSSH's sftp, rclone's S3, a folder.

Each has `.url` (what kdcache is given), `.folder` (where its files lie on disk), `.environment`
(what a client needs), `.kill()` and `.start()` again; `Proxy` stands before one to limit, count and
cut what passes.
"""

from tests.servers.kinds import (
    KINDS,
    WRITABLE,
    NginxServer,
    PlainFolder,
    S3Server,
    SftpServer,
    start_server,
)
from tests.servers.process import Server
from tests.servers.proxy import Proxy

__all__ = [
    "KINDS",
    "WRITABLE",
    "NginxServer",
    "PlainFolder",
    "Proxy",
    "S3Server",
    "Server",
    "SftpServer",
    "start_server",
]
