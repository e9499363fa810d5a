"""The jars of Apache Kafka: fetched from Maven Central once, never run unless their hashes are the committed ones."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ops.cache_folder import cache_folder, locked, make_folder
from ops.errors import OperatorError, explained
from ops.one_shot import run_to_end

LOCK_FILE = Path(__file__).with_name("kafka.lock.toml")
WANTED = ("org.apache.kafka:kafka_2.13:4.4.0", "org.slf4j:slf4j-simple:1.7.36")


@dataclass(frozen=True)
class Jar:
    """One locked artifact."""

    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def name(self) -> str:
        """What the file is called, in Maven's repositories and here."""
        return f"{self.artifact}-{self.version}.jar"


def locked_jars(lock_file: Path = LOCK_FILE) -> list[Jar]:
    """The committed list, in the order of the class path."""
    entries = tomllib.loads(lock_file.read_text())["dependencies"]
    return [Jar(e["groupId"], e["artifactId"], e["version"], e["sha256"]) for e in entries]


def jar_folder(lock_file: Path = LOCK_FILE) -> Path:
    """Where the jars of this lock file lie; another lock file has another folder, so upgrades never mix."""
    return cache_folder() / f"kafka-{hashlib.sha256(lock_file.read_bytes()).hexdigest()[:12]}"


def kafka_jars(lock_file: Path = LOCK_FILE, say: Callable[[str], None] = lambda text: None) -> list[Path]:
    """The verified jars; fetches what is missing. Blocks: call it in a thread."""
    jars, folder = locked_jars(lock_file), make_folder(jar_folder(lock_file))
    with locked(folder / ".lock"):
        if missing := missing_jars(lock_file):
            say(f"fetching {len(missing)} files of Apache Kafka, once for this user, into {folder}")
            with explained(folder):
                _fetch(missing, folder)
        _verify(jars, folder)
    return [folder / jar.name for jar in jars]


def missing_jars(lock_file: Path = LOCK_FILE) -> list[Jar]:
    """Those that would have to be fetched."""
    return [jar for jar in locked_jars(lock_file) if not (jar_folder(lock_file) / jar.name).exists()]


async def fetched_jars(say: Callable[[str], None]) -> list[Path]:
    """The same, for a task that may be cancelled: what may take minutes is done by a process that can be killed."""
    if missing_jars():
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        command = [sys.executable, "-P", "-m", "ops.kafka_jars"]
        fetch = await run_to_end(command, make_folder(jar_folder()), environment, on_line=say)
        if fetch.status != 0:
            message, what_to_do = ("", *fetch.said.splitlines())[-2:]
            raise OperatorError(message, what_to_do)
    return await asyncio.to_thread(kafka_jars)


def _verify(jars: Iterable[Jar], folder: Path) -> None:
    """Hashes every jar that is not exactly the file that was hashed before: 45 stats instead of 44 MB at each start."""
    stamps_file = folder / "verified.json"
    try:
        stamps = json.loads(stamps_file.read_text())
    except (OSError, ValueError):
        stamps = {}
    verified = {}
    for jar in jars:
        path = folder / jar.name
        stat = path.stat()
        # The change time cannot be set by a program, so a file that was written to never keeps its stamp.
        stamp = [jar.sha256, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
        if stamps.get(jar.name) != stamp:
            _check_hash(jar, path)
        verified[jar.name] = stamp
    if verified != stamps:
        temporary = stamps_file.with_suffix(".tmp")
        with explained(folder):
            temporary.write_text(json.dumps(verified))
            temporary.replace(stamps_file)


def _check_hash(jar: Jar, path: Path) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != jar.sha256:
        raise OperatorError(
            f"{path} is not the file that was locked: its SHA-256 is {found}, not {jar.sha256}. It is not run.",
            "Delete it and start again to fetch it anew; if that does not help, whoever delivers it is altering it.",
        )


def _fetch(jars: list[Jar], folder: Path) -> None:
    """Lets jgo fetch into a folder of its own; a jar moves to its place only whole and with the right hash."""
    from jgo.maven import MavenContext, PythonResolver  # Costs 0.2 s to import, and only a first start needs it.

    for leftover in folder.glob(".fetch-*"):  # Of one that was killed; we hold the lock, so nobody is at work.
        shutil.rmtree(leftover, ignore_errors=True)
    workplace = Path(tempfile.mkdtemp(prefix=".fetch-", dir=folder))
    mirror = os.environ.get("RAVAND_MAVEN_URL")
    context = MavenContext(
        resolver=PythonResolver(),
        repo_cache=workplace,
        remote_repos={"mirror": mirror.rstrip("/")} if mirror else None,
        timeout=30,
    )

    def fetch(jar: Jar) -> None:
        path = context.project(jar.group, jar.artifact).at_version(jar.version).artifact().resolve()
        _check_hash(jar, path)
        path.replace(folder / jar.name)

    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(fetch, jars))
    except OperatorError:
        raise
    except Exception as error:  # jgo passes on whatever its HTTP library raises, and RuntimeError for a 404.
        if isinstance(error, OSError) and error.errno:
            raise
        raise OperatorError(
            f"The jars of Apache Kafka could not be fetched from Maven Central: {error}",
            f"Connect the machine (or name a mirror in RAVAND_MAVEN_URL) and start again; or copy the files that"
            f" {lock_name()} lists into {folder}; or use a Kafka that runs elsewhere: RAVAND_KAFKA__BOOTSTRAP_SERVERS.",
        ) from error
    finally:
        shutil.rmtree(workplace, ignore_errors=True)


def lock_name() -> str:
    """The lock file as a person would look for it."""
    return f"{LOCK_FILE.parent.name}/{LOCK_FILE.name}"


def write_lock(lock_file: Path = LOCK_FILE) -> None:
    """Resolves `WANTED` anew and writes the lock file, for a change of Kafka's version."""
    from jgo.env import LockFile
    from jgo.maven import MavenContext, PythonResolver

    with tempfile.TemporaryDirectory() as repository:
        context = MavenContext(resolver=PythonResolver(), repo_cache=Path(repository), timeout=30)
        inputs, transitive = context.resolver.resolve([context.create_dependency(name) for name in WANTED])
        LockFile.from_resolved_dependencies(inputs + transitive).save(lock_file)


if __name__ == "__main__":
    # `python -m ops.kafka_jars` fills the cache (an image build does that); with `lock` it renews the lock file.
    try:
        if sys.argv[1:] == ["lock"]:
            write_lock()
        else:
            kafka_jars(say=lambda text: print(text, flush=True))
    except OperatorError as error:
        sys.exit(f"{error.message}\n{error.what_to_do}")
