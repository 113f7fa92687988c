-- Who may still commit rows below a bound. Each listing is taken once, after the bound; later writers
-- are not waited for. A transaction is known by its virtual transaction id alone: PREPARE TRANSACTION
-- takes its pid away and keeps that id.

-- name: writers
-- Transactions that write, or have drawn an id for, any of some tables. Beside the tables themselves:
-- their partitions (an insert straight into one does not lock the parent), the parents that route into
-- them, and the sequences of all these (nextval may run long before the insert).
with recursive below (oid) as (
  select unnest(%(roots)s::oid[])
  union
  select i.inhrelid from pg_inherits i join below b on i.inhparent = b.oid
),
above (oid) as (
  select unnest(%(roots)s::oid[])
  union
  select i.inhparent from pg_inherits i join above a on i.inhrelid = a.oid
),
related (oid) as (
  select oid from below
  union
  select oid from above
),
watched (oid) as (
  select oid from related
  union
  -- sequences owned by a column, by serial or identity
  select d.objid
    from pg_depend d
    join related r on d.refobjid = r.oid
   where d.classid = 'pg_class'::regclass
     and d.refclassid = 'pg_class'::regclass
     and d.deptype in ('a', 'i')
     and exists (select from pg_class c where c.oid = d.objid and c.relkind = 'S')
  union
  -- sequences that a default names without owning them
  select d.refobjid
    from pg_attrdef f
    join related r on f.adrelid = r.oid
    join pg_depend d on d.classid = 'pg_attrdef'::regclass
                    and d.objid = f.oid
                    and d.refclassid = 'pg_class'::regclass
    join pg_class c on c.oid = d.refobjid and c.relkind = 'S'
)
select distinct l.virtualtransaction
  from pg_locks l
  join watched w on l.relation = w.oid
 where l.locktype = 'relation'
   and l.granted
   and l.mode in ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
   and l.database = (select oid from pg_database where datname = current_database())
   -- not <>, which would drop prepared transactions: their pid is null
   and l.pid is distinct from pg_backend_pid()

-- name: transactions
-- Every transaction of this database, prepared ones too. A vacuum writes no rows, runs in no
-- transaction block and may take hours: it is left out. An idle connection holds no virtual
-- transaction, so this process's other connections are waited for only while they work.
select distinct l.virtualtransaction
  from pg_locks l
  left join pg_stat_activity a on a.pid = l.pid
  left join pg_prepared_xacts p
    on l.pid is null and l.locktype = 'transactionid' and l.transactionid = p.transaction
 where l.granted
   and l.pid is distinct from pg_backend_pid()
   and ((l.locktype = 'virtualxid'
         and l.mode = 'ExclusiveLock'
         and coalesce(a.datname, current_database()) = current_database()
         and l.pid not in (select v.pid from pg_stat_progress_vacuum v))
        or p.database = current_database())

-- name: alive
-- Which of some transactions have not ended. Prepared ones keep their locks under the same id.
select distinct l.virtualtransaction
  from pg_locks l
 where l.virtualtransaction = any(%(transactions)s)

-- name: blockers
-- What can be said about transactions, oldest first: pid, role, application, age in seconds, gid.
select l.virtualtransaction,
       max(l.pid),
       max(a.usename::text),
       max(a.application_name),
       max(extract(epoch from clock_timestamp() - coalesce(a.xact_start, p.prepared)))::int8,
       max(p.gid)
  from pg_locks l
  left join pg_stat_activity a on a.pid = l.pid
  left join pg_prepared_xacts p
    on l.pid is null and l.locktype = 'transactionid' and l.transactionid = p.transaction
 where l.virtualtransaction = any(%(transactions)s)
 group by l.virtualtransaction
 order by 5 desc nulls last

-- name: bound
-- The clock a moment ago: a backend sets now() an instant before its transaction can be seen.
select (clock_timestamp() - make_interval(secs => %(margin)s))::text

-- name: local_bound
-- The latest local time a writer can mean, when it writes UTC or the database's own time zone.
select greatest(clock_timestamp() at time zone 'UTC', clock_timestamp() at time zone %(zone)s)::text

-- name: clock_is_behind
-- Whether a clock reading lies before a time that rows were already read up to.
select %(clock)s::timestamptz < %(after)s::timestamptz

-- name: local_clock_is_behind
select %(clock)s::timestamp < %(after)s::timestamp

-- name: oldest_running
-- The transaction before which all have ended; 64 bits wide, so it only grows. On a server that was
-- restored it is smaller than before.
select pg_snapshot_xmin(pg_current_snapshot())::text

-- name: next_transaction
select pg_snapshot_xmax(pg_current_snapshot())::text::int8

-- name: sequence_position
-- Whether this role may know where a sequence is, and its last value; null when none was drawn yet.
select has_sequence_privilege(%(sequence)s::oid, 'select, usage'),
       case when has_sequence_privilege(%(sequence)s::oid, 'select, usage')
            then pg_sequence_last_value(%(sequence)s::oid::regclass) end

-- name: written_position
-- Where the primary's log ends, and how many bytes of that a standby need not have replayed: the next
-- record may go behind the header of a page that is not begun, and a header alone is never replayed.
select w.lsn::text, case when w.into_page in (24, 40) then w.into_page else 0 end
  from (select lsn, mod(pg_wal_lsn_diff(lsn, '0/0'), current_setting('wal_block_size')::numeric)::int4
          from pg_current_wal_insert_lsn() as lsn) as w (lsn, into_page)

-- name: has_replayed
-- Whether this standby shows everything up to a position of the primary's log.
select coalesce(pg_wal_lsn_diff(pg_last_wal_replay_lsn(), %(position)s::pg_lsn) >= -%(header)s, false)
