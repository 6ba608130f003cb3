// Sends requests of two spans each through an official exporter.
// node send.js http|proto|grpc SERVICE COUNT BATCH: endpoint, compression and timeouts come from OTEL_* variables.
// Everything the SDK logs goes to stderr; stdout gets {"exported": spans, "failed": spans, "reasons": why}.
"use strict";

const { context, diag, DiagLogLevel, SpanKind, trace } = require("@opentelemetry/api");
const { ExportResultCode } = require("@opentelemetry/core");
const { resourceFromAttributes } = require("@opentelemetry/resources");
const { BasicTracerProvider, BatchSpanProcessor } = require("@opentelemetry/sdk-trace-base");

const [kind, service, count, batch] = process.argv.slice(2);
const { OTLPTraceExporter } = require(`@opentelemetry/exporter-trace-otlp-${kind}`);

const log = (level) => (...words) => console.error(level, ...words);
const silent = () => {};
diag.setLogger(
  { error: log("ERROR"), warn: log("WARN"), info: silent, debug: silent, verbose: silent },
  DiagLogLevel.WARN,
);

// Counts what the exporter says of each batch; the batch processor itself only logs it.
const told = { exported: 0, failed: 0, reasons: [] };
const exporter = new OTLPTraceExporter();
const counted = {
  export(spans, done) {
    exporter.export(spans, (result) => {
      if (result.code === ExportResultCode.SUCCESS) {
        told.exported += spans.length;
      } else {
        told.failed += spans.length;
        told.reasons.push({ message: String(result.error), code: result.error && result.error.code });
      }
      done(result);
    });
  },
  forceFlush: () => exporter.forceFlush(),
  shutdown: () => exporter.shutdown(),
};

async function main() {
  const provider = new BasicTracerProvider({
    resource: resourceFromAttributes({ "service.name": service }),
    spanProcessors: [
      new BatchSpanProcessor(counted, { maxExportBatchSize: Number(batch), maxQueueSize: 100_000 }),
    ],
  });
  const tracer = provider.getTracer("sender");
  for (let number = 0; number < Number(count); number++) {
    const request = tracer.startSpan("GET /orders", {
      kind: SpanKind.SERVER,
      attributes: { "http.route": "/orders" },
    });
    const inside = trace.setSpan(context.active(), request);
    const query = tracer.startSpan(
      "SELECT",
      { kind: SpanKind.CLIENT, attributes: { number, ratio: 0.5, flag: true, "größe": "ü", list: ["a", "b"] } },
      inside,
    );
    query.end();
    request.end();
  }
  await provider.forceFlush().catch(() => {});
  await provider.shutdown();
  console.log(JSON.stringify(told));
}

main();
