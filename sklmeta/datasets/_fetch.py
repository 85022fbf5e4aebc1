"""Find data files on this machine, or download them; either way check what is inside.

A table counts as the right one by its checksum; an archive of images by the names and
checksums of its members, so that one which was packed anew is as good as the original.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Archive", "DataFile", "content_hash", "data_home_path", "fetch_file"]


@dataclass(frozen=True)
class DataFile:
    """A file of data: where it comes from and what it must hold.

    Attributes
    ----------
    url : str
        Public origin of the file; its last part, without a query, is the file's name.
    known_hash : str
        Checksum of the file at its origin, as pooch takes it ("sha256:...").
    """

    url: str
    known_hash: str

    @property
    def file_name(self) -> str:
        """Name of the file, at its origin and on this machine."""
        return self.url.partition("?")[0].rsplit("/", 1)[1]

    def problem(self, path: Path) -> str:
        """Say what is wrong with the file at `path`, or return an empty string."""
        algorithm, expected = self.known_hash.split(":")
        with path.open("rb") as file:
            found = hashlib.file_digest(file, algorithm).hexdigest()
        if found == expected:
            return ""
        return f"has the {algorithm} {found} where {expected} is expected"


@dataclass(frozen=True)
class Archive(DataFile):
    """A zip archive of images, known by the images in it rather than by its bytes.

    Attributes
    ----------
    n_images : int
        Number of PNG images in it.
    content : str
        The `content_hash` of the archive.
    """

    n_images: int
    content: str

    def problem(self, path: Path) -> str:
        """Say what is wrong with the archive at `path`, or return an empty string."""
        try:
            with zipfile.ZipFile(path) as file:
                n_images = len(image_members(file))
                content = content_hash(file)
        except zipfile.BadZipFile as error:
            return f"is no readable zip file ({error})"
        if content == self.content:
            return ""
        if n_images != self.n_images:
            return f"holds {n_images} images where {self.n_images} are expected"
        return f"holds {n_images} images that are not the expected ones"


def data_home_path(data_home: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder that holds data: given, else $SKLMETA_DATA, else the default.

    Parameters
    ----------
    data_home : str or path-like, default=None
        Folder to use. None means the environment variable `SKLMETA_DATA`, or
        `~/sklmeta_data` where that is not set.

    Returns
    -------
    path : Path
        The folder; it may not exist yet.
    """
    if data_home is None:
        data_home = os.environ.get("SKLMETA_DATA") or "~/sklmeta_data"
    return Path(data_home).expanduser()


def image_members(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """Return the PNG images of a zip archive, sorted by name."""
    images = [
        member
        for member in archive.infolist()
        if member.filename.endswith(".png")
        and not member.filename.startswith("__MACOSX/")
    ]
    return sorted(images, key=lambda member: member.filename)


def content_hash(archive: zipfile.ZipFile) -> str:
    """Return a hash of the images' names and checksums.

    It depends neither on the order of the members nor on how they were compressed, and
    reading a member checks the member's bytes against its checksum.
    """
    listing = "\n".join(
        f"{member.filename} {member.CRC:08x}" for member in image_members(archive)
    )
    return hashlib.sha256(listing.encode()).hexdigest()


def fetch_file(
    file: DataFile, folder: Path, *, download_if_missing: bool = True
) -> Path:
    """Return the path of a file in `folder`, downloaded if it is not there.

    Parameters
    ----------
    file : DataFile
        What to fetch.
    folder : Path
        Where the file is, or is to be put.
    download_if_missing : bool, default=True
        Whether to download a file that is not there.

    Returns
    -------
    path : Path
        The file, its content checked.

    Raises
    ------
    OSError
        If the file is not there and cannot be, or may not be, downloaded; or if the
        file that is there holds something else. The message says what to put where.
    """
    path = folder / file.file_name
    if not path.is_file():
        if not download_if_missing:
            raise OSError(
                f"{path} is not there and download_if_missing=False. "
                + _remedy(file, path)
            )
        _download(file, path)
    problem = file.problem(path)
    if problem:
        raise OSError(
            f"{path} {problem}. Move it away and call again to download it. "
            + _remedy(file, path)
        )
    return path


def _download(file: DataFile, path: Path) -> None:
    """Download a file with a progress bar; nothing is left behind by a failure."""
    import pooch  # type: ignore[import-untyped]

    try:
        pooch.retrieve(
            file.url,
            known_hash=file.known_hash,
            fname=path.name,
            path=path.parent,
            progressbar=True,
        )
    except (OSError, ValueError) as error:  # no network or disk; another checksum
        raise OSError(
            f"Could not download {file.url} to {path}: {error} " + _remedy(file, path)
        ) from error


def _remedy(file: DataFile, path: Path) -> str:
    return (
        f"Without a network: fetch {file.url} on another machine and put it at "
        f"{path}, or name the folder that has it by data_home= or the environment "
        f"variable SKLMETA_DATA (the file is looked up in its folder "
        f"{path.parent.name!r})."
    )
