-- What the sums must be once everything has matured, from the logs alone. A: attribution window, L: allowed
-- lateness, both in ms. Written from the rule as it is documented, not from the code that counts.

-- A unit is an exposure that is first, not excluded, and appended within L of its received_at; it is known by
-- (experiment, unit, received_at). Of several copies the last one in the log counts.
create table candidate as select *, abs(append_ms - received_at) > $lateness late from exposure
  where is_first and excluded is null;
create table unit as select * from candidate where not late
  qualify row_number() over (partition by experiment, unit, received_at order by o desc) = 1;

-- An outcome is a click with attribution. Before its unit, or appended more than L before it: unmatched. More
-- than A after it, or appended more than A + L after it: late. Otherwise live: if there is such a unit, the
-- last copy of an event id counts and the others are duplicates; without a unit it is unmatched.
create table outcome as select event.*, unit.unit is not null known,
    event.received_at - event.unit_at age, event.append_ms - event.unit_at append_age
  from event left join unit on unit.experiment = event.experiment and unit.unit = event.unit
    and unit.received_at = event.unit_at and unit.p = event.p
  where event.type = 'click' and event.experiment is not null;
create table fate as select *, case
    when age < 0 or append_age < -$lateness then 'unmatched'
    when age > $window or append_age > $window + $lateness then 'late'
    when not known then 'unmatched'
    else 'live' end fate from outcome;
create table judged as select *, case when fate <> 'live' then fate
    when row_number() over (partition by experiment, unit, unit_at, event_id, fate order by o desc) = 1
    then 'counted' else 'duplicate' end category from fate;
create table result as select unit.*, exists (select 1 from judged where category = 'counted'
    and judged.experiment = unit.experiment and judged.unit = unit.unit
    and judged.unit_at = unit.received_at) success from unit;
create table credited as select * from judged where category = 'counted'
  qualify row_number() over (partition by experiment, unit, unit_at order by o desc) = 1;
create table copy as select * from candidate where not late
  qualify row_number() over (partition by experiment, unit, received_at order by o desc) > 1;

create table sums as
select p, experiment, weights_version || '|' || arm || '|' || (received_at // 3600000) || '|n' field, count(*) total
  from result group by all
union all select p, experiment, weights_version || '|' || arm || '|' || (received_at // 3600000) || '|s', count(*)
  from result where success group by all
union all select p, experiment, weights_version || '|' || arm || '|' || (received_at // 3600000) || '|f', count(*)
  from result where answered_by <> arm group by all
-- The other side of each identity: units by what their last counted event says of itself, and first exposures.
union all select p, experiment, weights_version || '|' || arm || '|' || (unit_at // 3600000) || '|c', count(*)
  from credited group by all
union all select p, experiment, 'acct|' || arm || '|exposed', count(*) from candidate group by all
union all select p, experiment, 'acct|' || arm || '|duplicate_exposures', count(*) from copy group by all
union all select p, experiment, 'acct|' || arm || '|acknowledged', count(*) from judged group by all
union all select p, experiment, 'acct|' || arm || '|' || category, count(*) from judged group by all
union all select p, experiment, 'acct|' || arm || '|late_exposures', count(*) from candidate where late group by all;
