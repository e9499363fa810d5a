"""The record on the wire: CloudEvents, what cannot be decoded, and what nobody is allowed to write."""

from __future__ import annotations

import json
import re
import sys
import time
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from domain.events import EVENTS, AttemptLost, EpochCompleted, Event, JobRequested, LossReason
from schemas import envelope as wire
from schemas.envelope import (
    MAX_RECORD_BYTES,
    RESERVED,
    Envelope,
    RecordTooLarge,
    UndecodableRecord,
    UnknownType,
    UnwritableRecord,
    decode,
    decode_many,
    encode,
    header,
    headers,
)
from schemas.readable import MAX_DEPTH
from schemas.upcast import UPCASTERS, upcast
from tests.schemas.examples import REQUESTED, STORY, example

EPOCH = encode(example("EpochCompleted-1"))
JOB = encode(example("JobRequested-1"))


def changed(value: bytes = EPOCH, **members: Any) -> bytes:
    """The record with other members (`None` drops one), written by somebody else's encoder."""
    document = {**json.loads(value), **members}
    return json.dumps({name: member for name, member in document.items() if member is not None}).encode()


def with_data(value: bytes = EPOCH, **members: Any) -> bytes:
    """The record with other members in `data`."""
    return changed(value, data={**json.loads(value)["data"], **members})


def raw(old: bytes, new: bytes, value: bytes = EPOCH) -> bytes:
    """The record with bytes replaced that no encoder would write."""
    assert old in value
    return value.replace(old, new, 1)


class TestCloudEvents:
    REQUIRED = ("specversion", "id", "source", "type")

    @pytest.mark.parametrize("name", STORY)
    def test_every_record_has_the_required_attributes(self, name: str) -> None:
        document = json.loads(encode(example(name)))
        assert document["specversion"] == "1.0"
        assert all(isinstance(document[attribute], str) and document[attribute] for attribute in self.REQUIRED)

    @pytest.mark.parametrize("name", STORY)
    def test_attribute_names_are_lower_case_letters_and_digits(self, name: str) -> None:
        names = set(json.loads(encode(example(name)))) - {"data"}
        assert all(re.fullmatch("[a-z0-9]{1,20}", attribute) for attribute in names)

    @pytest.mark.parametrize("name", STORY)
    def test_the_schema_ends_in_its_version(self, name: str) -> None:
        record = example(name)
        assert (
            record.dataschema == f"urn:ravand:schemas:{type(record.data).__name__}:{type(record.data).schema_version}"
        )

    @pytest.mark.parametrize("name", STORY)
    def test_headers_are_copies(self, name: str) -> None:
        record = example(name)
        document = json.loads(encode(record))
        assert headers(record) == [("ce_type", document["type"].encode()), ("ce_id", document["id"].encode())]

    def test_type_names_are_stable(self) -> None:
        assert {wire.type_name(event) for event in EVENTS} == {f"ravand.{event.__name__}" for event in EVENTS}

    @pytest.mark.parametrize("name", STORY)
    def test_what_is_written_is_read(self, name: str) -> None:
        assert decode(encode(example(name))) == example(name)

    def test_attributes_that_are_not_known_are_skipped(self) -> None:
        assert decode(changed(sampledrate=5, something="else")) == example("EpochCompleted-1")

    def test_fields_that_are_not_known_are_skipped(self) -> None:
        assert decode(with_data(samples=150)) == example("EpochCompleted-1")

    def test_white_space_and_order_do_not_matter(self) -> None:
        document = json.loads(EPOCH)
        other = json.dumps(dict(reversed(document.items())), indent=3).encode()
        assert decode(other) == example("EpochCompleted-1")


BAD: dict[str, bytes | None] = {
    "no value": None,
    "nothing": b"",
    "no JSON": b"\x00\x01",
    "no object": b"[]",
    "half a record": EPOCH[:-10],
    "two records": EPOCH + EPOCH,
    "a byte order mark": b"\xef\xbb\xbf" + EPOCH,
    "no UTF-8 in a field": raw(b"ravand/worker", b"ravand/\xff"),
    "no UTF-8 in a field nobody knows": raw(b'"time"', b'"new":"\xff","time"'),
    "NUL": raw(b"ravand/worker", b"ravand\\u0000"),
    "NUL in a name": with_data(metrics={"a\0b": 1.0}),
    "NUL in parameters": with_data(JOB, parameters={"a": ["\0"]}),
    "NUL in a field nobody knows": changed(new={"a": ["b\0"]}),
    "half of a surrogate pair": raw(b"ravand/worker", b"ravand\\ud800"),
    "NaN": raw(b"0.5", b"NaN"),
    "infinity": raw(b"0.5", b"1e999"),
    "infinity in parameters": raw(b"0.001", b"1e999", JOB),
    "infinity in a field nobody knows": raw(b'"time"', b'"new":1e999,"time"'),
    "no number at all": with_data(metrics={"loss": None}),
    "a number as text": with_data(epoch="1"),
    "a truth as a number": with_data(epoch=True),
    "a fraction of an epoch": with_data(epoch=1.5),
    "a negative epoch": with_data(epoch=-1),
    "an epoch beyond the column": with_data(epoch=2**31),
    "an attempt of zero": with_data(attempt=0),
    "an integer beyond 64 bits": with_data(epoch=2**70),
    "an integer beyond 64 bits in parameters": with_data(JOB, parameters={"seed": 2**63}),
    "an integer beyond 64 bits in a field nobody knows": changed(new=-(2**63) - 1),
    "a negative time": with_data(seconds=-1),
    "a metric without a name": with_data(metrics={"": 1.0}),
    "a metric with an endless name": with_data(metrics={"m" * 101: 1.0}),
    "too many metrics": with_data(metrics={str(n): 1.0 for n in range(257)}),
    "no worker": with_data(worker=""),
    "an endless worker": with_data(worker="w" * 201),
    "no data": changed(data=None),
    "another version of CloudEvents": changed(specversion="0.3"),
    "no id": changed(id=None),
    "an empty id": changed(id=""),
    "an endless id": changed(id="i" * 129),
    "no subject": changed(subject=None),
    "no workspace": changed(workspace=None),
    "no actor": changed(actor=None),
    "no type": changed(type=None),
    "the schema of another type": changed(dataschema="urn:ravand:schemas:JobFailed:1"),
    "no schema at all": changed(dataschema="nothing"),
    "a schema version of zero": changed(dataschema="urn:ravand:schemas:EpochCompleted:0"),
    "a schema version that is none": changed(dataschema="urn:ravand:schemas:EpochCompleted:x"),
    "the same schema version in other digits": changed(dataschema="urn:ravand:schemas:EpochCompleted:۱"),
    "too large": changed(new="x" * MAX_RECORD_BYTES),
    "nested too deep": changed(new=json.loads("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1))),
    "nested too deep in parameters": with_data(JOB, parameters={"a": json.loads("[" * 70 + "]" * 70)}),
    "nested deeper than any stack": raw(b'"time"', b'"new":' + b"[" * 50_000 + b"]" * 50_000 + b',"time"'),
    "nested deeper than any stack where it matters": raw(
        b'{"loss"', b'{"a":' + b'{"a":' * 20_000 + b"1" + b"}" * 20_000 + b',"loss"'
    ),
    **{f"the member {name!r} of facts": changed(EPOCH, **{name: 1}) for name in sorted(RESERVED)},
}


class TestWhatCannotBeDecoded:
    """Refused by rule, whoever reads it and however deep their stack is."""

    @pytest.mark.parametrize("case", BAD)
    def test_undecodable(self, case: str) -> None:
        with pytest.raises(UndecodableRecord):
            decode(BAD[case])

    def test_the_deepest_that_is_allowed_is_read(self) -> None:
        deep = changed(new=json.loads("[" * MAX_DEPTH + "]" * MAX_DEPTH))
        assert decode(deep) == example("EpochCompleted-1")

    def test_the_verdict_does_not_depend_on_the_stack(self) -> None:
        """As far down as a process may be, the same bytes are read or not read."""
        deep = BAD["nested too deep in parameters"]
        fine = with_data(JOB, parameters={"a": json.loads("[" * 50 + "]" * 50)})

        def further_down(frames: int) -> None:
            if frames:
                further_down(frames - 1)
                return
            with pytest.raises(UndecodableRecord, match="nested deeper"):
                decode(deep)
            decode(fine)

        for frames in (0, sys.getrecursionlimit() // 2):
            further_down(frames)

    def test_a_backslash_before_u0000_is_no_nul(self) -> None:
        assert decode(changed(source="a\\u0000")).source == "a\\u0000"

    def test_integers_of_64_bits_are_read(self) -> None:
        for number in (2**63 - 1, -(2**63)):
            record = decode(with_data(JOB, parameters={"seed": number}))
            assert isinstance(record.data, JobRequested)
            assert record.data.parameters["seed"] == number

    @settings(max_examples=500)
    @given(st.sampled_from(list(STORY)), st.data())
    def test_damaged_bytes_are_read_or_refused_and_nothing_else(self, name: str, data: st.DataObject) -> None:
        value = bytearray(encode(example(name)))
        for _ in range(data.draw(st.integers(1, 4))):
            start = data.draw(st.integers(0, len(value)))
            end = min(len(value), start + data.draw(st.integers(0, 12)))
            value[start:end] = data.draw(
                st.one_of(st.binary(max_size=8), st.sampled_from([b"\\u0000", b"1e999", b'"']))
            )
        try:
            record = decode(bytes(value))
        except (UndecodableRecord, UnknownType):
            return
        assert decode(encode(record)) == record
        json.loads(bytes(value))


def decoded(value: bytes | None) -> Envelope | None:
    """The record, where there is one."""
    try:
        return decode(value)
    except (UndecodableRecord, UnknownType):
        return None


class TestManyAtOnce:
    """What the bytes of one record say does not depend on those beside it."""

    def test_those_of_our_own_encoder_are_read_together(self) -> None:
        names = [name for name in STORY if type(example(name).data) is not JobRequested]
        written = [encode(example(name)) for name in names]
        assert decode_many(written) == [example(name) for name in names]

    def test_of_nothing_comes_nothing(self) -> None:
        assert decode_many([]) == []

    @pytest.mark.parametrize("apart", [JOB, encode(replace(example("EpochCompleted-1"), source='a"'))])
    def test_those_that_have_to_be_looked_through_are_left_to_decode(self, apart: bytes) -> None:
        assert decode_many([EPOCH, apart, EPOCH]) == [decode(EPOCH), None, decode(EPOCH)]

    @pytest.mark.parametrize("case", BAD)
    def test_none_that_cannot_be_decoded_is_read_among_others(self, case: str) -> None:
        assert decode_many([EPOCH, BAD[case], EPOCH])[1] is None

    @pytest.mark.parametrize(
        "values",
        [
            [EPOCH + b"\n" + EPOCH],
            [EPOCH + b"\n" + EPOCH, b""],
            [EPOCH + EPOCH, b""],
            [EPOCH + b"\n" + EPOCH[:9], EPOCH[9:]],
            [EPOCH + b"\n" + EPOCH[:9] + b"\n" + EPOCH[9:], b""],
            [EPOCH[:9], EPOCH[9:] + b"\n" + EPOCH],
            [b"", EPOCH + b"\n" + EPOCH],
            [b"\n" + EPOCH],
            [EPOCH + b"\n"],
        ],
    )
    def test_a_record_ends_where_its_value_does(self, values: list[bytes]) -> None:
        assert decode_many(values) == [None] * len(values)

    @settings(max_examples=300)
    @given(st.data())
    def test_each_is_what_decode_says_of_it(self, data: st.DataObject) -> None:
        whole: list[bytes | None] = [encode(example(name)) for name in STORY]
        usual = st.sampled_from([*whole, *whole, EPOCH + b"\n", changed(), *BAD.values()])
        values = data.draw(st.lists(usual, max_size=6))
        if data.draw(st.booleans()) and values:
            at = data.draw(st.integers(0, len(values) - 1))
            one = values[at] or b""
            cut = data.draw(st.integers(0, len(one)))
            values[at : at + 1] = [one[:cut], one[cut:]]
        for value, found in zip(values, decode_many(values), strict=True):
            assert found is None or found == decoded(value)


class TestUnknownTypes:
    """Well-formed records that a newer build may have written: they may come into force, so they are no rubbish."""

    @pytest.mark.parametrize(
        "value",
        [
            changed(type="ravand.Promoted", dataschema="urn:ravand:schemas:Promoted:1"),
            changed(type="somebody.elses", dataschema="x"),
            changed(dataschema="urn:ravand:schemas:EpochCompleted:2"),
            changed(dataschema="urn:ravand:schemas:EpochCompleted:2", data="another shape"),
        ],
    )
    def test_they_are_told_apart_from_rubbish(self, value: bytes) -> None:
        with pytest.raises(UnknownType) as raised:
            decode(value)
        assert (raised.value.header.id, raised.value.header.subject) == (
            example("EpochCompleted-1").id,
            example("EpochCompleted-1").subject,
        )

    @pytest.mark.parametrize("case", ["NUL in a field nobody knows", "infinity in a field nobody knows", "too large"])
    def test_rubbish_of_an_unknown_type_is_rubbish_to_every_build(self, case: str) -> None:
        value = BAD[case]
        assert value is not None
        unknown = value.replace(b"ravand.EpochCompleted", b"ravand.Promoted")
        with pytest.raises(UndecodableRecord):
            decode(unknown)
        assert header(unknown) is None

    def test_the_header_of_a_record_whose_data_is_wrong_can_be_read(self) -> None:
        found = header(with_data(epoch="one"))
        assert found is not None
        assert found.type == "ravand.EpochCompleted"

    @pytest.mark.parametrize("value", [None, b"", b"{", b"5", b"[" * 100_000])
    def test_of_rubbish_there_is_no_header(self, value: bytes | None) -> None:
        assert header(value) is None


def from_one(data: dict[str, Any]) -> dict[str, Any]:
    """Version 1 counted from zero and called it `index`."""
    return {**{name: value for name, value in data.items() if name != "index"}, "epoch": data["index"] + 1}


def from_two(data: dict[str, Any]) -> dict[str, Any]:
    """Version 2 had the loss beside the metrics."""
    return {**{name: value for name, value in data.items() if name != "loss"}, "metrics": {"loss": data["loss"]}}


class TestUpcasting:
    """A planted version 3 of an event, with versions 1 and 2 in the log."""

    @pytest.fixture
    def newer(self, monkeypatch: pytest.MonkeyPatch) -> None:
        kind = EpochCompleted
        monkeypatch.setattr(kind, "schema_version", 3)
        monkeypatch.setitem(cast(dict[Any, str], wire._SCHEMAS), kind, wire.schema_of(kind))
        monkeypatch.setitem(UPCASTERS, ("EpochCompleted", 1), from_one)
        monkeypatch.setitem(UPCASTERS, ("EpochCompleted", 2), from_two)

    def old(self, version: int, **data: Any) -> bytes:
        return changed(
            dataschema=f"urn:ravand:schemas:EpochCompleted:{version}", data={"attempt": 1, "worker": "w", **data}
        )

    @pytest.mark.usefixtures("newer")
    def test_every_step_is_taken(self) -> None:
        expected = EpochCompleted(attempt=1, worker="w", epoch=5, metrics={"loss": 0.5})
        assert decode(self.old(1, index=4, loss=0.5)).data == expected
        assert decode(self.old(2, epoch=5, loss=0.5)).data == expected
        assert decode(self.old(3, epoch=5, metrics={"loss": 0.5})).data == expected

    @pytest.mark.usefixtures("newer")
    def test_the_envelope_is_kept_and_names_the_newest_schema(self) -> None:
        record = decode(self.old(1, index=4, loss=0.5))
        assert record == replace(
            example("EpochCompleted-1"), data=record.data, dataschema="urn:ravand:schemas:EpochCompleted:3"
        )

    @pytest.mark.usefixtures("newer")
    @pytest.mark.parametrize(
        "data", [{}, {"index": "x", "loss": 1}, {"index": -5, "loss": 1}, {"index": 1, "loss": None}]
    )
    def test_what_an_upcaster_chokes_on_is_undecodable(self, data: dict[str, Any]) -> None:
        with pytest.raises(UndecodableRecord):
            decode(self.old(1, **data))

    @pytest.mark.usefixtures("newer")
    @pytest.mark.parametrize("data", [None, [], "text", 5])
    def test_data_that_is_no_object_is_undecodable(self, data: Any) -> None:
        with pytest.raises(UndecodableRecord):
            decode(raw(b'"data":{}', b'"data":' + json.dumps(data).encode(), encode_old()))

    @pytest.mark.usefixtures("newer")
    def test_a_version_that_was_never_released_is_undecodable(self) -> None:
        with pytest.raises(UndecodableRecord):
            decode(self.old(0, index=1, loss=1))

    @pytest.mark.usefixtures("newer")
    def test_a_version_yet_to_come_is_unknown(self) -> None:
        with pytest.raises(UnknownType):
            decode(self.old(4, epoch=1))

    def test_no_step_is_missing(self) -> None:
        steps = {(event.__name__, version) for event in EVENTS for version in range(1, event.schema_version)}
        assert set(UPCASTERS) == steps

    def test_newer_than_the_newest_is_an_error(self) -> None:
        with pytest.raises(KeyError):
            upcast("EpochCompleted", 2, 1, {})


def encode_old() -> bytes:
    """A record of version 1 with empty data, compact."""
    document = json.loads(changed(dataschema="urn:ravand:schemas:EpochCompleted:1", data={}))
    return json.dumps(document, separators=(",", ":")).encode()


class TestWriting:
    """A writer's mistake ends at the writer: nobody waits for a verdict on bytes that nobody can read."""

    @pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
    def test_numbers_that_are_none_are_not_written(self, number: float) -> None:
        event = EpochCompleted(attempt=1, worker="w", epoch=1, metrics={"loss": number})
        with pytest.raises(UnwritableRecord, match="EpochCompleted"):
            encode(self.record(event))

    @pytest.mark.parametrize(
        "parameters", [{"a": "\0"}, {"a": 2**64}, {"a": "x" * MAX_RECORD_BYTES}, {"a": json.loads("[" * 70 + "]" * 70)}]
    )
    def test_parameters_that_nobody_could_read_are_not_written(self, parameters: dict[str, Any]) -> None:
        with pytest.raises(UnwritableRecord):
            encode(self.record(replace(REQUESTED, parameters=parameters)))

    def test_too_large_is_told_apart(self) -> None:
        with pytest.raises(RecordTooLarge, match="at most 262144"):
            encode(self.record(replace(REQUESTED, parameters={"a": "x" * MAX_RECORD_BYTES})))

    @pytest.mark.parametrize("text", ["\ud800", "a\udc00"])
    def test_half_of_a_surrogate_pair_is_not_written(self, text: str) -> None:
        with pytest.raises(UnwritableRecord):
            encode(self.record(replace(REQUESTED, name=text)))

    def test_a_field_out_of_range_is_not_written(self) -> None:
        reason: LossReason = "killed"
        with pytest.raises(UnwritableRecord):
            encode(self.record(AttemptLost(attempt=0, worker="w", reason=reason)))

    def record(self, event: Event) -> wire.Envelope:
        return wire.record(
            event, id="i", source="s", subject="j", time="2026-11-23T12:00:00Z", workspace="w", actor="a"
        )


def test_what_decoding_costs(capsys: pytest.CaptureFixture[str]) -> None:
    """Printed, not asserted: a machine's speed is no property of the code."""
    foreign = json.dumps(json.loads(EPOCH)).encode()
    with capsys.disabled():
        for name, value in {"our own bytes": EPOCH, "somebody else's": foreign}.items():
            begin, rounds = time.perf_counter(), 2000
            for _ in range(rounds):
                decode(value)
            print(
                f"\n  decode {name}, {len(value)} bytes: {(time.perf_counter() - begin) / rounds * 1e6:.1f} µs", end=""
            )
    assert msgspec.json.decode(foreign) == msgspec.json.decode(EPOCH)
