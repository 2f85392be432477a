-- The two logs as a plain consumer found them: the fields of design.md section 5, out of the raw JSON.
create table raw as select topic, p, o, append_ms, value::json j from read_parquet([$exposures, $events]);
create table exposure as select p, o, append_ms, j->>'experiment' experiment, j->>'routing_key' routing_key,
    j->>'unit' unit, (j->>'unit_at')::bigint unit_at, (j->>'received_at')::bigint received_at,
    (j->>'first')::boolean is_first, j->>'excluded' excluded, j->>'arm' arm, j->>'answered_by' answered_by,
    (j->>'weights_version')::int weights_version, (j->>'propensity')::double propensity
  from raw where topic = 'exposures';
create table event as select p, o, append_ms, j->>'event_id' event_id, j->>'type' type,
    (j->>'received_at')::bigint received_at, j->'attribution'->>'experiment' experiment,
    j->'attribution'->>'unit' unit, (j->'attribution'->>'unit_at')::bigint unit_at,
    j->'attribution'->>'arm' arm,
    (j->'attribution'->>'weights_version')::int weights_version, coalesce(j->>'user_id', j->>'session_id') who
  from raw where topic = 'events';
