"""Finding, checking and downloading files; the network is a local server."""

import hashlib
import re
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pooch
import pytest

from sklmeta.datasets import (
    fetch_leaves100,
    fetch_parkinsons,
    fetch_school,
    fetch_sleepstudy,
    leaves,
    parkinsons,
    school,
    sleepstudy,
)
from sklmeta.datasets._fetch import (
    Archive,
    DataFile,
    content_hash,
    data_home_path,
    fetch_file,
)

MEMBERS = {"images/Greek/character01/01.png": b"one", "images/a/b/02.png": b"two"}


def write_archive(path, members=MEMBERS, **options):
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def describe(path, url):
    with zipfile.ZipFile(path) as archive:
        content = content_hash(archive)
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    return Archive(url, f"md5:{md5}", n_images=len(MEMBERS), content=content)


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def origin(tmp_path, monkeypatch):
    """Serve an archive over HTTP on this machine; (its description, served file)."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "origin"
    folder.mkdir()
    path = write_archive(folder / "images.zip")
    handler = partial(QuietHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(
            target=server.serve_forever, args=(0.01,), daemon=True
        )
        thread.start()
        yield describe(path, f"http://127.0.0.1:{server.server_port}/images.zip"), path
        server.shutdown()
        thread.join()


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("no download was expected")

    monkeypatch.setattr(pooch, "retrieve", refuse)


def test_data_home_is_given_or_from_the_environment_or_the_default(monkeypatch):
    monkeypatch.setenv("SKLMETA_DATA", "/somewhere/data")
    assert data_home_path("/given") == Path("/given")
    assert data_home_path() == Path("/somewhere/data")
    monkeypatch.delenv("SKLMETA_DATA")
    assert data_home_path() == Path.home() / "sklmeta_data"
    assert data_home_path("~/mine") == Path.home() / "mine"


def test_content_hash_ignores_packing_and_sees_content(tmp_path):
    def hash_of(members, **options):
        with zipfile.ZipFile(
            write_archive(tmp_path / "a.zip", members, **options)
        ) as z:
            return content_hash(z)

    turned = dict(reversed(MEMBERS.items()))
    extras = {"images/": b"", "__MACOSX/images/._01.png": b"x", "README": b"y"}
    reference = hash_of(MEMBERS)
    assert hash_of(turned, compression=zipfile.ZIP_DEFLATED) == reference
    assert hash_of(MEMBERS | extras) == reference
    renamed = {name.replace("Greek", "Latin"): c for name, c in MEMBERS.items()}
    assert hash_of(renamed) != reference
    assert hash_of(MEMBERS | {"images/a/b/02.png": b"2"}) != reference


def test_a_file_that_is_there_is_used(tmp_path, no_network):
    path = write_archive(tmp_path / "images.zip", compression=zipfile.ZIP_DEFLATED)
    archive = describe(path, "http://127.0.0.1:9/images.zip")
    repacked = write_archive(path, dict(reversed(MEMBERS.items())))
    assert fetch_file(archive, tmp_path) == repacked


def test_download_puts_the_checked_file_in_place_once(tmp_path, origin, capfd):
    archive, served = origin
    folder = tmp_path / "home" / "images"
    path = fetch_file(archive, folder)
    assert path == folder / "images.zip"
    assert path.read_bytes() == served.read_bytes()
    assert list(folder.iterdir()) == [path]
    assert "100%" in capfd.readouterr().err  # the progress bar
    served.unlink()
    assert fetch_file(archive, folder) == path


def test_download_with_another_checksum_leaves_nothing(tmp_path, origin):
    archive, served = origin
    write_archive(served, MEMBERS | {"images/c.png": b"new"})
    folder = tmp_path / "home"
    with pytest.raises(OSError, match="does not match the known hash"):
        fetch_file(archive, folder)
    assert list(folder.iterdir()) == []


def test_offline_says_which_file_to_put_where(tmp_path):
    path = write_archive(tmp_path / "images.zip")
    archive = describe(path, "http://127.0.0.1:9/images.zip")  # nothing listens there
    folder = tmp_path / "home" / "birds"
    with pytest.raises(OSError, match=r"Could not download http://127.0.0.1:9") as info:
        fetch_file(archive, folder)
    message = str(info.value)
    assert f"put it at {folder / 'images.zip'}" in message
    assert "SKLMETA_DATA" in message
    assert "'birds'" in message


def test_a_folder_that_cannot_be_made_is_an_os_error(tmp_path, origin):
    (tmp_path / "home").write_text("a file where the folder should be")
    with pytest.raises(OSError, match="Could not download"):
        fetch_file(origin[0], tmp_path / "home")


def test_no_download_where_it_is_forbidden(tmp_path, no_network):
    archive = Archive("http://127.0.0.1:9/images.zip", "md5:0", 1, "0")
    with pytest.raises(OSError, match=r"is not there and download_if_missing=False"):
        fetch_file(archive, tmp_path, download_if_missing=False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>not found</html>", "is no readable zip file"),
        ({"images/1.png": b"1"}, "holds 1 images where 2 are expected"),
        (MEMBERS | {"images/a/b/02.png": b"2"}, "holds 2 images that are not the exp"),
    ],
)
def test_a_wrong_file_is_refused_and_kept(tmp_path, no_network, content, message):
    path = write_archive(tmp_path / "images.zip")
    archive = describe(path, "http://127.0.0.1:9/images.zip")
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        write_archive(path, content)
    before = path.read_bytes()
    with pytest.raises(OSError, match=message) as info:
        fetch_file(archive, tmp_path)
    assert "Move it away" in str(info.value)
    assert path.read_bytes() == before


# Files that are known by their checksum.


def test_a_file_is_known_by_its_checksum(tmp_path, no_network):
    path = tmp_path / "rows.csv"
    path.write_bytes(b"1,2\n")
    file = DataFile(
        "http://127.0.0.1:9/rows.csv",
        "sha256:" + hashlib.sha256(b"1,2\n").hexdigest(),
    )
    assert fetch_file(file, tmp_path) == path
    path.write_bytes(b"1,3\n")
    message = r"rows.csv has the sha256 \w{64} where \w{64} is expected. Move it away"
    with pytest.raises(OSError, match=message):
        fetch_file(file, tmp_path)
    assert path.read_bytes() == b"1,3\n"


LOADERS = {
    "parkinsons": (fetch_parkinsons, [parkinsons._FILE]),
    "school": (fetch_school, [school._FILE]),
    "leaves100": (fetch_leaves100, list(leaves._FILES.values())),
    "sleepstudy": (fetch_sleepstudy, [sleepstudy._FILE]),
}


@pytest.mark.parametrize("folder", LOADERS)
def test_loaders_look_into_their_folder(tmp_path, monkeypatch, no_network, folder):
    fetch, files = LOADERS[folder]
    monkeypatch.setenv("SKLMETA_DATA", str(tmp_path))
    path = tmp_path / folder / files[0].file_name
    with pytest.raises(OSError, match="is not there and download_if_missing=F") as info:
        fetch(download_if_missing=False)
    assert f"fetch {files[0].url} on another machine and put it at {path}" in str(
        info.value
    )


@pytest.mark.parametrize("folder", LOADERS)
def test_origins_are_fixed(folder):
    """To one commit, and its content to a checksum."""
    for file in LOADERS[folder][1]:
        assert re.match(
            r"https://raw\.githubusercontent\.com/[\w.-]+/[\w.-]+/[0-9a-f]{40}/",
            file.url,
        )
        assert re.fullmatch("sha256:[0-9a-f]{64}", file.known_hash)
