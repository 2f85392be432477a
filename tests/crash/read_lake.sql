-- The two logs as the lake worker left them in Parquet.
create table exposure as select "partition" p, "offset" o, append_ms, experiment, routing_key, unit, unit_at,
    received_at, "first" is_first, excluded, arm, answered_by, weights_version, propensity
  from read_parquet($exposures, hive_partitioning = false);
create table event as select "partition" p, "offset" o, append_ms, event_id, type, received_at, experiment, unit,
    unit_at, arm, weights_version, coalesce(user_id, session_id) who
  from read_parquet($events, hive_partitioning = false);
