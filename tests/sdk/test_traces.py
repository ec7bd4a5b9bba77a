"""Traces of calls, as collectors get them, decoded by OpenTelemetry's own messages; and metrics, by Prometheus' own parser."""

import http.server
import json
import signal
import threading
import urllib.request

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from stack import CALLER_KEY, Stack
from test_process import wait_for
from websockets.sync.client import connect

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


class Collector:
    """A collector of OTLP over HTTP."""

    def __init__(self):
        self.status = 200
        self.headers: list[dict] = []
        self.resources: list = []
        self.spans: list[Span] = []
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                collector.take(dict(self.headers), body)
                self.send_response(collector.status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1/traces"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def take(self, headers: dict, body: bytes):
        self.headers.append({name.lower(): value for name, value in headers.items()})
        request = ExportTraceServiceRequest.FromString(body)
        if self.status == 200:
            for of in request.resource_spans:
                self.resources.append(of.resource)
                self.spans.extend(span for scope in of.scope_spans for span in scope.spans)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()


def traces(collector: Collector) -> str:
    return (
        f'[traces]\nendpoint = "{collector.url}"\ndelay = "50ms"\nservice_name = "voice"\n'
        '[traces.headers.authorization]\nvalue = "Bearer of-the-collector"\n'
    )


def call(stack: Stack, **headers: str):
    """One call of an SDK client that has something said to it."""
    url = f"ws://{stack.gateway}/v1/realtime?model=ga-parrot"
    with connect(url, additional_headers={"api-key": CALLER_KEY, **headers}) as socket:
        assert json.loads(socket.recv(timeout=20))["type"] == "session.created"
        item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello there."}]}
        socket.send(json.dumps({"type": "conversation.item.create", "item": item}))
        socket.send(json.dumps({"type": "response.create"}))
        while json.loads(socket.recv(timeout=20))["type"] != "response.done":
            pass


def attributes(span) -> dict:
    return {it.key: getattr(it.value, it.value.WhichOneof("value")) for it in span.attributes}


def test_a_call_is_one_trace_in_that_of_its_caller():
    with Collector() as collector, Stack(more=traces(collector)) as stack:
        call(stack, traceparent=f"00-{TRACE}-{PARENT}-00", tracestate="vendor=value")
        wait_for(lambda: any(span.kind == Span.SPAN_KIND_SERVER for span in collector.spans))
        assert {span.trace_id.hex() for span in collector.spans} == {TRACE}
        assert {span.trace_state for span in collector.spans} == {"vendor=value"}
        [root] = [span for span in collector.spans if span.kind == Span.SPAN_KIND_SERVER]
        assert root.parent_span_id.hex() == PARENT
        about = attributes(root)
        assert about["trunkline.tenant"] == "acme"
        assert about["trunkline.end_reason"] == "caller_hangup"
        ids = {span.span_id for span in collector.spans}
        assert all(span.parent_span_id in ids for span in collector.spans if span is not root)
        names = {span.name for span in collector.spans}
        assert names >= {"admit", "open session", "dial", "websocket upgrade", "session created", "session", "turn"}
        [turn] = [span for span in collector.spans if span.name == "turn"]
        assert attributes(turn)["gen_ai.usage.output_tokens"] > 0
        assert {"response_created", "first_model_audio", "response_done"} <= {event.name for event in turn.events}
        for span in collector.spans:
            assert 10**18 < span.start_time_unix_nano <= span.end_time_unix_nano
        [resource, *_] = collector.resources
        assert attributes(resource)["service.name"] == "voice"
        assert collector.headers[0]["content-type"] == "application/x-protobuf"
        assert collector.headers[0]["authorization"] == "Bearer of-the-collector"
        log = stack.log("gateway").read_text()
        assert "of-the-collector" not in log
        ended = next(json.loads(line) for line in log.splitlines() if '"call ended"' in line)
        assert ended.get("fields", ended)["trace_id"] == TRACE


@pytest.mark.parametrize("status", [200, 503])
def test_the_end_of_the_process_waits_for_a_collector_but_not_for_ever(status):
    with Collector() as collector:
        collector.status = status
        later = traces(collector).replace("50ms", "10m")
        with Stack(more=later) as stack:
            call(stack)
            assert not collector.headers
            process = stack._processes[-1]._process
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=30) == 0
        assert collector.headers and bool(collector.spans) == (status == 200)


def test_metrics_are_openmetrics_for_who_asks():
    with Collector() as collector, Stack(more=traces(collector)) as stack:
        call(stack)
        asked = urllib.request.Request(f"http://{stack.admin}/metrics")
        with urllib.request.urlopen(asked, timeout=20) as answer:
            plain = answer.read().decode()
            assert answer.headers["content-type"].startswith("text/plain")
        asked.add_header("accept", "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5")
        with urllib.request.urlopen(asked, timeout=20) as answer:
            text = answer.read().decode()
            assert answer.headers["content-type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
        # The parser is strict: names, units, order, numbers, the end.
        families = {family.name: family for family in text_string_to_metric_families(text)}
        assert families["trunkline_calls"].type == "counter"
        assert families["trunkline_turn_latency_seconds"].unit == "seconds"
        names = {line.split()[2] for line in plain.splitlines() if line.startswith("# TYPE")}
        assert {name.removesuffix("_total") for name in names} == set(families)
