"""Jars: fetched once, and run only with the locked hash. A folder stands in for Maven Central."""

from __future__ import annotations

import functools
import hashlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ops.errors import OperatorError
from ops.kafka_jars import jar_folder, kafka_jars, locked_jars

JAR = b"PK: a jar, as far as hashes care"


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder."""

    def log_message(self, *arguments: object) -> None:
        """Nothing."""


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A Maven repository of one artifact; the user's cache is empty."""
    folder = tmp_path / "repository"
    (folder / "org/example/one/1.0").mkdir(parents=True)
    (folder / "org/example/one/1.0/one-1.0.jar").write_bytes(JAR)
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("RAVAND_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("RAVAND_MAVEN_URL", f"http://127.0.0.1:{server.server_port}")
    yield folder
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def lock_file(tmp_path: Path) -> Path:
    """It asks for that artifact."""
    file = tmp_path / "kafka.lock.toml"
    file.write_text(
        '[[dependencies]]\ngroupId = "org.example"\nartifactId = "one"\nversion = "1.0"\npackaging = "jar"\n'
        f'sha256 = "{hashlib.sha256(JAR).hexdigest()}"\n'
    )
    return file


@pytest.mark.usefixtures("repository")
def test_what_was_fetched_is_not_fetched_again(lock_file: Path) -> None:
    said: list[str] = []
    (first,) = kafka_jars(lock_file, said.append)
    assert first.read_bytes() == JAR
    assert len(said) == 1
    assert kafka_jars(lock_file, said.append) == [first]
    assert len(said) == 1


@pytest.mark.usefixtures("repository")
def test_two_that_fetch_at_once_do_not_disturb_each_other(lock_file: Path) -> None:
    said: list[str] = []
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: kafka_jars(lock_file, said.append), range(4)))
    assert len({path for paths in results for path in paths}) == 1
    assert len(said) == 1


def test_a_jar_with_another_hash_is_refused_and_not_kept(lock_file: Path, repository: Path) -> None:
    (repository / "org/example/one/1.0/one-1.0.jar").write_bytes(b"something else")
    with pytest.raises(OperatorError, match="not the file that was locked"):
        kafka_jars(lock_file)
    assert not list(jar_folder(lock_file).glob("*.jar"))


@pytest.mark.usefixtures("repository")
def test_a_jar_that_was_altered_later_is_refused(lock_file: Path) -> None:
    (path,) = kafka_jars(lock_file)
    path.write_bytes(JAR[::-1])
    with pytest.raises(OperatorError, match="not the file that was locked"):
        kafka_jars(lock_file)


def test_without_a_network_it_says_where_the_jars_can_be_put(
    lock_file: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAVAND_MAVEN_URL", "http://127.0.0.1:1")
    with pytest.raises(OperatorError) as refused:
        kafka_jars(lock_file)
    assert str(jar_folder(lock_file)) in refused.value.what_to_do
    (jar_folder(lock_file) / "one-1.0.jar").write_bytes(JAR)
    assert [path.read_bytes() for path in kafka_jars(lock_file)] == [JAR]


def test_the_committed_list_names_each_jar_once_with_its_hash() -> None:
    jars = locked_jars()
    assert len({jar.name for jar in jars}) == len(jars) > 40
    assert all(len(jar.sha256) == 64 for jar in jars)
    assert "kafka_2.13-4.4.0.jar" in {jar.name for jar in jars}
