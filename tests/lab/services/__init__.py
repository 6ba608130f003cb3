"""The shop's services: ordinary code without a line of tracing; `opentelemetry-instrument` adds it from outside."""
