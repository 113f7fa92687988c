-- What a load must know about its target table, from catalogs that any role may read.

-- name: relation
-- The relation a name means, by PostgreSQL's own rules for names and search_path, and what the
-- connection's role may do with it.
select c.oid,
       n.nspname::text,
       c.relname::text,
       c.relkind::text,
       row_security_active(c.oid),
       has_table_privilege(c.oid, 'insert'),
       has_table_privilege(c.oid, 'select'),
       has_table_privilege(c.oid, 'update'),
       has_database_privilege(current_database(), 'temporary'),
       exists (select
                 from pg_class member
                where (member.oid = c.oid
                       or member.oid in (select relid from pg_partition_tree(c.oid)))
                  and member.relpersistence = 'u'),
       exists (select
                 from pg_partition_tree(c.oid) part
                 join pg_class member on member.oid = part.relid
                where member.relkind = 'f')
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
 where c.oid = to_regclass(%(name)s)

-- name: columns
-- A relation's columns, in order, with the types below any domains.
select a.attname::text,
       format_type(a.atttypid, a.atttypmod),
       format_type(base.oid, base.typmod),
       format_type(base.oid, -1),
       type.typtype = 'e',
       coalesce(element.typtype, type.typtype) in ('c', 'd')
         or (coalesce(element.typtype, type.typtype) in ('r', 'm')
             and coalesce(element.typnamespace, type.typnamespace) <> 'pg_catalog'::regnamespace),
       (a.attnotnull or declared.typnotnull)
         and not (a.atthasdef or a.attidentity <> '' or declared.typdefault is not null),
       a.attgenerated <> '' or a.attidentity = 'a',
       case when a.attcollation <> declared.typcollation
            then (select format('%%I.%%I', cn.nspname, co.collname)
                    from pg_collation co
                    join pg_namespace cn on cn.oid = co.collnamespace
                   where co.oid = a.attcollation)
       end
  from pg_attribute a
  join pg_type declared on declared.oid = a.atttypid
 cross join lateral (
       with recursive below (oid, typmod, depth) as (
         select a.atttypid, a.atttypmod, 0
         union all
         select t.typbasetype, t.typtypmod, b.depth + 1
           from below b
           join pg_type t on t.oid = b.oid and t.typtype = 'd'
       )
       select below.oid, below.typmod from below order by depth desc limit 1
       ) base
  join pg_type type on type.oid = base.oid
  left join pg_type element on element.oid = type.typelem and type.typcategory = 'A'
 where a.attrelid = to_regclass(%(name)s)
   and a.attnum > 0
   and not a.attisdropped
 order by a.attnum

-- name: unique_keys
-- The column sets that a unique index keeps unique at once, for every row.
select array_agg(a.attname::text order by k)
  from pg_index i
 cross join lateral generate_series(0, i.indnkeyatts - 1) k
  join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[k]
 where i.indrelid = to_regclass(%(name)s)
   and i.indisunique
   and i.indimmediate
   and i.indisvalid
   and i.indisready
   and i.indpred is null
   and i.indexprs is null
 group by i.indexrelid

-- name: place
-- Where a table that does not exist yet would be created: its name's parts, the schema (the first of
-- the search path when the name has none), and what the role may do there.
select parts.name,
       parts.schema,
       n.oid is not null,
       coalesce(has_schema_privilege(n.oid, 'create'), false),
       has_database_privilege(current_database(), 'temporary')
  from (select name,
               case when cardinality(name) = 1 then current_schema()::text else name[1] end as schema
          from parse_ident(%(name)s) as name) parts
  left join pg_namespace n on n.nspname = parts.schema

-- name: role
-- Who grants have to be made to, and where.
select current_user::text, current_database()::text

-- name: unknown_types
-- The types among these that this database does not have.
select t.name
  from unnest(%(types)s::text[]) with ordinality as t (name, place)
 where to_regtype(t.name) is null
 order by t.place

-- name: creation_lock
-- Two tasks may find the table missing at the same time; CREATE TABLE IF NOT EXISTS alone can fail.
select pg_advisory_xact_lock(hashtextextended('checkpoint_etl target ' || %(name)s, 0))
