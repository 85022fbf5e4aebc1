"""Find data files on this machine, or download them; either way check what is inside.

A file counts as the right one by its *content* (names and checksums of its members),
not by its bytes, so that an archive which was packed anew is as good as the original.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Archive", "content_hash", "data_home_path", "fetch_archive"]


@dataclass(frozen=True)
class Archive:
    """A zip archive of images: where it comes from and what it must hold.

    Attributes
    ----------
    url : str
        Public origin of the file; its last part is the file's name.
    known_hash : str
        Checksum of the file at its origin, as pooch takes it ("md5:...").
    n_images : int
        Number of PNG images in it.
    content : str
        The `content_hash` of the archive.
    """

    url: str
    known_hash: str
    n_images: int
    content: str

    @property
    def file_name(self) -> str:
        """Name of the file, at its origin and on this machine."""
        return self.url.rsplit("/", 1)[1]


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


def fetch_archive(
    archive: Archive, folder: Path, *, download_if_missing: bool = True
) -> Path:
    """Return the path of an archive in `folder`, downloaded if it is not there.

    Parameters
    ----------
    archive : Archive
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
    path = folder / archive.file_name
    if not path.is_file():
        if not download_if_missing:
            raise OSError(
                f"{path} is not there and download_if_missing=False. "
                + _remedy(archive, path)
            )
        _download(archive, path)
    _check_content(archive, path)
    return path


def _download(archive: Archive, path: Path) -> None:
    """Download an archive with a progress bar; nothing is left behind by a failure."""
    import pooch  # type: ignore[import-untyped]

    try:
        pooch.retrieve(
            archive.url,
            known_hash=archive.known_hash,
            fname=path.name,
            path=path.parent,
            progressbar=True,
        )
    except (OSError, ValueError) as error:  # no network or disk; another checksum
        raise OSError(
            f"Could not download {archive.url} to {path}: {error} "
            + _remedy(archive, path)
        ) from error


def _check_content(archive: Archive, path: Path) -> None:
    """Raise OSError unless the file holds exactly the images it should."""
    try:
        with zipfile.ZipFile(path) as file:
            n_images = len(image_members(file))
            content = content_hash(file)
    except zipfile.BadZipFile as error:
        found = f"is no readable zip file ({error})"
    else:
        if content == archive.content:
            return
        found = f"holds {n_images} images that are not the expected ones"
        if n_images != archive.n_images:
            found = f"holds {n_images} images where {archive.n_images} are expected"
    raise OSError(
        f"{path} {found}. Move it away and call again to download it. "
        + _remedy(archive, path)
    )


def _remedy(archive: Archive, path: Path) -> str:
    return (
        f"Without a network: fetch {archive.url} on another machine and put it at "
        f"{path}, or name the folder that has it by data_home= or the environment "
        f"variable SKLMETA_DATA (the file is looked up in its folder "
        f"{path.parent.name!r})."
    )
