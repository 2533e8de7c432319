"""A root file system as the kernel takes it at boot: a cpio archive of the `newc` kind."""

import os
import stat
import subprocess
from pathlib import Path


class Archive:
    """Entries by name; a second entry of a name is ignored. Directories above an entry are made."""

    def __init__(self):
        self.parts, self.names = [], set()
        # Debian's merged layout.
        for name in ("bin", "sbin", "lib", "lib64"):
            self.directory(f"usr/{name}")
            self.link(name, f"usr/{name}")

    def _entry(self, name, mode, data=b"", device=(0, 0)):
        if name in self.names:
            return
        self.names.add(name)
        path = name.encode() + b"\0"
        fields = [len(self.names), mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(path), 0]
        header = b"070701" + b"".join(b"%08X" % field for field in fields)
        self.parts.append(_padded(header + path) + _padded(data))

    def _place(self, name):
        """Where an entry of this name really lies, its directories made."""
        name = str(name).strip("/")
        first, _, rest = name.partition("/")
        if rest and first in ("bin", "sbin", "lib", "lib64"):
            name = f"usr/{name}"
        for parent in reversed(Path(name).parents[:-1]):
            self._entry(str(parent), stat.S_IFDIR | 0o755)
        return name

    def directory(self, name):
        self._entry(self._place(name), stat.S_IFDIR | 0o755)

    def file(self, name, data, mode=0o644):
        self._entry(self._place(name), stat.S_IFREG | mode, data)

    def link(self, name, target):
        self._entry(self._place(name), stat.S_IFLNK | 0o777, str(target).encode())

    def node(self, name, major, minor):
        self._entry(self._place(name), stat.S_IFCHR | 0o600, device=(major, minor))

    def path(self, path, under=None):
        """A file of this machine, with what it is a link to."""
        under = under or path
        if path.is_symlink():
            target = os.readlink(path)
            self.link(under, target)
            self.path(path.parent / target)
        else:
            self.file(under, path.read_bytes(), stat.S_IMODE(path.stat().st_mode))

    def tree(self, top, under=None):
        for path in sorted(top.rglob("*")):
            if path.is_file():
                self.path(path, under=(under or top) / path.relative_to(top))

    def program(self, path, under=None):
        """A program and the libraries it is linked with."""
        self.path(path, under)
        listed = subprocess.run(["ldd", path], capture_output=True, text=True, check=False).stdout
        for line in listed.splitlines():
            for word in line.split():
                if word.startswith("/"):
                    self.path(Path(word))

    def bytes(self):
        trailer = Archive.__new__(Archive)
        trailer.parts, trailer.names = [], set()
        trailer._entry("TRAILER!!!", 0)
        return _padded(b"".join([*self.parts, *trailer.parts]), 512)


def _padded(data, to=4):
    return data + b"\0" * (-len(data) % to)
