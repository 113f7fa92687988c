-- What the bytes of a type are in binary COPY, for telling two databases' types apart.

-- name: structures
-- One line per column: its type's name, modifier and receive function, and the same of every type within
-- it. A domain has the bytes of the type below it. Arrays and composites carry the oid of the types within
-- them, so those of a type that a database has made itself are part of the line: another database's differ.
with recursive part (root, path, oid, modifier, label, made) as (
  select column_type.place, array[]::int4[], column_type.oid, column_type.modifier, '', ''
    from unnest(%(oids)s::oid[], %(modifiers)s::int4[]) with ordinality
         as column_type (oid, modifier, place)
  union all
  select part.root, part.path || inner_type.step, inner_type.oid, inner_type.modifier,
         inner_type.label, inner_type.made
    from part
    join pg_type outer_type on outer_type.oid = part.oid
   cross join lateral (
         select array[]::int4[], outer_type.typbasetype, outer_type.typtypmod, part.label, part.made
          where outer_type.typtype = 'd'
         union all
         select array[0], outer_type.typelem, -1, '',
                case when outer_type.typelem::int8 >= 16384 then '#' || outer_type.typelem else '' end
          where outer_type.typcategory = 'A' and outer_type.typelem <> 0
         union all
         select array[0], r.rngsubtype, -1, '', '' from pg_range r where r.rngtypid = outer_type.oid
         union all
         select array[0], r.rngtypid, -1, '', ''
           from pg_range r
          where outer_type.typtype = 'm' and r.rngmultitypid = outer_type.oid
         union all
         select array[a.attnum::int4], a.atttypid, a.atttypmod, a.attname::text collate "default" || ' ',
                case when a.atttypid::int8 >= 16384 then '#' || a.atttypid else '' end
           from pg_attribute a
          where outer_type.typtype = 'c'
            and a.attrelid = outer_type.typrelid
            and a.attnum > 0
            and not a.attisdropped
         ) inner_type (step, oid, modifier, label, made)
)
select string_agg(
         cardinality(part.path) || ' ' || part.label || t.typname || ' ' || part.modifier || ' '
           || coalesce(receive.proname, '-') || part.made,
         E'\n' order by part.path)
  from part
  join pg_type t on t.oid = part.oid and t.typtype <> 'd'
  left join pg_proc receive on receive.oid = t.typreceive::oid
 group by part.root
 order by part.root
