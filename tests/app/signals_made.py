"""Requests of metrics and logs for tests."""

from __future__ import annotations

import time

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest


def metrics_of(count: int) -> ExportMetricsServiceRequest:
    """One gauge for every two of so many points."""
    request = ExportMetricsServiceRequest()
    resource = request.resource_metrics.add()
    resource.resource.attributes.add(key="service.name").value.string_value = "shop"
    metrics = resource.scope_metrics.add().metrics
    for number in range(count):
        if not number % 2:
            metric = metrics.add(name=f"queue.depth.{number}", unit="1")
        metric.gauge.data_points.add(time_unix_nano=time.time_ns(), as_int=number)
    return request


def logs_of(count: int) -> ExportLogsServiceRequest:
    """So many records in one scope."""
    request = ExportLogsServiceRequest()
    resource = request.resource_logs.add()
    resource.resource.attributes.add(key="service.name").value.string_value = "shop"
    records = resource.scope_logs.add().log_records
    for number in range(count):
        record = records.add(time_unix_nano=time.time_ns(), severity_number=9, severity_text="INFO")
        record.body.string_value = f"order {number} paid"
    return request
