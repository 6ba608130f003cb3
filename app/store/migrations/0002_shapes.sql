-- What many spans have in common goes into a row of its own: storing a span then costs a third.
-- Shapes get new ids in every process, so that equal ones may stand here more than once; none is ever changed.

create table all_shapes (
    shape_id ubigint not null,
    kind utinyint not null,
    parent_origin varchar not null,
    service varchar not null,
    instance varchar not null,
    host varchar not null,
    service_version varchar not null,
    scope_name varchar not null,
    name varchar not null,
    endpoint varchar not null,
    operation_class varchar not null,
    operation varchar not null,
    peer varchar not null,
    status utinyint not null,
    outcome varchar not null,
    error_type varchar not null,
    http_status usmallint not null,
    attempt uinteger not null,
    request_class varchar not null,
    resource_id ubigint not null,
    scope_id ubigint not null,
    flags uinteger not null,
    dropped_attributes_count uinteger not null,
    dropped_events_count uinteger not null,
    dropped_links_count uinteger not null
);

insert into all_shapes by name
select row_number() over () as shape_id, *
from (
    select distinct
        kind, parent_origin, service, instance, host, service_version, scope_name, name, endpoint, operation_class,
        operation, peer, status, outcome, error_type, http_status, attempt, request_class, resource_id, scope_id, flags,
        dropped_attributes_count, dropped_events_count, dropped_links_count
    from all_spans
) as shapes;

-- zstd: a third of the bytes of what DuckDB would choose, at half of its time.
create table shaped_spans (
    dataset_id integer not null,
    trace_id uuid not null,
    span_id ubigint not null,
    parent_span_id ubigint not null,
    shape_id ubigint not null,
    start_ns bigint not null,
    duration_ns bigint not null,
    ready_ns bigint not null,
    message_id varchar not null,
    target_hash ubigint not null,
    span_hash ubigint not null,
    status_message varchar not null,
    trace_state varchar not null,
    notes varchar not null,
    attributes varchar not null using compression zstd
);

insert into shaped_spans by name
select
    dataset_id, trace_id, span_id, parent_span_id, shape_id, start_ns, duration_ns, ready_ns, message_id, target_hash,
    span_hash, status_message, trace_state, notes, attributes
from all_spans join all_shapes using (
    kind, parent_origin, service, instance, host, service_version, scope_name, name, endpoint, operation_class,
    operation, peer, status, outcome, error_type, http_status, attempt, request_class, resource_id, scope_id, flags,
    dropped_attributes_count, dropped_events_count, dropped_links_count
);

drop table all_spans;

alter table shaped_spans rename to all_spans;
