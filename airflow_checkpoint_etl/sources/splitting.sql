-- What a table says about how its rows lie along the cursor, without being read.

-- name: histogram
-- The bounds of the first cursor column's histogram, which hold equal numbers of rows between them; what
-- share of the rows is in its most common values instead; and what share of the rows has changed since
-- the table was analysed.
select s.histogram_bounds::text::text[],
       coalesce((select sum(frequency) from unnest(s.most_common_freqs) as f (frequency)), 0)::float8,
       (t.n_mod_since_analyze / greatest(c.reltuples, 1))::float8
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
  join pg_stats s on s.schemaname = n.nspname and s.tablename = c.relname
                 and s.attname = %(column)s and not s.inherited
  join pg_stat_all_tables t on t.relid = c.oid
 where c.oid = %(relation)s::oid
   and s.histogram_bounds is not null

-- name: changed
-- What share of a table's rows has changed since it, or its descendants, were analysed.
with recursive below (oid) as (
  select %(relation)s::oid
  union
  select i.inhrelid from pg_inherits i join below b on i.inhparent = b.oid
)
select (coalesce(sum(t.n_mod_since_analyze), 0)
        / greatest(coalesce(sum(greatest(c.reltuples, 0)), 0), 1))::float8
  from below
  join pg_class c on c.oid = below.oid
  join pg_stat_all_tables t on t.relid = c.oid

-- name: pages
-- How many pages a table and its descendants have now.
with recursive below (oid) as (
  select %(relation)s::oid
  union
  select i.inhrelid from pg_inherits i join below b on i.inhparent = b.oid
)
select coalesce(sum(pg_relation_size(oid)), 0)::int8 / current_setting('block_size')::int8
  from below
