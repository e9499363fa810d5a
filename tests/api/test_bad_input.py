"""Bad input: each kind gets its code, leaves nothing behind, and no process dies."""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import pytest_asyncio
from pydantic import BaseModel

from recipes.tabular.spec import TABULAR
from tests.api.platform import CSV, Member, Platform

pytestmark = pytest.mark.asyncio(loop_scope="module")
JSON = {"Content-Type": "application/json"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def member(platform: Platform) -> AsyncIterator[Member]:
    """One member for all of it: nothing here may leave anything behind that the next test would notice."""
    async with platform.member() as somebody:
        yield somebody


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def dataset(member: Member) -> dict[str, Any]:
    """Something to train on."""
    return await member.dataset()


def problem(answer: httpx2.Response, status: int, code: str) -> dict[str, Any]:
    """The problem document, which is whole and of that kind."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert document["status"] == status
    assert document["code"] == code, document
    assert document["type"] == f"urn:ravand:problem:{code}"
    assert document["title"]
    assert document["detail"]
    assert document["id"] == answer.headers["ravand-request-id"]
    return dict(document)


NOT_JSON: dict[str, bytes] = {
    "empty": b"",
    "blank": b"  \n",
    "cut off": b'{"job_id": ',
    "nan": b'{"recipe": "tabular", "dataset_id": "x", "parameters": {"learning_rate": NaN}}',
    "infinity": b'{"recipe": "tabular", "dataset_id": "x", "parameters": {"learning_rate": Infinity}}',
    "minus infinity": b'{"recipe": "tabular", "dataset_id": "x", "parameters": {"learning_rate": -Infinity}}',
    "too large a number": b'{"recipe": "tabular", "dataset_id": "x", "parameters": {"learning_rate": 1e999}}',
    "depth": b"[" * 100_000,
    "nested objects": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "not utf-8": b'{"recipe": "\xff\xfe"}',
    "lone surrogate": b'{"recipe": "\\ud800"}',
    "nul": b'{"recipe": "tab\\u0000ular", "dataset_id": "x"}',
    "byte order mark": b'\xef\xbb\xbf{"recipe": "tabular"}',
    "nothing but a name": b"null_",
    "trailing": b'{"recipe": "tabular"} x',
    "form": b"recipe=tabular&dataset_id=1",
}


@pytest.mark.parametrize("path", ["/api/train", "/api/train/stop", "/api/auth/login", "/api/v1/auth/register"])
@pytest.mark.parametrize("kind", NOT_JSON)
async def test_a_body_that_is_no_json_is_malformed(member: Member, path: str, kind: str) -> None:
    problem(await member.http.post(path, content=NOT_JSON[kind], headers=JSON), 422, "malformed")


WRONG_BODIES: list[tuple[str, Any, list[str]]] = [
    ("/api/train", [], [""]),
    ("/api/train", 5, [""]),
    ("/api/train", {}, ["recipe", "dataset_id"]),
    ("/api/train", {"recipe": 1, "dataset_id": [], "parameters": "x"}, ["recipe", "dataset_id", "parameters"]),
    ("/api/train", {"recipe": "tabular", "dataset_id": "x", "owner": "me", "status": "done"}, ["owner", "status"]),
    ("/api/train", {"recipe": "tabular", "dataset_id": "x", "name": "../evil"}, ["name"]),
    ("/api/train", {"recipe": "tabular", "dataset_id": "x", "model": "a/b"}, ["model"]),
    ("/api/train", {"recipe": "tabular", "dataset_id": "x", "priority": 10**30}, ["priority"]),
    ("/api/train", {"recipe": "no-such", "dataset_id": "x"}, ["recipe"]),
    ("/api/train/stop", {"job_id": 5}, ["job_id"]),
    ("/api/train/stop", {"job_id": "x", "force": True}, ["force"]),
    ("/api/train/retry", {"job_id": "x", "fresh": "yes"}, ["fresh"]),
    ("/api/train/priority", {"job_id": "x", "priority": 1.5}, ["priority"]),
    ("/api/train/priority", {"job_id": "x", "priority": True}, ["priority"]),
    ("/api/auth/login", {"email": ["a"], "password": None}, ["email", "password"]),
    ("/api/auth/register", {"email": "no", "password": "short", "name": ""}, ["email", "name", "password"]),
    (
        "/api/auth/register",
        {"email": "a@b.cd", "password": "a long enough one", "name": "A", "role": "admin"},
        ["role"],
    ),
]


@pytest.mark.parametrize(("path", "body", "fields"), WRONG_BODIES)
async def test_wrong_fields_are_named(member: Member, path: str, body: Any, fields: list[str]) -> None:
    document = problem(await member.http.post(path, json=body), 422, "invalid")
    assert [error["field"] for error in document["errors"]] == fields
    assert all(error["message"].endswith(".") for error in document["errors"])


async def test_every_wrong_parameter_is_named_at_once(member: Member, dataset: dict[str, Any]) -> None:
    parameters = {"target": "price", "epochs": 0, "learning_rate": "fast", "no_such": 1, "batch_size": True}
    document = problem(await member.train(dataset["id"], parameters=parameters), 422, "invalid")
    assert {error["field"] for error in document["errors"]} == {
        "parameters.target",
        "parameters.epochs",
        "parameters.learning_rate",
        "parameters.no_such",
        "parameters.batch_size",
    }


async def test_a_parameter_that_is_missing_is_named_with_the_others(member: Member, dataset: dict[str, Any]) -> None:
    document = problem(await member.train(dataset["id"], parameters={"epochs": 0}), 422, "invalid")
    assert {error["field"] for error in document["errors"]} == {"parameters.target", "parameters.epochs"}


@pytest.mark.parametrize("epochs", [0, -1, 100_001, 1.5, "3", None, True, [3], {"n": 3}, 10**40])
async def test_epochs_are_a_whole_number_from_1_to_100000(member: Member, dataset: dict[str, Any], epochs: Any) -> None:
    answer = await member.train(dataset["id"], parameters={"target": "kind", "epochs": epochs})
    assert [error["field"] for error in problem(answer, 422, "invalid")["errors"]] == ["parameters.epochs"]


async def test_a_body_of_more_than_a_mebibyte_is_refused_by_its_length_and_by_its_bytes(member: Member) -> None:
    large = json.dumps({"job_id": "x" * 10_000_000}).encode()
    problem(await member.http.post("/api/train/stop", content=large, headers=JSON), 413, "too_large")

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(large), 65536):
            yield large[start : start + 65536]

    problem(await member.http.post("/api/train/stop", content=chunks(), headers=JSON), 413, "too_large")
    assert (await member.http.get("/api/auth/me")).status_code == 200


async def test_what_makes_too_large_a_record_is_refused_and_not_on_the_log(member: Member) -> None:
    long = "x" * 250
    dataset = await member.dataset(CSV.replace(b"width", long.encode(), 1))
    before = (await member.http.get("/api/train/jobs")).json()
    answer = await member.train(dataset["id"], parameters={"target": "kind", "ignore": [long] * 1200})
    problem(answer, 413, "record_too_large")
    assert (await member.http.get("/api/train/jobs")).json() == before


class BoundlessParameters(BaseModel):
    """What somebody's own recipe may take."""

    anything: Any


async def test_parameters_of_a_plugin_that_no_reader_could_hold_are_refused_and_not_on_the_log(
    member: Member, dataset: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    boundless = dataclasses.replace(TABULAR, name="boundless", parameters=BoundlessParameters, check=lambda *_: ())
    monkeypatch.setattr("api.training.recipes", lambda: {"boundless": boundless})
    before = (await member.http.get("/api/train/jobs")).json()
    deep = json.loads("[" * 100 + "]" * 100)
    answer = await member.train(dataset["id"], recipe="boundless", parameters={"anything": deep})
    assert "nested" in problem(answer, 422, "malformed")["detail"]
    assert (await member.http.get("/api/train/jobs")).json() == before


NO_IDS = ["x", "", "../../etc/passwd", "%2e%2e", "a\0b", "1' OR '1'='1", "0" * 36, "x" * 900, "٠", "{}", "null"]


@pytest.mark.parametrize("id", NO_IDS)
async def test_what_is_no_id_is_not_found(member: Member, id: str) -> None:
    problem(await member.http.get("/api/train/status", params={"job_id": id}), 404, "not_found")
    if "\0" not in id:
        problem(await member.http.post("/api/train/stop", json={"job_id": id}), 404, "not_found")
        problem(await member.train(id), 404, "not_found")


@pytest.mark.parametrize(
    "path",
    [
        "/api/datasets/{}",
        "/api/datasets/{}/preview",
        "/api/train/{}/history",
        "/api/train/{}/events",
        "/api/models/{}",
        "/api/models/{}/versions/1/download",
        "/api/models/flowers/versions/{}/download",
    ],
)
@pytest.mark.parametrize(
    "id", ["x", "%2e%2e%2fetc", "..%5c..%5c", "a%00b", "%23", "%3F", "file%3A%2F%2F", "9" * 30, "%FF"]
)
async def test_paths_with_strange_ids_are_not_found(member: Member, path: str, id: str) -> None:
    problem(await member.http.get(path.format(id)), 404, "not_found")


@pytest.mark.parametrize(
    ("path", "query", "field"),
    [
        ("/api/train/jobs", "limit=0", "limit"),
        ("/api/train/jobs", "limit=201", "limit"),
        ("/api/train/jobs", "limit=many", "limit"),
        ("/api/train/jobs", "status=done", "status"),
        ("/api/train/jobs", "cursor=abc", "cursor"),
        ("/api/train/jobs", "cursor=bm90IG91cnM", "cursor"),
        ("/api/train/jobs", "cursor=" + "A" * 200, "cursor"),
        ("/api/datasets", "cursor=%00", "cursor"),
        ("/api/datasets", "limit=-1", "limit"),
        ("/api/models", "limit=1e3", "limit"),
        ("/api/train/status", "", "job_id"),
        ("/api/train/jobs", "after=x", "after"),
        ("/api/train/jobs", "after=-1", "after"),
        ("/api/train/jobs", "after=1.5", "after"),
        ("/api/train/jobs", "after=99999999999999999999999", "after"),
        ("/api/train/jobs", "after=", "after"),
        ("/api/auth/me", "after=%D9%A1", "after"),
        ("/api/recipes", "after=x", "after"),
        ("/api/health/live", "after=x", "after"),
        ("/api/openapi.json", "after=x", "after"),
    ],
)
async def test_wrong_queries_are_named(member: Member, path: str, query: str, field: str) -> None:
    document = problem(await member.http.get(f"{path}?{query}"), 422, "invalid")
    assert [error["field"] for error in document["errors"]] == [field]


@pytest.mark.parametrize("key", ["", "é".encode(), "x" * 256, "tab\there"])
async def test_a_key_that_is_none_is_refused(member: Member, dataset: dict[str, Any], key: Any) -> None:
    answer = await member.http.post(
        "/api/train",
        json={"recipe": "tabular", "dataset_id": dataset["id"], "parameters": {"target": "kind"}},
        headers=[(b"Idempotency-Key", key if isinstance(key, bytes) else key.encode())],
    )
    problem(answer, 422, "invalid")


def zipped(files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


def npz(**arrays: Any) -> bytes:
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


BAD_FILES: dict[str, tuple[str, bytes, int]] = {
    "nothing": ("a.csv", b"", 422),
    "only a header": ("a.csv", b"a,b,c\n", 422),
    "ragged rows": ("a.csv", b"a,b,c\n1,2,3\n4,5\n", 422),
    "a byte that is not utf-8": ("a.csv", b"a,b\n1,2\n\xff\xfe\xfa,3\n", 422),
    "a nul": ("a.csv", b"a,b\n1,\x002\n", 422),
    "noise": ("a.bin", bytes(range(256)) * 40, 422),
    "a zip bomb": ("a.zip", zipped({"cat/1.png": b"\0" * 60_000_000}), 413),
    "a zip slip": ("a.zip", zipped({"../evil.png": b"x", "cat/1.png": b"x"}), 422),
    "a zip of no images": ("a.zip", zipped({"cat/1.txt": b"x"}), 422),
    "half a zip": ("a.zip", zipped({"cat/1.png": b"x" * 1000})[:60], 422),
    "a pickle in an npz": ("a.npz", npz(x=np.array([{"a": 1}, None], dtype=object)), 422),
    "a pickle": ("a.pkl", b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94.", 422),
    "half a parquet": ("a.parquet", b"PAR1" + b"\0" * 100, 422),
}


def files_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", BAD_FILES)
async def test_a_file_that_is_no_dataset_leaves_nothing_behind(member: Member, objects: Path, kind: str) -> None:
    filename, data, status = BAD_FILES[kind]
    before, known = files_of(objects), (await member.http.get("/api/datasets")).json()
    answer = await member.upload(data, filename)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"]
    assert files_of(objects) == before
    assert (await member.http.get("/api/datasets")).json() == known


@pytest.mark.parametrize(
    "content",
    [
        b"width\n1\n2\n3\n",
        b"\xef\xbb\xbfwidth,kind\n1,a\n2,b\n",
        "طول,گونه\n۱,گل\n2,لاله\n".encode(),
    ],
)
async def test_unusual_tables_are_taken(member: Member, content: bytes) -> None:
    answer = await member.upload(content)
    assert answer.status_code == 201, answer.text
    assert not answer.json()["columns"][0]["name"].startswith("\ufeff")


async def test_training_on_one_column_or_one_class_is_refused(member: Member) -> None:
    one_column = await member.dataset(b"kind\n" + b"rose\ntulip\n" * 20)
    document = problem(await member.train(one_column["id"], parameters={"target": "kind"}), 422, "invalid")
    assert document["errors"][0]["field"].startswith("parameters.")
    one_class = await member.dataset(b"width,kind\n" + b"".join(b"%d,rose\n" % i for i in range(40)))
    document = problem(await member.train(one_class["id"], parameters={"target": "kind"}), 422, "invalid")
    assert [error["field"] for error in document["errors"]] == ["parameters.target"]


@pytest.mark.parametrize("name", ["../x", "a/b", "..", "a\\b", "x" * 201, "\u202egpj.exe", "tab\there", "  "])
async def test_names_are_no_paths_and_no_tricks(member: Member, objects: Path, name: str) -> None:
    before = files_of(objects)
    document = problem(await member.upload(CSV, name=name), 422, "invalid")
    assert [error["field"] for error in document["errors"]] == ["name"]
    assert files_of(objects) == before


@pytest.mark.parametrize(
    ("filename", "name"),
    [
        ("../../etc/flowers.csv", "flowers.csv"),
        ("C:\\data\\flowers.csv", "flowers.csv"),
        ("گل.csv", "گل.csv"),
        ("..", "dataset"),
        ("data/", "dataset"),
    ],
)
async def test_of_a_files_name_the_last_part_is_taken_if_it_is_a_name(member: Member, filename: str, name: str) -> None:
    assert (await member.upload(CSV, filename)).json()["name"] == name


FORMS: dict[str, tuple[str, bytes, str]] = {
    "no form": ("application/json", b"{}", "malformed"),
    "no boundary": ("multipart/form-data", b"--x\r\n", "malformed"),
    "too long a boundary": ("multipart/form-data; boundary=" + "x" * 300, b"--x\r\n", "malformed"),
    "empty": ("multipart/form-data; boundary=x", b"", "malformed"),
    "cut off": (
        "multipart/form-data; boundary=x",
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.csv"\r\n\r\na,b\n1,2\n',
        "malformed",
    ),
    "garbage": ("multipart/form-data; boundary=x", b"garbage", "malformed"),
    "no file": (
        "multipart/form-data; boundary=x",
        b'--x\r\nContent-Disposition: form-data; name="name"\r\n\r\nflowers\r\n--x--\r\n',
        "invalid",
    ),
    "two files": (
        "multipart/form-data; boundary=x",
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\na\r\n' * 2 + b"--x--\r\n",
        "invalid",
    ),
    "endless header": (
        "multipart/form-data; boundary=x",
        b"--x\r\nContent-Disposition: " + b"a" * 100_000,
        "malformed",
    ),
    "many parts": (
        "multipart/form-data; boundary=x",
        b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n' * 1000 + b"--x--\r\n",
        "malformed",
    ),
    "a field that is not utf-8": (
        "multipart/form-data; boundary=x",
        b'--x\r\nContent-Disposition: form-data; name="name"\r\n\r\nfl\xffwers\r\n--x--\r\n',
        "invalid",
    ),
    "unknown field": (
        "multipart/form-data; boundary=x",
        b'--x\r\nContent-Disposition: form-data; name="owner"\r\n\r\nme\r\n'
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.csv"\r\n\r\na,b\n1,2\n\r\n--x--\r\n',
        "invalid",
    ),
}


@pytest.mark.parametrize("kind", FORMS)
async def test_forms_that_are_none_leave_nothing_behind(member: Member, objects: Path, kind: str) -> None:
    content_type, body, code = FORMS[kind]
    before = files_of(objects)
    answer = await member.http.post("/api/datasets", content=body, headers={"Content-Type": content_type})
    problem(answer, 422, code)
    assert files_of(objects) == before


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/", 404, "not_found"),
        ("GET", "/api", 404, "not_found"),
        ("GET", "/api/nothing", 404, "not_found"),
        ("GET", "/api/v1/nothing", 404, "not_found"),
        ("GET", "/api/v1", 404, "not_found"),
        ("GET", "/api/train/jobs/", 404, "not_found"),
        ("GET", "//api/train/jobs", 404, "not_found"),
        ("GET", "/docs", 404, "not_found"),
        ("GET", "/metrics", 404, "not_found"),
        ("DELETE", "/api/train/jobs", 405, "method_not_allowed"),
        ("GET", "/api/auth/login", 405, "method_not_allowed"),
        ("TRACE", "/api/train/jobs", 405, "method_not_allowed"),
        ("PUT", "/api/v1/datasets", 405, "method_not_allowed"),
    ],
)
async def test_what_is_not_there_is_a_problem_too(
    platform: Platform, method: str, path: str, status: int, code: str
) -> None:
    async with platform.client() as http:
        problem(await http.request(method, path), status, code)


async def test_a_mistake_of_ours_around_the_endpoints_is_a_problem_too_and_is_reported(
    member: Member, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def mistaken(*_arguments: Any) -> None:
        raise RuntimeError("a mistake of ours")

    with monkeypatch.context() as patch:
        patch.setattr("api.routing.handle", mistaken)
        document = problem(await member.http.get("/api/train/status"), 500, "internal")
    said = capsys.readouterr().err
    assert document["id"] in said
    assert "a mistake of ours" in said
    problem(await member.http.get("/api/train/status"), 422, "invalid")
