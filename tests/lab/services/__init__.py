"""The shop's services: ordinary code without a span of its own; `opentelemetry-instrument` adds them all."""
