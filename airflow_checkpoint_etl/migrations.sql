-- What every component's tables stand on. Runs under the migration lock, before a component's own
-- scripts, when checkpoint_etl.schema_version does not exist yet.

-- The schema. It is created only where it is missing, because "create schema if not exists" asks for
-- the right to create schemas even where the schema is there already.
do $$
begin
    if to_regnamespace('checkpoint_etl') is null then
        create schema checkpoint_etl;
    end if;
end
$$;

-- How far each component's tables have been migrated.
create table if not exists checkpoint_etl.schema_version (component text primary key, version integer not null, migrated_at timestamptz not null default now());
