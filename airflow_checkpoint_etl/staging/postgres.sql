-- Staged files, version 1. They are immutable, and deleted once their rows are safely loaded.

-- A file by name; the "C" collation makes listing by prefix an index range.
create table checkpoint_etl.staged (
    name text collate "C" primary key,
    data bytea not null,
    size bigint generated always as (length(data)) stored,
    staged_at timestamptz not null default now()
);

-- The files are compressed already; PostgreSQL would only try in vain.
alter table checkpoint_etl.staged alter column data set storage external;
