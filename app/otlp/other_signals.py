"""OTLP's metrics and logs, read only as far as it takes to count them.

As with traces, texts are bytes here, so that a broken one does not cost the request, and values stay unread, so that
none is nested too deep. Wire format and field numbers are those of opentelemetry-proto.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError as ProtobufError
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2
from opentelemetry.proto.common.v1 import common_pb2
from opentelemetry.proto.logs.v1 import logs_pb2
from opentelemetry.proto.metrics.v1 import metrics_pb2
from opentelemetry.proto.resource.v1 import resource_pb2

from app.otlp.errors import DecodeError
from app.otlp.json_records import read_json

OtherSignal = Literal["metrics", "logs"]

_FILES = (common_pb2, resource_pb2, metrics_pb2, logs_pb2, metrics_service_pb2, logs_service_pb2)
_VALUE = f".{common_pb2.AnyValue.DESCRIPTOR.full_name}"
_KINDS = ("gauge", "sum", "histogram", "exponentialHistogram", "summary")


def item_count(signal: OtherSignal, body: bytes, media: Literal["protobuf", "json"]) -> int:
    """The data points or log records in an export request. Raises DecodeError where the bytes are none."""
    if media == "json":
        return _JSON_COUNTS[signal](read_json(body)[0])
    try:
        request = _REQUESTS[signal].FromString(body)
    except ProtobufError as error:
        raise DecodeError(f"not readable as an OTLP {signal} request: {error}") from error
    return _protobuf_points(request) if signal == "metrics" else _protobuf_records(request)


def _protobuf_points(request: Any) -> int:
    count = 0
    for resource_metrics in request.resource_metrics:
        for scope_metrics in resource_metrics.scope_metrics:
            for metric in scope_metrics.metrics:
                if (kind := metric.WhichOneof("data")) is not None:
                    count += len(getattr(metric, kind).data_points)
    return count


def _protobuf_records(request: Any) -> int:
    return sum(len(scope.log_records) for resource in request.resource_logs for scope in resource.scope_logs)


def _json_points(document: Any) -> int:
    count = 0
    for metric in _objects("metrics", document, "resourceMetrics", "scopeMetrics", "metrics"):
        for kind in _KINDS:
            if (measured := metric.get(kind)) is not None:
                if not isinstance(measured, Mapping):
                    raise DecodeError(f"not an OTLP metrics request: {kind} is not an object")
                count += len(_objects("metrics", measured, "dataPoints"))
    return count


def _json_records(document: Any) -> int:
    return len(_objects("logs", document, "resourceLogs", "scopeLogs", "logRecords"))


_JSON_COUNTS: dict[OtherSignal, Callable[[Any], int]] = {"metrics": _json_points, "logs": _json_records}


def _objects(signal: OtherSignal, holder: Any, *names: str) -> list[Mapping[str, Any]]:
    """The objects in lists of lists: those called by the last name, in those by the one before it, and so on."""
    if not isinstance(holder, Mapping):
        raise DecodeError(f"not an OTLP {signal} request: the document is not an object")
    found = [holder]
    for name in names:
        lists = [items for each in found if (items := each.get(name)) is not None]
        if not all(isinstance(items, list) and all(isinstance(item, Mapping) for item in items) for items in lists):
            raise DecodeError(f"not an OTLP {signal} request: {name} is not a list of objects")
        found = [item for items in lists for item in items]
    return found


def _messages(under: Iterable[Any]) -> Iterator[Any]:
    for message in under:
        yield message
        yield from _messages(message.nested_type)


def _requests() -> dict[OtherSignal, Any]:
    pool = descriptor_pool.DescriptorPool()
    for module in _FILES:
        file = descriptor_pb2.FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(file)
        for message in _messages(file.message_type):
            for each in message.field:
                if each.type == each.TYPE_STRING or each.type_name == _VALUE:
                    each.type = each.TYPE_BYTES
                    each.ClearField("type_name")
        pool.Add(file)

    def request(module: Any, name: str) -> Any:
        full_name = module.DESCRIPTOR.message_types_by_name[name].full_name
        return message_factory.GetMessageClass(pool.FindMessageTypeByName(full_name))

    return {
        "metrics": request(metrics_service_pb2, "ExportMetricsServiceRequest"),
        "logs": request(logs_service_pb2, "ExportLogsServiceRequest"),
    }


_REQUESTS = _requests()
