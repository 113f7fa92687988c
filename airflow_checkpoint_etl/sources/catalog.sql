-- What preflight and settling must know about the source, from the catalogs that any role may read.

-- name: relation
-- The relation a name means, by PostgreSQL's own rules for names and search_path.
select c.oid,
       n.nspname::text,
       c.relname::text,
       c.relkind::text,
       c.relkind = 'r' and exists (select from pg_inherits i where i.inhparent = c.oid),
       row_security_active(c.oid)
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
 where c.oid = to_regclass(%(name)s)

-- name: similar
-- Relations whose names differ from a missing one by case, quoting or schema only, and whether this
-- role may look into their schema.
select format('%%I.%%I', n.nspname, c.relname), has_schema_privilege(n.oid, 'usage')
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
 where c.relkind in ('r', 'p', 'v', 'm', 'f')
   and lower(%(name)s) in (lower(c.relname), lower(n.nspname || '.' || c.relname))
 order by 1
 limit 3

-- name: attributes
-- The columns of a relation, in order, and whether this role may read each.
select a.attname::text, has_column_privilege(a.attrelid, a.attnum, 'select')
  from pg_attribute a
 where a.attrelid = %(relation)s::oid and a.attnum > 0 and not a.attisdropped
 order by a.attnum

-- name: column
-- A column's name by its number.
select a.attname::text
  from pg_attribute a
 where a.attrelid = %(relation)s::oid and a.attnum = %(number)s

-- name: types
-- Result column types as format_type spells them; p marks a pseudo-type, which no table can hold.
select format_type(t.oid, t.modifier), y.typtype::text
  from unnest(%(oids)s::oid[], %(modifiers)s::int4[]) with ordinality as t (oid, modifier, place)
  join pg_type y on y.oid = t.oid
 order by t.place

-- name: family
-- A relation with all its descendants, which is what a SELECT from it reads, and with its ancestors,
-- through which rows may be inserted.
with recursive below (oid) as (
  select unnest(%(roots)s::oid[])
  union
  select i.inhrelid from pg_inherits i join below b on i.inhparent = b.oid
),
above (oid) as (
  select unnest(%(roots)s::oid[])
  union
  select i.inhparent from pg_inherits i join above a on i.inhrelid = a.oid
)
select c.oid, c.relkind::text, c.oid in (select oid from below)
  from pg_class c
 where c.oid in (select oid from below union select oid from above)

-- name: nullable
-- Which of some columns may hold NULL. From version 18 a NOT NULL constraint can be NOT VALID.
select distinct a.attname::text
  from pg_attribute a
 where a.attrelid = any(%(family)s::oid[])
   and a.attname = any(%(columns)s)
   and not a.attisdropped
   and (not a.attnotnull
        or exists (select from pg_constraint k
                    where k.conrelid = a.attrelid
                      and k.contype = 'n'
                      and k.conkey = array[a.attnum]
                      and not k.convalidated))

-- name: indexes
-- The btree indexes over whole columns and all rows: whether unique at once, and per key column its
-- name, its direction flags, whether it sorts as the column does, and whether its equality is at least
-- as coarse as the column's.
select i.indisunique and i.indimmediate,
       array_agg(a.attname::text order by k),
       array_agg(i.indoption[k]::int4 order by k),
       array_agg(o.opcdefault and i.indcollation[k] = a.attcollation order by k),
       bool_and(i.indcollation[k] = a.attcollation or coalesce(c.collisdeterministic, true))
  from pg_index i
  join pg_class x on x.oid = i.indexrelid
  join pg_am m on m.oid = x.relam and m.amname = 'btree'
 cross join lateral generate_series(0, i.indnkeyatts - 1) k
  join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[k]
  join pg_opclass o on o.oid = i.indclass[k]
  left join pg_collation c on c.oid = a.attcollation
 where i.indrelid = %(relation)s::oid
   and i.indisvalid
   and i.indislive
   and i.indpred is null
   and i.indexprs is null
 group by i.indexrelid, i.indisunique, i.indimmediate

-- name: sequences
-- Where a column's values come from, in every member of the family: its default, and the sequence of
-- its identity or default with what decides whether that sequence's order is the order of drawing.
select a.attrelid::regclass::text,
       a.attidentity <> '',
       pg_get_expr(d.adbin, d.adrelid),
       s.seqrelid,
       s.seqrelid::regclass::text,
       s.seqincrement,
       s.seqcache,
       s.seqcycle
  from pg_attribute a
  left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
  left join lateral (
    select p.objid as oid
      from pg_depend p
     where p.classid = 'pg_class'::regclass
       and p.refclassid = 'pg_class'::regclass
       and p.refobjid = a.attrelid
       and p.refobjsubid = a.attnum
       and p.deptype = 'i'
    union
    select p.refobjid
      from pg_depend p
     where p.classid = 'pg_attrdef'::regclass
       and p.objid = d.oid
       and p.refclassid = 'pg_class'::regclass
  ) used on true
  left join pg_sequence s on s.seqrelid = used.oid
 where a.attrelid = any(%(family)s::oid[])
   and a.attname = %(column)s
   and not a.attisdropped

-- name: view_tables
-- The relations behind a view, through views of views.
with recursive used (oid) as (
  select %(relation)s::oid
  union
  select d.refobjid
    from used u
    join pg_class c on c.oid = u.oid and c.relkind = 'v'
    join pg_rewrite r on r.ev_class = u.oid
    join pg_depend d on d.classid = 'pg_rewrite'::regclass
                    and d.objid = r.oid
                    and d.refclassid = 'pg_class'::regclass
                    and d.refobjid <> u.oid
)
select c.oid, c.relkind::text
  from used u
  join pg_class c on c.oid = u.oid
 where c.relkind in ('r', 'p', 'f', 'm')

-- name: subscribed
-- Whether a logical subscription writes one of these tables.
select exists (select from pg_subscription_rel s where s.srrelid = any(%(family)s::oid[]))

-- name: recovering
-- Whether the server is a standby.
select pg_is_in_recovery()

-- name: database
select current_database()::text

-- name: system_identifier
-- Which cluster this is; a physical copy keeps the number.
select system_identifier::text from pg_control_system()

-- name: timeline
-- The timeline being written, which a promotion changes at once (the control file lags behind it).
select ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int8::text

-- name: standby_timeline
select timeline_id::text from pg_control_checkpoint()
