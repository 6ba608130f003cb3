-- No primary key, unique constraint or index: they cost write speed and are where DuckDB's replay bugs were.
-- What they would promise is kept by the one writer (see app/store/duckdb.py).

create table datasets (
    dataset_id integer not null,
    name varchar not null,
    kind varchar not null,
    source varchar not null,
    format varchar not null,
    created_ns bigint not null,
    span_count bigint not null,
    trace_count bigint not null,
    first_start_ns bigint not null,
    last_start_ns bigint not null,
    tally varchar not null
);

-- Ids are never used twice, so that an old link cannot show another dataset.
create sequence dataset_ids start 1;

insert into datasets
values (
    0, 'live', 'live', '', 'otlp', epoch_ns(now()::timestamp), 0, 0, 0, 0,
    '{"rejected": [], "unreadable": [], "warnings": [], "senders": []}'
);

create table all_spans (
    dataset_id integer not null,
    trace_id uuid not null,
    span_id ubigint not null,
    parent_span_id ubigint not null,
    parent_origin varchar not null,
    kind utinyint not null,
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
    start_ns bigint not null,
    duration_ns bigint not null,
    status utinyint not null,
    status_message varchar not null,
    outcome varchar not null,
    error_type varchar not null,
    http_status usmallint not null,
    attempt uinteger not null,
    ready_ns bigint not null,
    message_id varchar not null,
    target_hash ubigint not null,
    request_class varchar not null,
    span_hash ubigint not null,
    resource_id ubigint not null,
    scope_id ubigint not null,
    trace_state varchar not null,
    flags uinteger not null,
    attributes varchar not null,
    dropped_attributes_count uinteger not null,
    dropped_events_count uinteger not null,
    dropped_links_count uinteger not null,
    notes varchar not null
);

create table all_events (
    dataset_id integer not null,
    trace_id uuid not null,
    span_id ubigint not null,
    span_hash ubigint not null,
    position uinteger not null,
    time_ns bigint not null,
    name varchar not null,
    attributes varchar not null,
    dropped_attributes_count uinteger not null
);

create table all_links (
    dataset_id integer not null,
    trace_id uuid not null,
    span_id ubigint not null,
    span_hash ubigint not null,
    position uinteger not null,
    linked_trace_id uuid not null,
    linked_span_id ubigint not null,
    trace_state varchar not null,
    flags uinteger not null,
    attributes varchar not null,
    dropped_attributes_count uinteger not null
);

-- Resources and scopes repeat in every batch and dataset: one row each, under the hash of their content.
create table all_resources (
    resource_id ubigint not null,
    service varchar not null,
    attributes varchar not null,
    dropped_attributes_count uinteger not null,
    schema_url varchar not null
);

create table all_scopes (
    scope_id ubigint not null,
    name varchar not null,
    version varchar not null,
    attributes varchar not null,
    dropped_attributes_count uinteger not null,
    schema_url varchar not null
);
