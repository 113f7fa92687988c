-- How both connections to the source are set, so that values read the same over either.

-- name: settings
-- row_security off makes PostgreSQL raise where policies would silently hide rows. The rest fixes how
-- values are written as text. Returns when the server started, to tell two servers apart.
select set_config('client_encoding', 'UTF8', false),
       set_config('default_transaction_isolation', 'read committed', false),
       set_config('row_security', 'off', false),
       set_config('timezone', 'UTC', false),
       set_config('datestyle', 'ISO, YMD', false),
       set_config('intervalstyle', 'iso_8601', false),
       set_config('extra_float_digits', '3', false),
       set_config('bytea_output', 'hex', false),
       set_config('application_name', 'checkpoint_etl source', false),
       -- Without fresh statistics the planner may sort everything that is left for every chunk, though
       -- an index has the order. A sort stays possible where nothing else is (allow_sort).
       set_config('enable_sort', 'off', false),
       pg_postmaster_start_time()::text

-- name: inherited
-- What the connection came with: the time zone that local timestamps are written in by default, and
-- the role and search_path that a connection factory may have set after connecting.
select current_setting('timezone'), current_setting('role'), current_setting('search_path')
